"""`sciguide fit -c CONFIG`: train a diffusion model with Lightning; the result is `model.pt` in the run's folder.

A run's folder holds its config, metrics, checkpoints and model. Running `fit` again with the same config resumes from
the last checkpoint; with another one it refuses.
"""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from sciguide.cli.parser import check_import, restrict_imports
from sciguide.errors import InputError

MODEL = "model.pt"


def run(argv: list[str]) -> int:
    words = restrict_imports(argv) or ["--help"]
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    from lightning.pytorch.cli import LightningCLI

    from sciguide.cli.fit_parser import FitParser
    from sciguide.datasets.module import GridData
    from sciguide.training.diffusion import DiffusionModule

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)

    class Cli(LightningCLI):
        """Puts everything of a run into its folder, resumes, and exports the model at the end."""

        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_argument("--run", type=str, default="runs/run", help="folder of this run")
            parser.add_argument("--ema_decay", type=float, default=0.999, help="of the average of the weights")

    before, sys.argv = sys.argv, ["sciguide", *words]  # where LightningCLI wants them
    try:
        cli = Cli(
            DiffusionModule,
            GridData,
            seed_everything_default=0,
            parser_class=FitParser,
            parser_kwargs={"prog": "sciguide fit", "allow_abbrev": False},
            save_config_callback=None,
            trainer_defaults={"logger": False, "enable_checkpointing": False},
            run=False,
        )
    finally:
        sys.argv = before
    train(cli)
    return 0


def train(cli: Any) -> None:
    """Fit the model that `cli` describes in its run folder, from the last checkpoint where there is one."""
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    folder = Path(cli.config.run)
    for name in cli.model.hparams.equations or {}:
        if ":" in name:
            check_import(name)
    config = cli.parser.dump(cli.config, skip_none=False)
    checkpoint = take_up(folder, config)
    cli.model.build(cli.datamodule)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    tell(cli)
    trainer = cli.trainer
    trainer.logger = CSVLogger(folder, name="metrics")  # one file per start of the run
    saving = ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False)
    trainer.callbacks += [EMAWeightAveraging(decay=cli.config.ema_decay), saving]
    trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    cli.model.cpu().export(cli.datamodule).save(folder / MODEL)
    point_last_to(folder)
    print(f"model: {folder / MODEL}")


def take_up(folder: Path, config: str) -> str | None:
    """The checkpoint to resume from, if the run's folder has one. Raises InputError where it holds another config."""
    saved, last = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if saved.is_file() and saved.read_text() != config:
        raise InputError(f"{folder} holds a run of another config ({saved}): give another --run, or remove that folder")
    if not last.is_file():
        return None
    print(f"resuming from {last}")
    return str(last)


def tell(cli: Any) -> None:
    """Print what was found in the data; warn where there is little of it."""
    from sciguide.kernels.backends import computed_by

    prepared, prior = cli.datamodule.prepared, cli.model.fitted.prior
    print(prepared.axes, *prepared.notes, sep="\n")
    sizes = ", ".join(f"{name} {stop - start}" for name, (start, stop) in prepared.split.items())
    if cli.model.fitted.equations:
        print(computed_by())
    print(f"samples: {sizes}; about {prepared.effective:.0f} independent ones; prior: {prior.kind}")
    if prepared.effective < 50:
        print(
            f"warning: {prepared.effective:.0f} independent samples: a network may copy them; see novelty in evaluate"
        )


def point_last_to(folder: Path) -> None:
    """`last` beside the run's folder points at it, where the file system has links."""
    link = folder.parent / "last"
    try:
        link.unlink(missing_ok=True)
        os.symlink(folder.name, link)
    except OSError:
        print(f"note: {link} could not be made; name the run {folder} instead")
