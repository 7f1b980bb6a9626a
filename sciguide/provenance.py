"""Where a result comes from: what every table, JSON file and page says of the machine and command that made it."""

import os
import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from sciguide import __version__

PACKAGES = ("torch", "numpy", "xarray")


def provenance(command: str) -> dict[str, str]:
    """Machine, versions, date and `command` of a result, one line each."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return {
        "command": command,
        "machine": f"{_processor()}, {os.cpu_count()} cores; {platform.system()} {platform.machine()}",
        "versions": f"sciguide {__version__}, Python {platform.python_version()}, {versions}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
