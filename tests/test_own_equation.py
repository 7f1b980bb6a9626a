"""The tutorial: every block of docs/own_equation.md, run in an empty folder as its reader would."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from sciguide.cli import main
from sciguide.kernels.backends import calls, reset_calls

PAGE = (Path(__file__).parents[1] / "docs" / "own_equation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty working folder that Python imports from, as it does for a script that lies there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("layer", None)


def test_every_block_runs(folder, capsys):
    printed = {}
    for language, name, text in BLOCKS:
        if name:
            Path(name).write_text(text, encoding="utf-8")
        if language == "python" and name != "layer.py":
            capsys.readouterr()
            exec(compile(text, name, "exec"), {})
            printed[name] = re.findall(r"[\d.e+-]+(?=\n)", capsys.readouterr().out)
        for line in text.splitlines() if language == "sh" else ():
            if "fit" in line:  # whoever has the model needs the file no more
                reset_calls()
            assert main(shlex.split(line)[1:]) == 0, line
            if " fit " in line:
                Path("layer.py").rename("elsewhere.txt")
                sys.modules.pop("layer")
    right, wrong = (float(value) for value in printed["make_data.py"])
    assert right < 1e-5 and 0.1 < wrong < 1
    free, guided = (float(value) for value in printed["compare.py"])
    assert free > 0.05 and guided < 0.02 * free
    computed = {backend for backend, _ in calls()}
    assert computed == {"numba"}, "fit, generate and their rewards on the compiled kernels"
