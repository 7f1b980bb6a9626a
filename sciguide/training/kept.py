"""What watches a policy learn: the best of its states on problems of their own, and a record of how it went."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sciguide.learner import Task, Worth
from sciguide.policy import LIMIT

CHECKS = 3  # in a run: of the formula, half-way and at the end
COLUMNS = ("update", "trajectories", "score", "entropy", "action_rms", "at_limit")


class Best(Callback):
    """Keeps the policy's state of the highest mean score on `problems` of their own, that with which it begins
    included. It is part of a checkpoint, so a resumed run keeps the same."""

    def __init__(self, task: Task, worth: Worth, updates: int, problems: Sequence[int], noises: int) -> None:
        self.task, self.worth, self.noises = task, worth, noises
        self.numbers, self.every = problems, -(-updates // (CHECKS - 1))
        self.score, self.state = -float("inf"), {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.state:
            self.check(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if int(pl_module.update) % self.every == 0 or int(pl_module.update) == pl_module.hparams.updates:
            self.check(pl_module)

    def check(self, module: L.LightningModule) -> None:
        """Score the policy's mean action, and keep its state where that is the best so far."""
        score = float(self.task.score(module.policy, self.numbers, "tune", self.worth, self.noises).mean())
        if score > self.score:
            self.score = score
            self.state = {k: v.detach().clone() for k, v in module.policy.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.state = state_dict["score"], state_dict["state"]


class History(Callback):
    """A row of `path`, a CSV file, for every update: what the policy scored, the entropy of its actions up to a
    constant (the sum of their log standard deviations), their root mean square, and the share of them at the limit.
    `each`: trajectories of an update; `spent`: before the first."""

    def __init__(self, path: Path, each: int, spent: int) -> None:
        self.path, self.each, self.spent = path, each, spent

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        update = int(pl_module.update)
        rows = self._rows(update)
        found = [pl_module.last_score, *summary(pl_module.policy.log_std, pl_module.last_action)]
        rows.append([update, self.spent + update * self.each, *(f"{v:.6g}" for v in found)])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])

    def _rows(self, update: int) -> list[list[Any]]:
        """What is there of earlier updates."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return [row for row in list(csv.reader(file))[1:] if int(row[0]) < update]


def summary(log_std: Tensor, action: Tensor) -> tuple[float, float, float]:
    """Entropy up to a constant, root mean square, share at the limit of actions (D, A)."""
    at_limit = (action.abs() >= LIMIT).double().mean()
    return float(log_std.detach().sum()), float(action.square().mean().sqrt()), float(at_limit)
