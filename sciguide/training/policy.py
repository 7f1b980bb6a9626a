"""The learned policy as a LightningModule: roll-outs are its data, an update is its step.

An epoch is one update: the roll-outs of one batch of problems under the policy as it is, and a few passes over them.
Everything drawn is keyed by the number of the update, so a checkpoint resumes to the same policy.
"""

from collections.abc import Iterator

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sciguide.guidance import EVEN
from sciguide.learner import Task, Worth, clipped_loss, own_numbers
from sciguide.policy import Learned
from sciguide.reward import advantages, returns_to_go
from sciguide.rollout import noise_seed


class RollOuts(IterableDataset):
    """One batch an epoch: the decisions of the module's policy, as it is then, on the problems of this update.

    Yields observation (D, O), action (D, A), log_prob and advantage (D,), D the decisions that had an effect.
    """

    def __init__(self, module: "PolicyModule") -> None:
        self.module = module

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        module = self.module
        h, policy, update = module.hparams, module.policy, int(module.update)
        numbers = own_numbers(module.task.seed, update * h.problems, h.problems)
        policy.generator = torch.Generator().manual_seed(noise_seed("tune", module.task.seed, update))
        played = module.task.play(policy, numbers, "tune", module.worth, h.noises, h.replicas, h.preference)
        policy.generator = None
        parts = []
        for p in played:
            advantage = advantages(returns_to_go(p.reward, p.terminal), h.replicas)
            stored = p.rollout
            fields = (stored.observation, stored.action, stored.log_prob, advantage)
            parts.append([f[stored.acted] for f in fields])
        observation, action, log_prob, advantage = (torch.cat(column) for column in zip(*parts, strict=True))
        module.last_action = action
        module.last_score = float(torch.cat([p.score for p in played]).mean())
        yield {
            "observation": observation,
            "action": action,
            "log_prob": log_prob,
            "advantage": advantage / advantage.std().clamp(min=1e-12),
        }


class PolicyModule(L.LightningModule):
    """Group-relative policy gradient for `policy` on `task`.

    Args:
        policy: what is learned
        task: what it is learned on
        worth: how returns are counted
        updates: how many there will be; the learning rate falls linearly to a tenth over them
        problems: per update
        noises: per problem, K
        replicas: per noise, A, which differ in their actions alone
        passes: over the roll-outs of an update
        clip: of the ratio of probabilities
        learning_rate: of Adam; where not given .6 / updates, between .01 and .02: few updates have to go as far
        preference: between the distribution (0) and physics (1); None is another one for each problem, so that one
            policy learns the whole trade-off
    """

    def __init__(
        self,
        policy: Learned,
        task: Task,
        worth: Worth,
        updates: int,
        problems: int = 8,
        noises: int = 2,
        replicas: int = 4,
        passes: int = 3,
        clip: float = 0.2,
        learning_rate: float | None = None,
        preference: float | None = EVEN,
    ) -> None:
        super().__init__()
        learning_rate = min(0.02, max(0.01, 0.6 / updates)) if learning_rate is None else learning_rate
        self.save_hyperparameters(ignore=["policy", "task", "worth"])
        self.automatic_optimization = False
        self.policy, self.task, self.worth = policy, task, worth
        # Lightning's own count of epochs is behind when the first batch after resuming is fetched
        self.register_buffer("update", torch.tensor(0))
        self.last_score = float("nan")
        self.last_action = torch.zeros(1, 1)

    @staticmethod
    def updates_within(trajectories: int, problems: int = 8, noises: int = 2, replicas: int = 4) -> int:
        """How many updates `trajectories` allow."""
        return max(1, trajectories // (problems * noises * replicas))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(RollOuts(self), batch_size=None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.policy.parameters(), self.hparams.learning_rate)

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        optimizer = self.optimizers()
        done = int(self.update) / self.hparams.updates
        for group in optimizer.param_groups:
            group["lr"] = self.hparams.learning_rate * (1 - 0.9 * done)
        for _ in range(self.hparams.passes):
            log_prob = self.policy(batch["observation"], batch["action"]).log_prob
            optimizer.zero_grad()
            self.manual_backward(clipped_loss(log_prob, batch["log_prob"], batch["advantage"], self.hparams.clip))
            optimizer.step()
        self.update += 1
