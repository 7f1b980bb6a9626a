"""Batches in an order that is a function of the seed, so that training resumes inside an epoch exactly.

Imports torch and NumPy only: a prepared folder can be trained on where neither xarray nor Lightning is installed.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciguide.datasets.normaliser import Normaliser

if TYPE_CHECKING:
    import torch

    from sciguide.datasets.prepared import Prepared


def batch_indices(count: int, batch_size: int, position: int, seed: int) -> np.ndarray:
    """The samples of batch number `position` of a training, (batch_size,) int64.

    Passes over the `count` samples follow each other, each a permutation of its own, f(seed, pass), and are cut into
    batches; a batch may straddle two passes.
    """
    first, last = position * batch_size, (position + 1) * batch_size
    passes = range(first // count, (last - 1) // count + 1)
    order = np.concatenate([np.random.default_rng([seed, p]).permutation(count) for p in passes])
    return order[first - passes[0] * count : last - passes[0] * count]


class Order:
    """The samples of the batches of one epoch of `steps` from `position` on, each (batch_size,), whenever iterated.

    Each of `world` processes takes its own `rank`'s share of every batch of world * batch_size samples.
    """

    def __init__(self, count: int, batch_size: int, steps: int, seed: int, rank: int, world: int) -> None:
        self.count, self.batch_size, self.steps, self.seed = count, batch_size, steps, seed
        self.rank, self.world = rank, world
        self.position = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        share = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for position in range(self.position, self.position + self.steps):
            yield batch_indices(self.count, self.batch_size * self.world, position, self.seed)[share]


class Batches:
    """An endless, shuffled record cut into epochs of `steps` batches {"x": normalised (B, C, Y, X) float32}.

    Iterating yields one epoch from where the loader stands; `state_dict` holds that place. `steps` is by default what
    one pass over the samples takes. For `rank` and `world` see `Order`.
    """

    def __init__(
        self,
        reader: "Reader",
        batch_size: int,
        steps: int | None = None,
        seed: int = 0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        steps = steps or -(-len(reader) // (batch_size * world))
        self.reader, self.workers = reader, workers
        self.order = Order(len(reader), batch_size, steps, seed, rank, world)

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[dict[str, "torch.Tensor"]]:
        for batch in self._read_ahead if self.workers else map(self.reader.__getitem__, self.order):
            self.order.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.order.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.order.position = int(state["position"])

    @cached_property
    def _read_ahead(self) -> "torch.utils.data.DataLoader":
        """Batches from worker processes, which are not forked: Numba's and NetCDF's threads do not survive that."""
        from torch.utils.data import DataLoader

        return DataLoader(
            self.reader,
            batch_size=None,
            sampler=self.order,
            num_workers=self.workers,
            persistent_workers=True,
            multiprocessing_context="forkserver",
        )


class InOrder:
    """All samples once, in the order of the record: {"x": normalised (B, C, Y, X) float32}, the last batch smaller."""

    def __init__(self, reader: "Reader", batch_size: int) -> None:
        self.reader, self.batch_size = reader, batch_size

    def __len__(self) -> int:
        return -(-len(self.reader) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, "torch.Tensor"]]:
        for first in range(0, len(self.reader), self.batch_size):
            yield self.reader[np.arange(first, min(first + self.batch_size, len(self.reader)))]


class Reader:
    """Reads and normalises many samples of one split at once. Sent to a worker it carries the path, not the data."""

    def __init__(self, prepared: "Prepared", name: str, normaliser: Normaliser) -> None:
        self.path: Path = prepared.path
        self.start, self.stop = prepared.range(name)
        self.normaliser = normaliser

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, indices: np.ndarray) -> dict[str, "torch.Tensor"]:
        import torch

        return {"x": torch.from_numpy(self.normaliser.encode(self._array[self.start + np.asarray(indices)]))}

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_array"}

    @cached_property
    def _array(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")
