"""The kernel benchmark in a folder, for a machine that has torch, Triton and NumPy only.

`export` writes the cases with their sites as JSON and the generated Triton sources; `run` reads them there. Sources
belong to the version of the code that printed them.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sciguide.bench.cases import CASES, SMALL, Case, make_site, site_from_json, site_to_json
from sciguide.bench.kernels import Record, Settings
from sciguide.bench.results import header, summary, write_json
from sciguide.bench.runner import run_cases
from sciguide.errors import InputError
from sciguide.kernels.program import Program
from sciguide.kernels.site import Site

FILE, SOURCES = "cases.json", "sources"
KINDS = ("gradient", "residual", "jvp", "vjp")


def export(folder: Path, small: bool = False) -> None:
    """Write every case and every kernel of its equation into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, programs = [], {}
    for case in SMALL if small else CASES:
        site = make_site(case)
        programs.setdefault(site.program.key, site.program)
        entries.append({**case._asdict(), "program": site.program.key, "site": without_program(site)})
    from sciguide.kernels.triton_backend import printer_key

    state = {"printer": printer_key(), "programs": {k: p.to_json() for k, p in programs.items()}, "cases": entries}
    (folder / FILE).write_text(json.dumps(state))
    with cache_in(folder / SOURCES):
        print_sources(list(programs.values()))


def without_program(site: Site) -> dict:
    return {k: v for k, v in site_to_json(site).items() if k != "program"}


def print_sources(programs: Sequence[Program]) -> None:
    """Have the Triton backend print its kernels into the cache folder."""
    from sciguide.kernels.triton_backend import load

    for program in programs:
        for kind in KINDS:
            load(program, kind)


def read_cases(folder: Path) -> list[tuple[Case, Site]]:
    """What `export` wrote. Raises InputError where there is nothing of it."""
    try:
        state = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {FILE}: make it with --export where SymPy is installed") from None
    out = []
    for entry in state["cases"]:
        site = site_from_json({**entry["site"], "program": state["programs"][entry["program"]]})
        out.append((Case(entry["operator"], entry["batch"], tuple(entry["shape"])), site))
    return out


def check_version(folder: Path) -> None:
    """Raises InputError where the sources in `folder` are not those that this code would print."""
    from sciguide.kernels.triton_backend import printer_key

    if json.loads((folder / FILE).read_text())["printer"] != printer_key():
        raise InputError(f"{folder} was exported by another version of this code: export it again")


def run(folder: Path, out: Path, settings: Settings, command: str, names: Sequence[str] = ()) -> int:
    """Check and time the cases of `folder`, writing `out` after each row. `names`: which, as "darcy" or
    "darcy 16x128x128", all if empty. Returns how many cases failed."""
    check_version(folder)
    chosen = [
        (c, s) for c, s in read_cases(folder) if not names or {c.operator, f"{c.operator} {c.label}"} & set(names)
    ]
    sites = dict(chosen)
    with tempfile.TemporaryDirectory() as private:  # 0700, as the cache folder must be, and this user's own
        shutil.copytree(folder / SOURCES, Path(private) / SOURCES, copy_function=shutil.copyfile)
        with cache_in(Path(private) / SOURCES):
            about = header(command, settings.device)

            def keep(records: list[Record]) -> None:
                write_json(out, about, [r.to_dict() for r in records])

            records, failed = run_cases(sites, sites.__getitem__, settings, keep)
    lines = [*summary(records), *(f"FAILED {line}" for line in failed)]
    print("\n".join(lines))
    write_json(out, {**about, "summary": lines}, [r.to_dict() for r in records])
    return len(failed)


@contextlib.contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Generated kernels are written to and read from `folder` inside."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    before = os.environ.get("SCIGUIDE_CACHE")
    os.environ["SCIGUIDE_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SCIGUIDE_CACHE"]
        else:
            os.environ["SCIGUIDE_CACHE"] = before
