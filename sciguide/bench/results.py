"""What a benchmark prints and writes: rows as they come, a summary, a header of machine, versions, date and command."""

import csv
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sciguide import __version__
from sciguide.bench.kernels import Record
from sciguide.provenance import _processor as processor

PACKAGES = ("torch", "triton", "numba", "numpy")
MEMORY_BOUND = 16.0  # megabytes of a field, from which a case is not decided by launches and caches
COLUMNS = (
    ("case", "{operator} {case}", 28),
    ("operation", "{operation}", 20),
    ("backend", "{backend}", 9),
    ("ms", "{ms}", 9),
    ("20-80 %", "{range}", 13),
    ("GB/s", "{bandwidth}", 7),
    ("/copy", "{of_copy}", 6),
    ("eager/", "{eager_ratio}", 7),
    ("compile/", "{compile_ratio}", 8),
    ("error", "{error:.0e}", 7),
)


def header(command: str, device: str, **more: Any) -> dict[str, Any]:
    """Machine, versions, date and command, and how busy the machine was."""
    versions = [f"sciguide {__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    machine = f"{processor()}, {os.cpu_count()} cores; {platform.system()} {platform.machine()}"
    if device != "cpu":
        found = torch.cuda.get_device_properties(device)
        machine = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}; host {machine}"
    return {
        "command": command,
        "machine": machine,
        "versions": ", ".join(versions),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
        "load": " ".join(f"{v:.2f}" for v in os.getloadavg()),
        **more,
    }


def heads() -> str:
    """The first line of the table."""
    return "  ".join(name.ljust(width) for name, _, width in COLUMNS).rstrip()


def row(r: Record) -> str:
    """One line of the table."""
    text = {
        "ms": f"{1e3 * r.seconds:.4g}",
        "range": f"{1e3 * r.seconds_p20:.3g}-{1e3 * r.seconds_p80:.3g}",
        "bandwidth": f"{r.gbps:.3g}",
        "of_copy": f"{r.gbps / r.copy_gbps:.2f}",
        "eager_ratio": ratio(r.eager_seconds, r.seconds),
        "compile_ratio": ratio(r.compile_seconds, r.seconds),
    }
    values = {**vars(r), **text}
    return "  ".join(form.format(**values).ljust(width) for _, form, width in COLUMNS).rstrip()


def ratio(rival: float, ours: float) -> str:
    return "-" if rival != rival else f"{rival / ours:.1f}"


def summary(records: Sequence[Record]) -> list[str]:
    """The goals in words: ratios over the memory-bound cases, whether anything is slower than eager, the errors."""
    if not records:
        return ["nothing was measured"]
    lines = [f"computed by {', '.join(sorted({r.backend for r in records}))} on {records[0].device}"]
    for operation in dict.fromkeys(r.operation for r in records):
        found = [r for r in records if r.operation == operation]
        large = [r for r in found if r.megabytes >= MEMORY_BOUND]
        for about, rows in ((f"fields of {MEMORY_BOUND:g} MB and more", large), ("all cases", found)):
            if rows:
                parts = [
                    spread("of a copy's bandwidth", [r.gbps / r.copy_gbps for r in rows]),
                    spread("eager over fused", [r.eager_seconds / r.seconds for r in rows]),
                    spread("torch.compile over fused", [r.compile_seconds / r.seconds for r in rows]),
                ]
                lines.append(f"{operation}, {about}: " + "; ".join(p for p in parts if p))
    slower = [f"{r.operator} {r.case} {r.operation}" for r in records if r.seconds > r.eager_seconds]
    more = f" and {len(slower) - 5} more" if len(slower) > 5 else ""
    lines.append(f"slower than eager: {', '.join(slower[:5]) or 'never'}{more}")
    lines.append(f"largest error over the sum of absolute terms: {max(r.error for r in records):.1e}")
    return lines


def spread(name: str, values: Sequence[float]) -> str:
    """Least, median and largest; empty where nothing was measured."""
    kept = [v for v in values if v == v]
    return f"{name} {min(kept):.2f} to {max(kept):.2f}, median {statistics.median(kept):.2f}" if kept else ""


def write_json(path: Path, about: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
    """`about` as the header, then the records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"header": dict(about), "records": list(records)}
    path.write_text(json.dumps(state, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, about: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """The same as a table under a header of comments, numbers with four digits."""
    with path.open("w", newline="") as file:
        for name, text in about.items():
            for line in text if isinstance(text, list) else [text]:
                file.write(f"# {name}: {line}\n")
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in r.items()} for r in records)
