"""Committed tables: CSV with a header that says from which machine, versions, date and command they are."""

import argparse
import csv
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciguide.provenance import provenance

if TYPE_CHECKING:
    import torch

RESULTS = Path(__file__).parent / "results"
BEFORE = "earlier command: "  # in a header, of rows that were there


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --device: a torch.device that is there."""

    def device(name: str) -> "torch.device":
        from sciguide.device import find_device

        try:
            return find_device(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    parser.add_argument("--device", type=device, default="cpu", help="that models are computed on: cpu, cuda, cuda:1")


def write_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    about: str,
    device: "torch.device | None" = None,
    kept: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `rows` with a header of comments, numbers with four digits, and print them. `device`: that they were made
    on, which the header says where it is not the CPU; `kept`: rows of the table that is there, which stay before them,
    and the commands of its header with them."""
    rows, before = [*kept, *rows], _commands(path) if kept else []
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(shlex.quote, sys.argv[1:])])
    with path.open("w", newline="") as file:
        made = provenance(command) | on(device)
        before = [f"{BEFORE}{text}" for text in before if text != made["command"]]
        for line in (about, *(f"{name}: {text}" for name, text in made.items()), *before):
            file.write(f"# {line}\n")
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: short(v) for k, v in row.items()} for row in rows)
    print(f"\n{path.name}: {about}")
    widths = {k: max(len(k), *(len(short(r[k])) for r in rows)) for k in rows[0]}
    for row in [{k: k for k in widths}, *rows]:
        print("  ".join(short(row[k]).ljust(w) for k, w in widths.items()))


def _commands(path: Path) -> list[str]:
    """Which made the table that is there, the last one first."""
    heads = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
    return [line.removeprefix(start) for start in ("command: ", BEFORE) for line in heads if line.startswith(start)]


def kept_in(folder: Path, device: "torch.device") -> Path:
    """Where models and scores of a device are kept: those of a GPU apart from the CPU's, which they are not to mix
    with."""
    return folder / "_".join(made["device"].lower().split()) if (made := on(device)) else folder


def trained_on(device: "torch.device | str") -> list[str]:
    """Words for `sciguide fit`: the accelerator of a device that is not the CPU, which the configs name."""
    kind, _, number = str(device).partition(":")
    return [] if kind == "cpu" else [f"--trainer.accelerator={kind}", f"--trainer.devices=[{number or 0}]"]


def on(device: "torch.device | None") -> dict[str, str]:
    """What the header says of it."""
    if device is None or device.type == "cpu":
        return {}
    from sciguide.device import model_of

    return {"device": model_of(device)}


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table that is there, as text; none where it is not."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def short(value: Any) -> str:
    """Four significant digits of a float, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
