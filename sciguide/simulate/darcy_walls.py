"""Steady flow through a porous medium between walls, by the product rule.

    flow:    r = -K lap(p) - grad(K) . grad(p) - f
    wall_x:  r = wall_x dp/dx                       wall_x is 1 on the edges at both ends of x, else 0; wall_y likewise:
    wall_y:  r = wall_y dp/dy                       no flux through them; a corner has both

`K`, `p`, `f` and the first residual: as in `darcy_expanded`. There are no constants. `wall_x` and `wall_y` are data,
fields that are the same in all samples; smooth ones, or walls inside, do as well. `scale` is K lap(p) + grad(K) .
grad(p) for the flow, and the gradient of p for the walls, as one vector.

For data whose solver weighed the walls against the flow in the least-squares sense, as the 64 x 64 set of
physics-informed diffusion models: with `one-sided` edges these are its rows, and what is left of either is its
compromise, not an error. In a configuration it is `sciguide.simulate.darcy_walls:DarcyWalls`. Three residuals with
equal shares are the three channels of that set's R_MAE. It fails as `darcy_expanded` does. A guide may move p, which K
and f determine up to a constant.
"""

from sympy import Expr

from sciguide.equations.base import Field
from sciguide.equations.darcy_expanded import DarcyExpanded
from sciguide.kernels.stencil import ddx, ddy


class DarcyWalls(DarcyExpanded):
    """-K lap(p) - grad(K) . grad(p) = f, and no flux through walls."""

    wall_x = Field(long_name="where a wall bounds x")
    wall_y = Field(long_name="where a wall bounds y")
    moves = ("p",)
    scale = "sizes"
    vectors = (("wall_x", "wall_y"),)

    def residual(self) -> dict[str, Expr]:
        walls = {"wall_x": self.wall_x * ddx(self.p), "wall_y": self.wall_y * ddy(self.p)}
        return {"flow": super().residual(), **walls}

    def sizes(self) -> dict[str, Expr]:
        """The terms that the residuals are compared with."""
        return {"flow": self.flux_divergence(), "wall_x": ddx(self.p), "wall_y": ddy(self.p)}
