"""`sciguide evaluate PATH`: measure an ensemble against held-out data and beside the trivial methods."""

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from sciguide.cli.parser import call

if TYPE_CHECKING:
    from rich.console import Console

    from sciguide.evaluate import Evaluation
    from sciguide.judge import Record

WIDTH = 120
MOST_COLUMNS = 5  # of a table; what does not fit is in the JSON as well
MOST_VARIABLES = 6  # tables printed; all variables are in the JSON
PER_VARIABLE = ("std_ratio", "mean_error", "w1", "kurtosis_ratio", "spectrum_error", "q99_ratio")
JOINT = ("spectrum_error", "w1_component", "energy_distance", "novelty")
SCORES = ("crps", "rmse", "spread_error")
WITH_UNIT = ("w1", "crps", "rmse")
GAIN = "gain  share of the error of N(mu, C) that the network takes away; in brackets where their intervals overlap"
HEADS = {
    "std_ratio": "std ratio",
    "mean_error": "mean error",
    "w1": "W1",
    "kurtosis_ratio": "kurtosis ratio",
    "q99_ratio": "99 % ratio",
    "spectrum_error": "spectrum error",
    "w1_component": "W1 worst EOF",
    "energy_distance": "energy distance",
    "spread_error": "spread / error",
}


def run(argv: list[str]) -> int:
    command = " ".join(["sciguide evaluate", *argv])

    def evaluate(
        path: str,
        reference: list[str] | None = None,
        run: str | None = None,
        truth: str | None = None,
        obs: str | None = None,
        json: str | None = None,
        resamples: int | None = None,
        seed: int = 0,
    ) -> int:
        """Print residuals, distribution metrics and novelty of an ensemble, of held-out data and of trivial methods.

        Args:
            path: a folder of members, a run's folder, or a NetCDF file or Zarr store of fields
            reference: held-out data, files or a pattern; the test or validation samples of the run if left out
            run: the run's folder, or its model.pt, where the samples do not lie in it
            truth: a file of one field, for the scores of members given observations
            obs: point observations that the prior without a network is conditioned on, as in generate
            json: file for the numbers as records of method, variable, metric, value, low, high, n
            resamples: of the bootstrap; chosen by the size of the fields if left out
            seed: of the bootstrap and of the draws of the prior
        """
        return measure(path, reference or [], run, truth, obs, json, resamples, seed, command)

    return call(evaluate, listed(argv), "sciguide evaluate")


def listed(argv: list[str]) -> list[str]:
    """`--reference a b` as the one word that the parser takes for a list."""
    out, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--reference" or word.startswith("--reference="):
            files = [word.partition("=")[2]] if "=" in word else []
            while rest and not rest[0].startswith("-") and "=" not in word:
                files.append(rest.pop(0))
            word = "--reference=" + json.dumps(files) if files else word
        out.append(word)
    return out


def measure(
    path: str,
    reference: list[str],
    run: str | None,
    truth: str | None,
    obs: str | None,
    out: str | None,
    resamples: int | None,
    seed: int,
    command: str,
) -> int:
    """Evaluate, print, and write `out` if it is given."""
    from pathlib import Path

    from rich.console import Console

    from sciguide.errors import InputError
    from sciguide.evaluate import evaluate
    from sciguide.receipts import write_json

    if resamples is not None and resamples < 2:
        raise InputError(f"--resamples {resamples}: at least 2")
    console = Console(width=WIDTH, highlight=False, markup=False)
    with console.status("reading") as status:
        found = evaluate(path, reference, run, truth, obs, resamples, seed, status.update)
    show(found, console)
    if out:
        write_json(Path(out), found.to_dict(command))
        print(f"{len(found.records)} records: {out}")
    return 0


def show(found: "Evaluation", console: "Console") -> None:
    """Tables of one row a method, then the flags and the notes in words."""
    table: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for r in found.records:
        kept = table[r.metric, "all" if r.metric == "w1_component" else r.variable]
        if r.method not in kept or r.value > kept[r.method].value:
            kept[r.method] = r
    joint = [key for key in table if key[0] == "residual"] + [(m, "all") for m in JOINT if (m, "all") in table]
    for start in range(0, len(joint), MOST_COLUMNS):
        tabulate(console, "all variables together", joint[start : start + MOST_COLUMNS], table, "")
    for metrics, about in ((PER_VARIABLE, ""), (SCORES, " against the truth")):
        for name, unit in list(found.units.items())[:MOST_VARIABLES]:
            keys = [(m, name) for m in metrics if (m, name) in table]
            tabulate(console, name + about, keys[:MOST_COLUMNS], table, unit)
    if len(found.units) > MOST_VARIABLES:
        console.print(f"{len(found.units) - MOST_VARIABLES} more variables: see --json")
    for line in found.flags:
        console.print(f"FLAG  {line}")
    if not found.flags and ("std_ratio", next(iter(found.units))) in table:
        console.print("no flag: by these metrics the ensemble cannot be told from the data")
    for line in found.notes:
        console.print(f"note  {line}")
    if any(r.metric.startswith("gain_") for r in found.records):
        console.print(GAIN)


def tabulate(
    console: "Console",
    title: str,
    keys: list[tuple[str, str]],
    table: dict[tuple[str, str], dict[str, "Record"]],
    unit: str,
) -> None:
    """One table: a column for each (metric, variable) of `keys`, a row for each method, the gain in the last row."""
    from rich import box
    from rich.table import Table

    if not keys:
        return
    heads = [HEADS.get(m, m) + f" [{unit}]" * (m in WITH_UNIT) for m, _ in keys]
    heads = [f"residual of {v}" if m == "residual" else head for (m, v), head in zip(keys, heads, strict=True)]
    out = Table("method", *heads, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    out.padding, out.collapse_padding = (0, 1, 0, 0), True
    for name in dict.fromkeys(name for key in keys for name in table[key]):
        out.add_row(name, *(cell(table[key].get(name)) for key in keys))
    gains = [next(iter(table.get(("gain_" + m, v), {}).values()), None) for m, v in keys]
    if any(gains):
        out.add_row("gain of network", *map(gained, gains))
    console.print(out)


def cell(record: "Record | None") -> str:
    """`value [low high]`, as short as it is legible."""
    if record is None:
        return ""
    if record.metric == "spectrum_error" and record.value > 100:
        return "no variance"
    text = short(record.value, 3)
    return text if record.low != record.low else f"{text} [{short(record.low, 2)} {short(record.high, 2)}]"


def short(value: float, digits: int) -> str:
    """A number of so many digits, in full below a million."""
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


def gained(record: "Record | None") -> str:
    """A gain in percent, in brackets where it may be chance."""
    if record is None:
        return ""
    text = f"{100 * max(record.value, -9.99):+.0f} %"
    return text if record.low > 0 or record.high < 0 else f"({text})"
