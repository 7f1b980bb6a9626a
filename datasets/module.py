"""The data section of a configuration, as Lightning wants it. Nothing else in `datasets` imports Lightning."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule

from sciguide.datasets.layout import Layout
from sciguide.datasets.loader import Batches, InOrder, Reader
from sciguide.datasets.normaliser import Normaliser
from sciguide.datasets.prepare import prepare
from sciguide.datasets.prepared import Prepared

Range = list[int] | list[float] | list[str] | None


@dataclass(eq=False)
class GridData(LightningDataModule):
    """Gridded fields from NetCDF or Zarr.

    Args:
        source: A file, a pattern such as `data/*.nc`, a folder, or a list of these.
        variables: Names of the variables to model; all gridded ones if left out.
        train: Training samples: [first, last] dates, both included, or [start, stop) sample numbers or fractions.
        validation: Validation samples, likewise.
        test: Test samples, likewise.
        units: Units of variables that lack them or state them wrongly, such as {u: m s-1}; nothing is converted.
        axes: Dimensions that are not recognised, such as {y: row, x: column, sample: run, level: depth}.
        log: Positive, heavy-tailed variables, whose logarithm is modelled.
        batch_size: Samples per batch and process.
        steps_per_epoch: Batches per epoch; as many as make one pass over the training samples if left out.
        workers: Processes that read ahead; 0 reads in the training process.
        seed: Fixes the order of the samples.
        cache: Folder of prepared data; $SCIGUIDE_CACHE or ~/.cache/sciguide if left out.
    """

    source: str | list[str]
    variables: list[str] | None = None
    train: Range = None
    validation: Range = None
    test: Range = None
    units: dict[str, str] | None = None
    axes: dict[str, str] | None = None
    log: list[str] = field(default_factory=list)
    batch_size: int = 16
    steps_per_epoch: int | None = None
    workers: int = 0
    seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.prepared: Prepared | None = None

    def prepare_data(self) -> None:
        """Fills the cache, in one process per machine."""
        self._prepare()

    def setup(self, stage: str | None = None) -> None:
        """Opens the prepared data."""
        if self.prepared is None:
            self.prepared = self._prepare()
            self.normaliser = Normaliser.fit(self.prepared)

    @property
    def layout(self) -> Layout:
        """Grid, variables and mask."""
        self.setup()
        return self.prepared.layout

    def split(self, name: str) -> np.ndarray:
        """The samples of "train", "validation" or "test", (T, C, Y, X) float32, physical, NaN off the mask."""
        self.setup()
        return self.prepared.rows(name)

    def train_dataloader(self) -> Batches:
        """Batches {"x": (B, C, Y, X)}, normalised, in shuffled order."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        reader = self._reader("train")
        return Batches(reader, self.batch_size, self.steps_per_epoch, self.seed, self.workers, rank, world)

    def val_dataloader(self) -> InOrder | list:
        """Batches of the validation samples in order; none where there are none."""
        return self._in_order("validation")

    def test_dataloader(self) -> InOrder | list:
        """Batches of the test samples in order; none where there are none."""
        return self._in_order("test")

    def _prepare(self) -> Prepared:
        options: dict[str, Any] = {"units": self.units, "axes": self.axes, "log": self.log, "cache": self.cache}
        return prepare(self.source, self.variables, self.train, self.validation, self.test, **options)

    def _reader(self, name: str) -> Reader:
        self.setup()
        return Reader(self.prepared, name, self.normaliser)

    def _in_order(self, name: str) -> InOrder | list:
        self.setup()
        return InOrder(self._reader(name), self.batch_size) if name in self.prepared.split else []
