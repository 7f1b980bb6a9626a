"""Prepared data: a memory-mapped array and everything that training must know about it.

A folder holds `fields.npy`, (T, C, Y, X) float32, physical, NaN off the mask, and `fields.json`, which is written last.
NumPy alone opens it, so it can be carried to a machine that has neither xarray nor the source.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sciguide.datasets.layout import Layout
from sciguide.datasets.statistics import Statistics
from sciguide.errors import InputError

FIELDS, STATE = "fields.npy", "fields.json"


@dataclass(frozen=True, eq=False)
class Prepared:
    """The samples of all splits, in the order of the record, and what was measured on the training samples.

    `times`: (T,) datetime64[s] or ISO strings, or numbers of samples where there is no time; `split`: (start, stop)
    in the array by name; `effective`: how many of the training samples are independent; `axes`: what was taken for
    which axis; `notes`: what the user should know; `fingerprint`: a hash of the source's contents and the options.
    """

    folder: Path
    times: np.ndarray
    layout: Layout
    statistics: Statistics
    split: dict[str, tuple[int, int]]
    effective: float
    axes: str
    notes: tuple[str, ...]
    fingerprint: str

    @property
    def path(self) -> Path:
        """The `.npy` file."""
        return self.folder / FIELDS

    @cached_property
    def array(self) -> np.ndarray:
        """All samples, (T, C, Y, X) float32, physical, NaN off the mask; read from disk as it is used."""
        return np.load(self.path, mmap_mode="r")

    def rows(self, name: str) -> np.ndarray:
        """The samples of one split, "train", "validation" or "test", (T, C, Y, X), as a view of `array`."""
        return self.array[slice(*self.range(name))]

    def times_of(self, name: str) -> np.ndarray:
        """The times of one split, (T,)."""
        return self.times[slice(*self.range(name))]

    def range(self, name: str) -> tuple[int, int]:
        """(start, stop) of one split in `array`. Raises InputError if there is none of that name."""
        if name not in self.split:
            raise InputError(f"there are no {name} samples: write `{name}: [first, last]` under `data:`")
        return self.split[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types: all but the array."""
        return {
            "times": self.times.astype(str).tolist() if self.times.dtype.kind == "M" else self.times.tolist(),
            "times_dtype": str(self.times.dtype),
            "layout": self.layout.to_dict(),
            "statistics": self.statistics.to_dict(),
            "split": {name: list(r) for name, r in self.split.items()},
            "effective": self.effective,
            "axes": self.axes,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def open_prepared(folder: str | Path) -> Prepared:
    """Opens a folder that `prepare` has written, wherever it is now.

    Raises OSError or ValueError if it is not there or not whole.
    """
    folder = Path(folder)
    state = json.loads((folder / STATE).read_text())
    prepared = Prepared(
        folder=folder,
        times=np.array(state["times"], dtype=state["times_dtype"]),
        layout=Layout.from_dict(state["layout"]),
        statistics=Statistics.from_dict(state["statistics"]),
        split={name: (start, stop) for name, (start, stop) in state["split"].items()},
        notes=tuple(state["notes"]),
        **{key: state[key] for key in ("effective", "axes", "fingerprint")},
    )
    if prepared.array.shape != (len(prepared.times), *prepared.layout.shape):
        raise ValueError(f"{prepared.path} is not what {STATE} describes")
    return prepared
