"""Triton kernels compiled ahead of time for GPUs that are not here: nothing is spilled to memory on any of them."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sciguide.equations import names

pytest.importorskip("triton")

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
USUAL = ("open", "periodic")
SIMPLER = ("residual", "jvp", "vjp")  # than the gradient
# equation, rules, masked, kind, targets, options of compile_ahead
SHIPPED = [
    *((name, USUAL, False, "gradient", TARGETS, {}) for name in names()),
    *((name, USUAL, False, kind, ("sm_90", "gfx942"), {}) for kind in SIMPLER for name in names()),
    *((name, USUAL, False, "gradient", ("sm_80", "gfx942"), {"edge": False}) for name in names()),
]
REST = [(name, USUAL, False, kind, ("sm_80", "sm_100"), {}) for kind in SIMPLER for name in names()]
VARIANTS = [
    ("darcy", ("periodic", "periodic"), False, "hvp", TARGETS, {}),
    ("darcy", ("open", "open"), True, "gradient", TARGETS, {"update": True}),
    ("darcy", ("neumann", "dirichlet"), False, "gradient", TARGETS, {"update": True}),
    ("darcy", ("one-sided", "one-sided"), False, "gradient", TARGETS, {}),
    ("darcy", ("open", "open"), False, "gradient", ("sm_90", "gfx942"), {"dtype": "fp64"}),
    ("vorticity", ("neumann", "neumann"), False, "gradient", ("sm_90", "gfx942"), {}),
    ("burgers", ("open", "periodic"), False, "second", TARGETS, {}),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> list[dict]:
    """A record of every kernel and target of the ordinary run."""
    return compile_all(SHIPPED + VARIANTS, tmp_path_factory.mktemp("compiled"))


def compile_all(work: list, root: Path) -> list[dict]:
    """A record of every kernel and target, from two children."""
    told = {"SCIGUIDE_CACHE": str(root / "kernels"), "TRITON_CACHE_DIR": str(root / "triton"), "OMP_NUM_THREADS": "1"}
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | told

    def run(work: list) -> list[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.triton_compile_child"],
            input=json.dumps(work),
            capture_output=True,
            text=True,
            env=env,
            cwd=Path(__file__).parents[1],
            check=True,
        ).stdout.splitlines()

    with ThreadPoolExecutor(2) as pool:
        return [json.loads(line) for lines in pool.map(run, (work[::2], work[1::2])) for line in lines]


def test_all_were_compiled(compiled):
    assert len(compiled) == sum(len(w[4]) for w in SHIPPED + VARIANTS)


def test_nothing_is_spilled_to_memory(compiled):
    assert not [r for r in compiled if r["spilled"]]


def test_shipped_equations_park_no_scalar_registers(compiled):
    usual = [r for r in compiled if tuple(r["rules"]) == USUAL]
    assert usual and not [r for r in usual if r["parked"]]


def test_lanes_never_trade_places_through_shared_memory(compiled):
    """Only the sum of the energy does: 8 bytes a warp."""
    assert all(r["shared"] <= 4 * 8 for r in compiled)


def test_a_march_loads_each_column_once(compiled):
    """Darcy reads K and p in five columns, f in three, and eight numbers, whatever the size of its diamond (33)."""
    (inner,) = [r for r in compiled if r["equation"] == "darcy" and r.get("edge") is False and r["target"] == "gfx942"]
    assert inner["loads"] <= 13 + 9 and inner["stores"] == 4


@pytest.mark.slow
def test_the_rest_of_the_targets_spill_nothing_either(tmp_path):
    found = compile_all(REST, tmp_path)
    assert len(found) == sum(len(w[4]) for w in REST)
    test_nothing_is_spilled_to_memory(found)
