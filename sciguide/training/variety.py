"""What varies from one tuning problem to the next, and is not told to the policy: ranges, and a draw from each.

Problems come in groups, whose draw (`Group`) they share: how many stations there are and where, the errors that are
told, the number of evaluations, and by how much the equations' constants are off. Within a group every problem has its
own (`Own`): by what its true errors differ from the told ones, and by how much each variable's estimate is off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sciguide.errors import InputError

Range = tuple[float, float]


class Group(NamedTuple):
    """What the problems of a group share. `constants`: factors of the equations' constants."""

    points: int
    error: float
    steps: int
    constants: dict[str, float]


class Own(NamedTuple):
    """A problem's own: true errors over told ones, and the `bias` of the estimate of each channel, (C,), over the
    standard deviation of the error that the prior leads to expect."""

    factor: float
    bias: NDArray[np.float64]


@dataclass(frozen=True)
class Variety:
    """`points` of the `channels` are observed, none where it is (0, 0), with told errors `error`, in standard
    deviations of the fields, the true ones a factor from [1 / misreport, misreport] larger; chains have so many
    `steps`; the guide's `constants` are a factor from [1 / value, value] of the true ones; the estimates of a channel
    are off by up to `bias`, drawn uniformly, the others in the logarithm."""

    points: Range = (0, 0)
    channels: tuple[int, ...] = ()
    error: Range = (0.1, 0.1)
    misreport: float = 1.0
    steps: Range = (20, 20)
    bias: float = 0.0
    constants: Mapping[str, float] = field(default_factory=dict)

    @property
    def grouped(self) -> bool:
        """Whether groups differ in more than where their stations are."""
        return bool(self.constants) or any(low != high for low, high in (self.points, self.error, self.steps))

    def group(self, judged: bool, number: int) -> Group:
        """The draw of group `number`, of tuning or of judging."""
        rng = np.random.default_rng([int(judged), number, 4])
        points, error, steps = (_between(rng, r) for r in (self.points, self.error, self.steps))
        constants = {name: _between(rng, (1 / most, most)) for name, most in self.constants.items()}
        return Group(round(points), error, round(steps), constants)

    def own(self, number: int, channels: int) -> Own:
        """The draw of problem `number`, of fields with so many channels."""
        rng = np.random.default_rng([number, 4])
        factor = _between(rng, (1 / self.misreport, self.misreport))
        return Own(factor, self.bias * rng.uniform(size=channels))


def _between(rng: np.random.Generator, ends: Range) -> float:
    """Log-uniform; the end itself where both agree, zero among them."""
    low, high = ends
    drawn = rng.uniform()
    return float(low) if low == high else float(np.exp(np.log(low) + drawn * np.log(high / low)))


def span(name: str, given: float | Sequence[float], least: float) -> Range:
    """The ends of a range, given as one number or two. Raises InputError for others, or below `least`."""
    ends = tuple(given) if isinstance(given, Sequence) else (given, given)
    if len(ends) != 2 or not least <= ends[0] <= ends[1]:
        raise InputError(f"{name} {given}: one number or [low, high], at least {least:g}")
    return ends
