"""The benchmarks: rivals compute what kernels compute, a wrong answer is not timed, a GPU machine needs little."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sciguide.bench import cases, kernels, results, runner, timing
from sciguide.bench.cases import CASES, SMALL, Case, made_up, make_site, site_from_json, site_to_json
from sciguide.bench.kernels import OPERATIONS, Settings
from sciguide.bench.rivals import FORMS, Eager
from sciguide.bench.truth import LOOSE, TOLERANCE, Truth, WrongAnswer
from sciguide.cli import main
from sciguide.kernels.ops import Kernels

ROOT = Path(__file__).parents[1]
TINY = Settings(backend="reference", seconds=0.001, compiled=())


@pytest.fixture(scope="module")
def sites():
    return {case: make_site(case) for case in SMALL}


def arguments(case, site):
    x = made_up(case, site.program.fields, "cpu")
    v, w = cases.cotangents(case, site.program.names, x)
    return x, v, w, {"energy_and_gradient": (x,), "residual": (x,), "jvp": (x, v), "vjp": (x, w)}


@pytest.mark.parametrize("case", SMALL, ids=lambda c: f"{c.operator} {c.label}")
@pytest.mark.parametrize("form", FORMS)
def test_rivals_compute_the_same_numbers(case, form, sites):
    x, v, w, given = arguments(case, sites[case])
    truth, rival = Truth(sites[case], x, v, w), Eager(case.operator, sites[case], form, "cpu")
    for operation, inputs in given.items():
        error = truth.error(operation, getattr(rival, operation)(*inputs), rival.box)
        assert error < TOLERANCE[operation], (operation, error)


def test_made_up_fields_are_never_zero_and_cases_have_their_equations_fields(sites):
    for case, site in sites.items():
        assert set(cases.SETTINGS[case.operator].fields) == set(site.program.fields)
        x = made_up(case, site.program.fields, "cpu")
        assert x.dtype == torch.float32 and x.shape == (case.batch, len(site.program.fields), *case.shape)
        assert (x != 0).all() and x.std((0, *range(2, x.ndim))).min() > 0
    assert {c.operator for c in CASES} == {c.operator for c in SMALL} == set(cases.SETTINGS)


def test_a_site_survives_json(sites):
    for case, site in sites.items():
        again = site_from_json(json.loads(json.dumps(site_to_json(site))))
        x = made_up(case, site.program.fields, "cpu", dtype=torch.float64)
        one, two = (Kernels(s).reference.energy_and_gradient(x) for s in (site, again))
        assert again.program == site.program and torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_truth_notices_a_wrong_sample_and_nan(operation, sites):
    case = Case("darcy", 2, (16, 16))
    x, v, w, given = arguments(case, sites[case])
    truth, right = Truth(sites[case], x, v, w), Kernels(sites[case])
    out = getattr(right, operation)(*given[operation])
    for value in (1.001, torch.nan):
        wrong = [t.clone() for t in (out if isinstance(out, tuple) else (out,))]
        wrong[-1][1] *= value
        wrong = tuple(wrong) if isinstance(out, tuple) else wrong[0]
        with pytest.raises(WrongAnswer, match=operation):
            truth.require(operation, wrong, "nobody", LOOSE)


def test_what_is_wrong_is_not_timed_and_the_others_go_on(sites, monkeypatch, capsys):
    broken, fine = SMALL[0], SMALL[-1]
    gradient = Kernels.energy_and_gradient

    def wrong(self, x):
        energy, found = gradient(self, x)
        return energy, found * (1.01 if self.site is sites[broken] else 1)

    monkeypatch.setattr(Kernels, "energy_and_gradient", wrong)
    settings = Settings(backend="reference", seconds=0.001, compiled=(), operations=("energy_and_gradient",))
    records, failed = runner.run_cases([broken, fine], sites.__getitem__, settings)
    assert [r.operator for r in records] == ["poisson3"] and len(failed) == 1
    assert "energy_and_gradient by reference is off" in failed[0] and "FAILED" in capsys.readouterr().out


def test_bytes_are_counted_once_each(sites, monkeypatch):
    """With every call said to take 1 ms: F fields read and F gradients written for energy and gradient."""
    fixed = timing.Timing(1e-3, 1e-3, 1e-3)
    monkeypatch.setattr(kernels, "measure", lambda calls, *_: dict.fromkeys(calls, fixed))
    case = SMALL[0]
    found = {r.operation: r for r in kernels.run_case(case, sites[case], TINY, print)}
    field = 4 * case.cells
    moved = {"energy_and_gradient": 6 * field + 8, "residual": 4 * field, "jvp": 7 * field, "vjp": 7 * field}
    for operation, r in found.items():
        assert r.gbps == pytest.approx(moved[operation] / 1e-3 / 1e9)
        assert r.copy_gbps == pytest.approx(6 * field / 1e-3 / 1e9)
        assert r.backend == "reference" and r.compile_seconds != r.compile_seconds and r.eager in FORMS
        assert r.to_dict()["compile_seconds"] is None


def test_summary_says_whether_anything_is_slower_than_eager():
    row = kernels.Record(
        "darcy", "1x2x2", "residual", "float32", "cpu", "numba", 1.0, 1, 1, 2.0, 4.0, 3.0, 2.0, 1e-7, 32
    )
    lines = "\n".join(results.summary([row]))
    assert "slower than eager: never" in lines and "eager over fused 3.00" in lines
    assert "of a copy's bandwidth 0.50" in lines and "computed by numba on cpu" in lines
    slow = kernels.Record(**{**vars(row), "seconds": 4.0})
    assert "slower than eager: darcy 1x2x2 residual" in "\n".join(results.summary([row, slow]))


def test_calls_take_turns():
    taken = []
    calls = {name: lambda name=name: taken.append(name) for name in "ab"}
    found = timing.measure(calls, "cpu", 1e-4)
    assert set(found) == {"a", "b"} and all(t.p20 <= t.median <= t.p80 for t in found.values())
    changes = sum(x != y for x, y in zip(taken, taken[1:], strict=False))
    assert changes >= 2 * timing.ROUNDS - 1


def test_the_verb_writes_records_table_and_picture(tmp_path, capsys):
    files = {k: tmp_path / f"out.{k}" for k in ("json", "csv", "png")}
    words = ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(files["png"])]
    assert main(["bench", "kernels", "--small", "--cases", "darcy", *words]) == 0
    out = capsys.readouterr().out
    assert "slower than eager" in out and "computed by" in out
    state = json.loads(files["json"].read_text())
    assert {"command", "machine", "versions", "date", "summary"} <= set(state["header"])
    named = "operator case dtype device backend seconds seconds_p20 seconds_p80 gbps copy_gbps eager_seconds"
    assert len(state["records"]) == 2 * len(OPERATIONS)
    for record in state["records"]:
        assert set(f"{named} compile_seconds error".split()) <= set(record)
        assert 0 < record["seconds_p20"] <= record["seconds"] <= record["seconds_p80"] and record["error"] < 1e-5
    assert files["csv"].read_text().startswith("# command: sciguide bench kernels --small")
    assert files["png"].stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kernls"], "did you mean kernels"),
        (["kernels", "--cases", "dracy"], "no benchmark of 'dracy'"),
        (["kernels", "--backend", "nmba"], "did you mean numba"),
        (["kernels", "--device", "cuda:77"], "--device cuda:77"),
        (["kernels", "--seconds", "0"], "more than 0"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_sampling_compares_directions_and_backends(tmp_path, capsys):
    path = tmp_path / "sampling.csv"
    assert main(["bench", "sampling", "--small", "--csv", str(path)]) == 0
    rows = [line.split(",") for line in path.read_text().splitlines() if not line.startswith("#")]
    found = {(r[0].strip('"'), r[-12]) for r in rows[1:]}
    assert len(rows) == 13 and len(found) > 3
    assert "DPS through the network" in path.read_text() and "random weights" in path.read_text()


BLOCKED = """
import runpy, sys
from importlib.machinery import PathFinder

class Absent(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Absent
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:  # torch itself needs SymPy for forward derivatives and torch.compile; the project must not
    assert not [m for m in ("stencil", "adjoint", "tree") if "sciguide.kernels." + m in sys.modules]
"""
ABSENT = "numba scipy xarray lightning jsonargparse rich matplotlib yaml netCDF4 zarr dask cf_units cf_xarray cma"


def test_a_machine_with_torch_triton_and_numpy_runs_what_was_exported(tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "block.py").write_text(BLOCKED.format(blocked=set(ABSENT.split())))
    folder, out = tmp_path / "exported", tmp_path / "out.json"
    script = [str(ROOT / "benchmarks" / "kernels_gpu.py")]

    def child(*words: str, **more: str) -> subprocess.CompletedProcess:
        env = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, env=env)

    done = child(*script, "--export", str(folder), "--small")
    assert done.returncode == 0, done.stderr
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 5e6
    words = ["--run", str(folder), "--device", "cpu", "--out", str(out), "--seconds", "0.001", "--compile", ""]
    words += ["--cases", "darcy 2x16x16", "--operations", "energy_and_gradient,vjp"]
    done = child(str(tmp_path / "block.py"), *script, *words, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(out.read_text())
    assert {r["backend"] for r in state["records"]} == {"triton"} and len(state["records"]) == 2
    assert "triton" in state["header"]["versions"] and "xarray" not in state["header"]["versions"]
