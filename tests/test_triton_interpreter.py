"""Triton kernels, interpreted on a CPU, against the float64 reference: sizes, edges, masks, strides, units.

Every case also finds its outputs between guard bands untouched, its inputs as they were, and repeats bit-identical.
The interpreter has to be chosen before Triton is imported, so the cases run in children.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sciguide.equations import get, names

pytest.importorskip("triton")

TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
SECOND = ("jvp", "vjp", "hvp", "second")
ALL = ("residual", "energy", "gradient", "update", *SECOND)


def case(formula: str, shape=(5, 7), rules=("open", "open"), kinds=("residual", "gradient"), **rest) -> dict:
    return {"formula": formula, "shape": shape, "rules": rules, "kinds": kinds, **rest}


def equation(name: str) -> dict:
    """A shipped equation at its usual edges, in float32 as it will run."""
    if len(get(name).axes) == 3:
        return case(name, (4, 5, 6), ("open", "periodic", "open"), dtype="float32")
    return case(name, rules=("open", "periodic"), dtype="float32")


RULES = ("periodic", "dirichlet", "neumann", "open")
CASES = {
    "equations": [equation(name) for name in names()],
    "rules": [
        *(case("flux", (6, 9), (a, a), ALL) for a in RULES),
        *(case("advect", (5, 9), pair, ("gradient", *SECOND)) for pair in zip(RULES, RULES[1:], strict=False)),
        case("flux", (4, 9), ("dirichlet", "neumann"), ("gradient",), logs=True),
        case("wide", (3, 5), ("dirichlet", "open"), ("residual", "hvp"), logs=True),
        case("wide", (7, 6), ("neumann", "periodic"), ("gradient",)),
    ],
    "one-sided": [
        case("flux", (4, 4), ("one-sided", "open"), ("gradient", "second")),
        case("flux", (3, 9), ("open", "one-sided"), ("gradient",), columns=16),
        case("advect", (4, 9), ("one-sided", "one-sided"), ("residual", "vjp"), columns=16),
    ],
    "sizes": [
        *(case("flux", (ny, nx), ("periodic", "periodic")) for ny, nx in ((1, 1), (1, 7), (2, 3), (3, 2), (13, 8))),
        *(case("flux", (ny, nx), ("dirichlet", "neumann")) for ny, nx in ((1, 2), (2, 1), (9, 7), (8, 9))),
        *(
            case("advect", (ny, nx), ("neumann", "periodic"), rows=4)
            for ny, nx in ((1, 40), (29, 1), (17, 15), (7, 16))
        ),
        case("across", (3, 23), ("open", "neumann"), ALL),
        case("down", (23, 3), ("neumann", "open"), ALL),
        case("point", (5, 11), ("open", "open"), ALL),
    ],
    "layouts": [
        *(case("flux", how=how, kinds=ALL, batch=2) for how in ("sliced", "transposed", "every other")),
        case("flux", how="far fields", kinds=("gradient", "hvp"), dtype="float32"),
        case("flux", how="far rows", kinds=("residual", "update"), dtype="float32"),
        case("flux", (21, 40), split=True, rows=4),
        case("flux", (13, 25), ("neumann", "neumann"), ("residual", "update"), split=True, rows=4),
        case("flux", (6, 9), stretched=True, logs=True, kinds=ALL),
        case("flux", (6, 9), ("open", "periodic"), sphere=True, kinds=("gradient", "hvp")),
        case("flux", (3, 4, 6), ("neumann", "open", "periodic"), ("gradient", "update")),
        case("poisson3", (3, 4, 5), ("neumann", "dirichlet", "neumann"), ("residual", "vjp")),
        case("poisson3", (5, 4, 5), ("periodic", "open", "dirichlet"), ("gradient",), stretched=True),
    ],
    "masks": [
        case("flux", (7, 9), masked=True, kinds=ALL),
        case("flux", (7, 9), ("neumann", "periodic"), masked=True, kinds=("update", "hvp"), logs=True),
        case("flux", (4, 8), ("open", "one-sided"), masked=True, kinds=("gradient",), dtype="float32"),
        case("shallow_water", (9, 8), ("open", "periodic"), masked=True, sphere=True, dtype="float32"),
        case("wide", (9, 8), ("dirichlet", "periodic"), masked=True, kinds=("gradient",), dtype="float32"),
    ],
}


def scattered(count: int) -> list[dict]:
    """Sizes, rules, types and tiles drawn at random."""
    rng, out = np.random.default_rng(28), []
    for _ in range(count):
        formula = rng.choice(["flux", "advect", "across", "down"])
        shape, rules = rng.integers(1, 41, 2).tolist(), rng.choice(RULES, 2).tolist()
        dtype, how = rng.choice(["float32", "float64"]), rng.choice(["", "sliced", "transposed", "every other"])
        kinds = ["residual", str(rng.choice(["gradient", "update", "vjp"]))]
        columns, rows = (int(2 ** rng.integers(3, 6)) for _ in range(2))
        rest = dict(columns=columns, rows=rows, split=bool(rng.integers(2)), masked=bool(rng.random() < 0.2))
        out.append(case(str(formula), shape, rules, kinds, dtype=str(dtype), how=str(how), **rest))
    return out


CASES["scattered"] = scattered(4)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[dict]]:
    """The records of every group; half of the groups in each of two children."""
    told = {"TRITON_INTERPRET": "1", "SCIGUIDE_CACHE": str(tmp_path_factory.mktemp("kernels")), "OMP_NUM_THREADS": "1"}

    def run(groups: list[str]) -> list[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.triton_child"],
            input=json.dumps([c for group in groups for c in CASES[group]]),
            capture_output=True,
            text=True,
            env={**os.environ, **told},
            cwd=Path(__file__).parents[1],
            check=True,
        ).stdout.splitlines()

    halves = [list(CASES)[::2], list(CASES)[1::2]]
    with ThreadPoolExecutor(2) as pool:
        lines = [iter(found) for found in pool.map(run, halves)]
    return {group: [json.loads(next(lines[n])) for _ in CASES[group]] for n in (0, 1) for group in halves[n]}


@pytest.mark.parametrize("group", CASES)
def test_kernels_equal_the_reference(found, group):
    for record in found[group]:
        wrong = {k: e for k, e in record["errors"].items() if not e <= TOLERANCE[record["dtype"]]}
        assert not wrong and not record["faults"], (record["case"], wrong, record["faults"])
