# The README's commands. Each makes .venv first, and again when the requirements or their pins change.
PYTHON ?= python3
INSTALL = install --quiet --editable '.[test]' --constraint constraints.txt

.PHONY: demo test lint

demo: .venv/.installed
	.venv/bin/sciguide demo --out demo

test: lint
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# uv where it is there: a sixth of the time. It does not know every place where pip finds wheels, so pip has the last word.
.venv/.installed: pyproject.toml setup.py constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	if ! { command -v uv >/dev/null && uv pip $(INSTALL) --python .venv/bin/python; }; then \
		.venv/bin/python -m pip $(INSTALL); fi
	touch $@
