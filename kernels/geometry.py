"""What lies beyond the edges of a grid, as numbers: every boundary rule is a small linear map from points to ghosts.

    periodic    the point on the other side
    dirichlet   zero: the boundary value is 0 one spacing outside the last stored point
    neumann     the mirrored point, u[-1] = u[0] and u[-2] = u[1]: the wall lies half a spacing outside the last point
    open        nothing: a cell whose stencil leaves the grid is not valid
    one-sided   the polynomial through the nearest points: centred differences become one-sided ones of their own order

A centred first difference of order p over ghosts of degree p, or a second difference over ghosts of degree p + 1, is
the usual one-sided difference, (-3, 4, -1) / 2h or (2, -5, 4, -1) / h^2 for p = 2.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

AXES = ("z", "y", "x")
RULES = ("periodic", "dirichlet", "neumann", "open", "one-sided")
# the coefficients that a grid supplies: distances to the next point, radius of the sphere, cosine of the latitude of
# row j and of the face between j and j + 1, tangent of the latitude, 2 Omega sin(latitude)
METRICS = ("dz", "dy", "dx", "radius", "cos_lat", "cos_face", "tan_lat", "coriolis")


class Geometry(NamedTuple):
    """What of a grid changes the formula, not only its numbers; `uniform` and `onesided` along `axes`; `timed`: y is
    time, and no part of a Laplacian."""

    sphere: bool = False
    uniform: tuple[bool, ...] = (True, True)
    onesided: tuple[bool, ...] = (False, False)
    axes: tuple[str, ...] = ("y", "x")
    order: int = 2
    timed: bool = False

    @property
    def space(self) -> tuple[str, ...]:
        """The axes of Laplacians."""
        return tuple(a for a in self.axes if not (self.timed and a == "y"))


class Ghosts(NamedTuple):
    """The ghosts -halo ... -1, n ... n + halo - 1 of an axis: ghost e is sum_s weight[e, s] u[source[e, s]]; both are
    (2 halo, S), weight 0 where there is nothing."""

    source: NDArray[np.int64]
    weight: NDArray[np.float64]


def ghosts(rule: str, n: int, halo: int, coordinate: NDArray, degree: int = 2) -> Ghosts:
    """The ghosts of an axis of `n` points under `rule`. `coordinate`: (n + 2 halo,) where points and ghosts lie, which
    the one-sided rule needs. Raises ValueError where the axis is too short for the degree."""
    outside = np.r_[-halo:0, n : n + halo]
    if rule in ("periodic", "neumann"):
        mode = {"periodic": "wrap", "neumann": "symmetric"}[rule]
        source = np.pad(np.arange(n), halo, mode=mode)[outside + halo][:, None]
        return Ghosts(source, np.ones(source.shape))
    if rule in ("dirichlet", "open"):
        return Ghosts(np.zeros((2 * halo, 1), np.int64), np.zeros((2 * halo, 1)))
    if n <= degree:
        raise ValueError(f"one-sided differences need at least {degree + 1} points along an axis, not {n}")
    near = np.arange(degree + 1)
    source = np.where(outside[:, None] < 0, near, n - 1 - near)
    c, at = coordinate[source + halo], coordinate[outside + halo][:, None]
    weight = np.ones(source.shape)
    for s in near:  # Lagrange's weights
        others = near[near != s]
        weight[:, s] = np.prod((at - c[:, others]) / (c[:, [s]] - c[:, others]), axis=1)
    return Ghosts(source, weight)


def field_rule(rule: str, positive: bool) -> str:
    """The rule of a field: one that is never zero is mirrored where others get zeros."""
    return "neumann" if positive and rule in ("dirichlet", "open") else rule
