"""What the numbers of an action mean: how a policy bends the formula.

In this order: log s^2 of every constraint, one number or one per band; the metric of every channel, one number or one
per octave, less their mean over the channels, as only differences matter; and where a policy decides how much work is
done, the logarithm of every iterative correction's iterations over the formula's, and whether the chain ends here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from sciguide.guidance import Constraint

STOPS = 0.5  # above it the chain ends; 2, which few actions reach at first, was learned less well on the same budget
STOP = "stop"


class Levers(NamedTuple):
    """What a policy may bend: s^2 of each constraint in so many `bands` and the metric of each channel in so many
    `octaves`, 1 or 4; and with `compute` the iterations of corrections and where the chain ends."""

    bands: int = 4
    octaves: int = 1
    compute: bool = False


USUAL = Levers()


class Bend(NamedTuple):
    """For one constraint: `log_s2` (B, 1) or (B, bands), of each of the equations in it, one after another; `tilt`
    (B, C) or (B, C, 4) or None, `effort` (B,) or None."""

    log_s2: Tensor
    tilt: Tensor | None
    effort: Tensor | None


class Actions:
    """The numbers for `constraints` on fields with these `channels`. With one channel there is no metric to choose
    between fields. `names`: of the numbers."""

    def __init__(self, constraints: Sequence["Constraint"], channels: Sequence[str], levers: Levers) -> None:
        self.levers, self.channels = levers, len(channels)
        parts = [getattr(c, "parts", (c.name,)) for c in constraints]  # equations that are solved together
        bands = [min(c.bands, levers.bands) for c in constraints]
        self.bands = [b * len(of) for b, of in zip(bands, parts, strict=True)]
        self.taken = [c.octaves for c in constraints]  # octaves of the metric that a constraint can tell apart
        self.octaves = min(levers.octaves, max(self.taken, default=1)) if self.channels > 1 else 0
        self.iterative = [levers.compute and c.iterative for c in constraints]
        names = [_banded(f"log s2 {part}", b, "band") for b, of in zip(bands, parts, strict=True) for part in of]
        names += [_banded(f"metric {name}", self.octaves, "octave") for name in channels]
        names += [[f"log iterations {c.name}"] for c, yes in zip(constraints, self.iterative, strict=True) if yes]
        self.names = (*(n for group in names for n in group), *([STOP] if levers.compute else []))

    def bends(self, action: Tensor) -> list[Bend]:
        """Of an action (B, A), for every constraint."""
        sizes = [*self.bands, self.channels * self.octaves, *self.iterative, self.levers.compute]
        *variances, metric, rest, _ = action.split([*sizes[: len(self.bands) + 1], sum(self.iterative), sizes[-1]], 1)
        tilt = metric.reshape(len(action), self.channels, self.octaves) if self.octaves else None
        if tilt is not None:
            tilt = tilt - tilt.mean(1, keepdim=True)
        efforts = iter(rest.unbind(1))
        return [
            Bend(log_s2, _tilt(tilt, octaves), next(efforts) if yes else None)
            for log_s2, octaves, yes in zip(variances, self.taken, self.iterative, strict=True)
        ]

    def stops(self, action: Tensor) -> Tensor | None:
        """Whether each member's chain ends here, (B,); None where that is not a policy's to say."""
        return action[:, -1] > STOPS if self.levers.compute else None


def _banded(name: str, bands: int, kind: str) -> list[str]:
    return [name + (f" {kind} {b}" if bands > 1 else "") for b in range(bands)]


def _tilt(tilt: Tensor | None, octaves: int) -> Tensor | None:
    """For a constraint that tells so many octaves apart: (B, C, 4), or their mean (B, C)."""
    if tilt is None or (octaves > 1 and tilt.shape[2] > 1):
        return tilt
    return tilt.mean(2)
