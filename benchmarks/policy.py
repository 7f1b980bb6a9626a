"""Where a learned policy pays, and where it does not: the claims, each with every rival on the same budget.

    python -m benchmarks.policy [--only NAME ...] [--small] [--runs runs/policy] [--date 2026-01-31]
                                [--device cuda]

writes benchmarks/results/policy.csv (--small: policy_small.csv). Truth and denoiser are known in these worlds
(`policy_fields.py`, `policy_stations.py`); what varies from problem to problem is told to nobody but to the row
`formula that knows`. Every rival stands on the same formula and multiplies it: a constant, a schedule over the noise
level (random search, CMA-ES), affine feedback (CMA-ES), and the learned policy (GRPO); each has the same budget of
trajectories, those that measure scales included, and is judged on problems and noise that none was tuned on.

- score: what was asked, large is good: gain in the log of residuals over their floor, less twice the energy score over
  the unguided one's, less the price of work; the energy score alone where residuals mislead, because what is told of
  errors is wrong;
- gain on formula, gain on schedule (the best one): differences of the score problem by problem, with 95 % intervals by
  a paired bootstrap, for each seed and for all of them together;
- energy score: to the truth, small is good; excess of residual: geometric mean of max(R / floor, 1)^(1/2);
  spread over error: 1 is calibrated; evaluations and iterations per member.

What is done is kept in --runs and not done again.
"""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np

from benchmarks.policy_fields import TwoFields
from benchmarks.policy_rivals import Case, Judged, compete, rows, together
from benchmarks.policy_stations import Approximate, Stations
from benchmarks.tables import RESULTS, add_device, kept_in, write_table
from sciguide.actions import Levers
from sciguide.generate import one_thread
from sciguide.receipts import write_json

SEEDS = (0, 1, 2)
ONE, FOUR, OCTAVES, WORK = Levers(1, 1), Levers(4, 1), Levers(4, 4), Levers(1, 1, True)
TRAJECTORIES, JUDGED = 4000, 128
SMALL_TRAJECTORIES, SMALL_JUDGED = 256, 16


def fields(scales: str, **options: Any) -> TwoFields:
    return TwoFields(scales=scales, **options)


def stations(scales: str, **options: Any) -> Stations:
    return Stations(scales=scales, **options)


def approximate(scales: str, **options: Any) -> Approximate:
    return Approximate(scales=scales, **options)


CASES = [
    Case("homogeneous", "alike", partial(fields, spread=0.0), "told"),
    Case("uneven model error", "by field, told", partial(fields, spread=1.5), "told"),
    Case("uneven model error", "by field, at every step", partial(fields, spread=1.5, when="always"), "told"),
    Case("uneven model error", "by field, estimated", partial(fields, spread=1.5), "ml"),
    Case(
        "uneven model error",
        "by field and scale",
        partial(fields, spread=1.0, slope=1.0),
        "ml",
        OCTAVES,
        (ONE, FOUR),
    ),
    Case("misreported observations", "estimated", stations, "ml", ONE, (FOUR,), physics=False),
    Case("misreported observations", "told", stations, "told", ONE, (FOUR,), physics=False),
    Case(
        "competing constraints", "points and an equation", approximate, "ml", FOUR, (ONE,), physics=False, knows=False
    ),
    Case(
        "non-Gaussian posteriors",
        "one of six fields",
        partial(stations, mixture=True, factor=1.0, points=(3, 60)),
        "told",
        FOUR,
        (ONE,),
        physics=False,
    ),
    Case(
        "compute",
        "one of six fields, evaluations cost",
        partial(stations, mixture=True, factor=1.0, points=(3, 60), steps=20),
        "told",
        WORK,
        physics=False,
        price=0.15,
        knows=False,
    ),
]


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """What `make` finds, from the file `path` where it is there."""
    if path.is_file():
        read = json.loads(path.read_text())
        return {
            name: (Levers(*levers), Judged(*(np.asarray(v) for v in arrays), *numbers))
            for name, levers, arrays, numbers in read["rivals"]
        }
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [[n, list(v), [j.score.tolist(), j.energy.tolist()], list(j[2:])] for n, (v, j) in found.items()]
    write_json(path, {"rivals": plain})
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="learned guidance against its rivals, where the best is known")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name or claim has one of these words")
    parser.add_argument("--small", action="store_true", help="one seed, 256 trajectories, 16 problems")
    parser.add_argument("--runs", type=Path, default=Path("runs/policy"), help="where what is done is kept")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    add_device(parser)
    given = parser.parse_args(argv)
    sizes = (SMALL_TRAJECTORIES, SMALL_JUDGED) if given.small else (TRAJECTORIES, JUDGED)
    seeds, name = (SEEDS[:1], "policy_small") if given.small else (SEEDS, "policy")
    runs = kept_in(given.runs, given.device)
    chosen = [c for c in CASES if not given.only or any(w in f"{c.claim} {c.name}" for w in given.only)]
    table: list[dict] = []
    for case in CASES:
        folder = runs / f"{sizes[0]}" / f"{case.claim} {case.name}".replace(",", "").replace(" ", "_")
        each = []
        for seed in seeds:
            path = folder / f"{seed}.json"
            if case in chosen or path.is_file():
                with one_thread():
                    each.append(kept(path, partial(compete, case, seed, *sizes, device=given.device)))
                table += rows(case, seed, sizes[0], each[-1])
        if len(each) == len(seeds):
            whole = rows(case, "all", sizes[0], together(each))
            table += whole
            for row in whole:
                ends = [row[k] for k in ("score", "gain on formula", "gain on formula low", "gain on formula high")]
                print(case.claim, case.name, row["rival"], *(f"{v:.4f}" for v in ends), sep="  ", flush=True)
    write_table(
        RESULTS / f"{name}.csv", table, f"learned guidance against its rivals; {given.date}; 1 thread", given.device
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
