"""The cases one after the other: energy and gradient of all first, then the other operations."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from sciguide.bench.cases import Case
from sciguide.bench.kernels import Record, Settings, run_case
from sciguide.bench.results import heads, row
from sciguide.bench.truth import WrongAnswer
from sciguide.kernels.backends import BackendError
from sciguide.kernels.site import Site


def run_cases(
    cases: Iterable[Case],
    site_of: Callable[[Case], Site],
    settings: Settings,
    keep: Callable[[list[Record]], None] = lambda records: None,
) -> tuple[list[Record], list[str]]:
    """The records, printed as they are measured and handed to `keep`, and one line for each case that failed: one
    whose answer is not right is not timed, and the others go on."""
    cases, records, failed = list(cases), [], []
    first, rest = settings.operations[:1], settings.operations[1:]
    print(heads(), flush=True)
    for operations in (first, rest):
        for case in cases if operations else []:
            try:
                for record in run_case(case, site_of(case), replace(settings, operations=operations), say):
                    records.append(record)
                    print(row(record), flush=True)
                    keep(records)
            except (WrongAnswer, BackendError, torch.OutOfMemoryError) as error:
                line = " ".join(f"{case.operator} {case.label}: {error}".split())[:300]
                failed.append(line)
                say(f"  FAILED  {line}")
    return records, failed


def say(line: str) -> None:
    print(line, flush=True)
