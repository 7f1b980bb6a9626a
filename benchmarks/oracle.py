"""Relations that Gaussian fields settle, where the denoiser and the posterior are known exactly.

    python benchmarks/oracle.py [--small] [--only NAME ...] [--date 2026-01-31] [--device cuda]

writes benchmarks/results/oracle.csv (--small: oracle_small.csv), one number a row. Rows without an interval are exact;
the others are estimates from `n` samples, truths, problems or seeds, with 95 % bootstrap intervals. By study:

- A0 samplers on a mixture of six Gaussians (`oracle_unguided.py`), three mixtures;
- A1 samplers on a Gaussian, without guidance;
- A2 guidance by a linear equation (`oracle_linear.py`): which field moves, when, and by what direction;
  by point observations (`oracle_points.py`); by a quadratic constraint (`oracle_quadratic.py`);
- A4 trajectories that learning takes (`oracle_learner.py`). Rivals of the learned policy are in `policy.py`.

Settings are those of the functions' defaults. On one core it takes about half an hour, --small two minutes. With --only
the rows of other studies stay in the table as they are. Numbers are drawn on the host, whatever the --device.
"""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import torch

from benchmarks.oracle_learner import learner_rows
from benchmarks.oracle_linear import direction_rows, metric_rows
from benchmarks.oracle_points import point_rows
from benchmarks.oracle_quadratic import energy_rows, speed_rows
from benchmarks.oracle_rows import Row
from benchmarks.oracle_unguided import gaussian_rows, mixture_rows
from benchmarks.tables import RESULTS, add_device, read_table, write_table

Study = Callable[..., list[Row]]  # on a `device`

FULL: dict[str, Study] = {
    **{f"mixture {seed}": partial(mixture_rows, seed) for seed in range(3)},
    "Gaussian": gaussian_rows,
    "metric": metric_rows,
    "directions": direction_rows,
    "points": point_rows,
    "energy": energy_rows,
    "speeds": speed_rows,
    "learner": learner_rows,
}
SMALL: dict[str, Study] = {
    "mixture": partial(mixture_rows, 0, 512, n=10),
    "Gaussian": partial(gaussian_rows, 16),
    "metric": partial(metric_rows, 16, (10,)),
    "directions": partial(direction_rows, 16, members=8),
    "points": partial(point_rows, 16, (10, 40, 160), (10,)),
    "energy": partial(energy_rows, 512, n=10),
    "speeds": partial(speed_rows, 24, 8, sweeps=200),
    "learner": partial(learner_rows, 2, 2048, 4096, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="relations that Gaussian fields settle")
    parser.add_argument("--small", action="store_true", help="smaller fields and fewer samples, two minutes")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    parser.add_argument("--only", nargs="*", default=[], choices=FULL, help="studies; all if left out")
    add_device(parser)
    given = parser.parse_args()
    rows: list[Row] = []
    for name, study in (SMALL if given.small else FULL).items():
        if not given.only or name in given.only:
            begun = time.perf_counter()
            rows += study(device=given.device)
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    path = RESULTS / f"oracle{'_small' if given.small else ''}.csv"
    made = {row.study for row in rows}
    kept = [row for row in read_table(path) if row["study"] not in made] if given.only else []
    about = f"relations that Gaussian fields settle; {given.date}; {torch.get_num_threads()} threads"
    write_table(path, [row._asdict() for row in rows], about, given.device, kept)


if __name__ == "__main__":
    main()
