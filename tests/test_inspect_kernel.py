"""`sciguide inspect kernel`: the source of every shipped equation, its counts, and one line for what is not there."""

import sys

import pytest

from sciguide.cli import main
from sciguide.equations import names
from sciguide.kernels import backends
from sciguide.kernels.adjoint import KINDS

OWN = """
from sciguide.equations import Equation, Field, lap

class Biharmonic(Equation):
    psi = Field()
    f = Field()
    moves, scale = ("psi",), "source"

    def residual(self):
        return lap(lap(self.psi)) - self.f

    def source(self):
        return self.f
"""


def printed(capsys, *words: str) -> list[str]:
    assert main(["inspect", "kernel", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_formula_and_counts(capsys):
    """Poisson: r reads 6 numbers with 12 operations at least; the gradient gathers r from 5 cells."""
    found = printed(capsys, "poisson", "--backend=reference", "--kind=residual")
    assert found[0] == "poisson: lap(phi) - f = 0"
    assert found[1].endswith(" operations, 6 reads of fields a cell")
    assert 9 <= int(found[1].split()[1]) <= 16
    gradient = printed(capsys, "poisson", "--backend=reference")
    assert gradient[1].startswith("gradient: ") and gradient[1].endswith("6 reads of fields and 5 of residuals a cell")
    assert "d/df = -r0__g" in gradient


@pytest.mark.parametrize("backend", [name for name in backends.NAMES if not backends.missing(name)])
@pytest.mark.parametrize("name", names())
def test_every_equation_has_a_source(name, backend, capsys):
    text = "\n".join(printed(capsys, name, f"--backend={backend}"))
    assert {"triton": "import triton", "numba": "def march(", "reference": "d/d"}[backend] in text


def test_every_operation_has_a_source(capsys):
    for kind in KINDS:
        for words in (["darcy"], ["geostrophic", "--sphere"], ["darcy_expanded", "--order=4"]):
            assert printed(capsys, *words, f"--kind={kind}", "--backend=reference")[1].startswith(f"{kind}: ")


def test_an_equation_of_one_s_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_stream.py").write_text(OWN)
    monkeypatch.setattr("sciguide.cli.parser._trusted", [])
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["inspect", "kernel", "own_stream:Biharmonic"]) == 2
    assert "own_stream may not be imported" in capsys.readouterr().err
    found = printed(capsys, "own_stream:Biharmonic", "--allow-import=own_stream", "--backend=reference")
    assert found[0] == "Biharmonic: lap(lap(psi)) - f = 0"
    sys.modules.pop("own_stream")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["darcyy"], "no equation 'darcyy'; did you mean 'darcy'?"),
        (["darcy", "--kind=gradent"], "kind: expected"),
        (["darcy", "--backend=cuda"], "backend: expected"),
        (["os:system"], "os may not be imported"),
        ([], "name"),
        (["burgers", "--order=4", "--sphere", "--typo"], "--typo"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(["inspect", "kernel", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and len(error.splitlines()) == 2


def test_a_backend_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(backends, "missing", lambda name: "No module named 'triton'")
    assert main(["inspect", "kernel", "darcy", "--backend=triton"]) == 2
    assert "--backend triton: No module named 'triton'; pip install triton" in capsys.readouterr().err
