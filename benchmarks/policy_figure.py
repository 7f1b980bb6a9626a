"""The picture of the policy tables: what each rival gains on the formula, and the front of residual and distribution.

    python benchmarks/policy_figure.py

reads benchmarks/results/policy.csv and policy_front.csv and writes docs/figures/policy.png.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.policy_rivals import KNOWING, LEARNED, LINEAR, SCHEDULES
from benchmarks.tables import RESULTS, read_table

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "policy.png"
SHOWN = {"best schedule": "#999999", LINEAR: "#56b4e9", LEARNED: "#d55e00", KNOWING: "#009e73"}
FRONT = {"formula": "#000000", "schedule, CMA-ES": "#999999", "learned": "#d55e00"}


def gains(axes: Axes, table: list[dict[str, str]]) -> None:
    """Gain on the formula of all seeds together, with intervals, case by case."""
    rows = [r for r in table if r["seed"] == "all"]
    cases = list(dict.fromkeys(f"{r['claim']}:\n{r['case']}" for r in rows))
    for row, case in enumerate(cases):
        own = {r["rival"]: r for r in rows if f"{r['claim']}:\n{r['case']}" == case}
        best = max((own[s] for s in SCHEDULES), key=lambda r: float(r["score"]))
        for place, (name, colour) in enumerate(SHOWN.items()):
            found = best if name == "best schedule" else own.get(name)
            if found:
                value, low, high = (float(found[f"gain on formula{end}"]) for end in ("", " low", " high"))
                at = row + 0.18 * (place - 1.5)
                axes.plot([low, high], [at, at], color=colour, linewidth=2)
                axes.plot(value, at, "o", color=colour, markersize=4, label=name if row == 0 else None)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(cases)), cases, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("score over the formula's, 95 % intervals")
    axes.legend(fontsize=7, frameon=False)


def front(axes: Axes, table: list[dict[str, str]]) -> None:
    """Means over the seeds at each preference."""
    rows = [r for r in table if r["part"] == "front"]
    for name, colour in FRONT.items():
        points = []
        for case in dict.fromkeys(r["case"] for r in rows):
            own = [r for r in rows if r["case"] == case and r["rival"] == name]
            points.append([sum(float(r[k]) for r in own) / len(own) for k in ("excess of residual", "energy score")])
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, linewidth=1, label=name)
    axes.set_xlabel("residual over the data's")
    axes.set_ylabel("energy score")
    axes.set_title("one learned policy, five schedules", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def main() -> int:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), width_ratios=(3, 2), layout="constrained")
    gains(left, read_table(RESULTS / "policy.csv"))
    front(right, read_table(RESULTS / "policy_front.csv"))
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)
    print(FIGURE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
