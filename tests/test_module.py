"""Batches for training: right values, an order fixed by the seed, exact resuming, and the configuration's keys."""

import subprocess
import sys

import jsonargparse
import numpy as np
import pytest
import torch

from sciguide.datasets.loader import Batches, Reader, batch_indices
from sciguide.datasets.module import GridData

SPLIT = {"train": ["2002-01-01", "2002-01-08"], "validation": ["2002-01-09", "2002-01-11"]}


@pytest.fixture
def data(make_fields, tmp_path):
    """`data(...)` is a GridData of twelve days of made-up currents."""
    make_fields().to_netcdf(tmp_path / "a.nc")

    def make(**options):
        options = SPLIT | {"cache": str(tmp_path / "cache"), "batch_size": 3} | options
        return GridData(source=str(tmp_path / "a.nc"), **options)

    return make


def samples_of(batches, data):
    """Which training samples are in each batch, found by their values."""
    known = torch.from_numpy(data.normaliser.encode(np.array(data.split("train"))))
    distance = [(b["x"][:, None] - known[None]).abs().amax((2, 3, 4)) for b in batches]
    assert all((d.min(1).values == 0).all() for d in distance)
    return [d.argmin(1).tolist() for d in distance]


@pytest.mark.parametrize(("count", "size"), [(8, 3), (7, 7), (3, 8), (1, 2), (100, 16)])
def test_every_pass_holds_every_sample_once(count, size):
    stream = np.concatenate([batch_indices(count, size, k, seed=5) for k in range(4 * count)])
    passes = stream[: len(stream) // count * count].reshape(-1, count)
    np.testing.assert_array_equal(np.sort(passes, 1), np.broadcast_to(np.arange(count), passes.shape))
    if count > 6:
        assert (passes[0] != passes[1]).any()
        assert (batch_indices(count, size, 0, seed=6) != batch_indices(count, size, 0, seed=5)).any()


def test_batches(data):
    module = data(steps_per_epoch=4)
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches) == 4
    assert batches[0]["x"].shape == (3, 2, 6, 8) and batches[0]["x"].dtype == torch.float32
    assert (batches[0]["x"][:, :, :2, :3] == 0).all()
    assert samples_of(batches, module) == [batch_indices(8, 3, k, 0).tolist() for k in range(4)]
    assert len(data().train_dataloader()) == 3  # one pass: 8 samples by 3


def test_validation_is_in_order(data):
    module = data(batch_size=2)
    assert [b["x"].shape[0] for b in module.val_dataloader()] == [2, 1]
    z = torch.cat([b["x"] for b in module.val_dataloader()])
    np.testing.assert_array_equal(z, module.normaliser.encode(np.array(module.split("validation"))))
    assert module.test_dataloader() == []
    assert module.layout.names == ["u", "v"] and module.split("train").shape == (8, 2, 6, 8)


def test_resuming_inside_an_epoch(data):
    module = data(steps_per_epoch=5)
    whole = module.train_dataloader()
    straight = samples_of([*whole, *whole], module)
    first, second = module.train_dataloader(), module.train_dataloader()
    steps = iter(first)
    begun = samples_of([next(steps) for _ in range(3)], module)
    second.load_state_dict(first.state_dict())
    assert begun + samples_of(second, module)[:2] == straight[:5]


def test_processes_share_each_batch(data):
    module = data(steps_per_epoch=2)
    module.setup()
    reader = Reader(module.prepared, "train", module.normaliser)
    shares = [samples_of(Batches(reader, 2, 2, seed=3, rank=r, world=2), module) for r in range(2)]
    together = [a + b for a, b in zip(*shares, strict=True)]
    assert together == [batch_indices(8, 4, k, 3).tolist() for k in range(2)]


def test_workers_read_the_same(data):
    module = data(steps_per_epoch=3, workers=1)
    loader = module.train_dataloader()
    steps = iter(loader)
    next(steps)
    assert loader.state_dict() == {"position": 1}
    del steps
    assert samples_of(loader, module) == [batch_indices(8, 3, k, 0).tolist() for k in (1, 2, 3)]


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_training_resumes_exactly(data, tmp_path):
    """Lightning: five steps, saved inside the second epoch, and resumed to eight, against eight at once."""
    import lightning.pytorch as pl

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 6, 8))

        def training_step(self, batch, _):
            return (batch["x"] * self.weight).square().mean()

        def validation_step(self, batch, _):
            assert batch["x"].shape[1:] == (2, 6, 8)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.1)

    def run(steps, ckpt=None):
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_steps=steps, accelerator="cpu", enable_model_summary=False, **options)
        model = Model()
        trainer.fit(model, datamodule=data(), ckpt_path=ckpt)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return model.weight.detach()

    whole = run(8)
    run(5)
    torch.testing.assert_close(run(8, tmp_path / "5.ckpt"), whole, rtol=0, atol=0)


def test_configuration(data, tmp_path):
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(GridData, "data")
    config = parser.parse_object(
        {
            "data": {
                "source": "a/*.nc",
                "train": ["2002-01-01", "2002-09-30"],
                "validation": [0, 0.7],
                "units": {"u": "m"},
            }
        }
    )
    assert config.data.train == ["2002-01-01", "2002-09-30"] and config.data.validation == [0, 0.7]
    text = "data:\n  source: a.nc\n  train: [2002-01-01, 2002-09-30]\n  test: [800, 1000]\n  log: [K]\n"
    (tmp_path / "c.yaml").write_text(text)
    config = parser.parse_path(tmp_path / "c.yaml")
    assert config.data.train == ["2002-01-01", "2002-09-30"] and config.data.test == [800, 1000]
    assert isinstance(parser.instantiate_classes(config).data, GridData)
    assert "Positive, heavy-tailed variables" in " ".join(parser.format_help().split())


WITHOUT = """
import sys
for name in ("lightning", "xarray", "dask", "netCDF4", "cf_xarray", "cf_units", "scipy"):
    sys.modules[name] = None
from sciguide.datasets.loader import Batches, Reader
from sciguide.datasets.normaliser import Normaliser
from sciguide.datasets.prepared import open_prepared
prepared = open_prepared(sys.argv[1])
print(next(iter(Batches(Reader(prepared, "train", Normaliser.fit(prepared)), 3)))["x"].shape)
"""


def test_prepared_data_need_only_torch_and_numpy(data):
    module = data()
    module.setup()
    command = [sys.executable, "-c", WITHOUT, str(module.prepared.folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "torch.Size([3, 2, 6, 8])", done.stderr
