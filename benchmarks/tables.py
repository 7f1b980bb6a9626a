"""Committed tables: CSV with a header that says from which machine, versions, date and command they are."""

import csv
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciguide.provenance import provenance

RESULTS = Path(__file__).parent / "results"


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], about: str) -> None:
    """Write `rows` with a header of comments, numbers with four digits, and print them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(shlex.quote, sys.argv[1:])])
    with path.open("w", newline="") as file:
        for line in (about, *(f"{name}: {text}" for name, text in provenance(command).items())):
            file.write(f"# {line}\n")
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: short(v) for k, v in row.items()} for row in rows)
    print(f"\n{path.name}: {about}")
    widths = {k: max(len(k), *(len(short(r[k])) for r in rows)) for k in rows[0]}
    for row in [{k: k for k in widths}, *rows]:
        print("  ".join(short(row[k]).ljust(w) for k, w in widths.items()))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table that is there, as text; none where it is not."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def short(value: Any) -> str:
    """Four significant digits of a float, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
