"""Training, validation and test samples: ranges of the record, never a shuffle."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sciguide.errors import InputError

Range = Sequence[Any] | None


def sample_labels(ds: Any, sample: str | None) -> np.ndarray:
    """The times of the samples, (T,) datetime64[s], or ISO strings in calendars that NumPy lacks; else 0, 1, 2, ..."""
    if sample not in ds.coords or ds[sample].dtype.kind not in "MO":
        return np.arange(ds.sizes.get(sample, 1))
    values = ds[sample].values
    if values.dtype.kind == "M":
        return values.astype("datetime64[s]")
    texts = np.array([v.isoformat()[:19] for v in values])
    try:
        return texts.astype("datetime64[s]")
    except ValueError:
        return texts


def are_times(labels: np.ndarray) -> bool:
    """Whether labels from `sample_labels` are times."""
    return labels.dtype.kind in "MU"


def split_samples(labels: np.ndarray, **ranges: Range) -> dict[str, tuple[int, int]]:
    """For each name the half-open range (start, stop) of samples; names whose range is None are left out.

    A range is [first, last] of ISO dates, both included and a day or month whole, or [start, stop) as sample numbers
    or as fractions of the record. Raises InputError for an empty range, one that exceeds the data, and an overlap.
    """
    found = {name: _resolve(labels, name, given) for name, given in ranges.items() if given is not None}
    for name, (start, stop) in found.items():
        if start >= stop:
            raise InputError(f"`{name}: {list(ranges[name])}` holds no sample: {_extent(labels)}")
        for other, (first, last) in found.items():
            shared = min(stop, last) - max(start, first)
            if name < other and shared > 0:
                raise InputError(
                    f"`{name}` and `{other}` share {shared} samples, from {labels[max(start, first)]}: move one of them"
                )
    return found


def _resolve(labels: np.ndarray, name: str, given: Sequence[Any]) -> tuple[int, int]:
    if isinstance(given, str) or len(given) != 2:
        raise InputError(f"`{name}: {given}` is not a pair: write [first, last] dates or [start, stop) sample numbers")
    if all(isinstance(v, (int, np.integer)) for v in given):
        start, stop = (int(v) for v in given)
        if start < 0 or stop > len(labels):
            raise InputError(f"`{name}: {list(given)}` is beyond the data: {_extent(labels)}")
        return start, stop
    if all(isinstance(v, (int, float)) for v in given):
        if not 0 <= given[0] <= given[1] <= 1:
            raise InputError(f"`{name}: {list(given)}` are no fractions between 0 and 1")
        return round(given[0] * len(labels)), round(given[1] * len(labels))
    if not are_times(labels):
        raise InputError(
            f"`{name}: {list(given)}`: the data have no time axis; write sample numbers, {_extent(labels)}"
        )
    # ISO dates compare as text; cutting to the length of `last` includes the whole of the day or month it names.
    first, last = (str(v).replace(" ", "T") for v in given)
    texts = labels.astype(str)
    inside = np.flatnonzero((texts >= first) & (texts.astype(f"U{len(last)}") <= last))
    return (int(inside[0]), int(inside[-1]) + 1) if inside.size else (0, 0)


def _extent(labels: np.ndarray) -> str:
    extent = f"{labels[0]} to {labels[-1]}" if are_times(labels) else f"0 to {len(labels)}"
    return f"the data have {len(labels)} samples, {extent}"
