"""Steady flow through a porous medium, in flux form.

    r = -div(K grad p) - f

`K`: hydraulic conductivity (permeability), positive; `p`: head (pressure); `f`: source of fluid per volume. Any units
that fit together: those of f are those of K p per length squared. There are no constants; a source that is one number
is a field of that number. `scale` is div(K grad p), which on data that solve the equation is the source itself.

Fluxes through the faces between points, with the arithmetic mean of K there: second order where K is smooth, on
stretched grids whose spacing varies smoothly, and conservative: what leaves a cell enters its neighbour, so that on a
torus r sums to minus the sum of f. `Darcy` in a file of one's own with `div(K * grad(p, mean="harmonic"))` is the form
of many reservoir codes. Neither resolves a jump of K: cells beside an interface have r of the size of K p / dx^2
unless the data were made with this very mean (neural-operator data of two phases: 1.1 to 1.6 over all cells, .02 where
the stencil lies in one phase).

With open boundaries, the default, r lives on the points inside and the edge is taken as given. `one-sided` continues
p by a cubic and K by a parabola, which is second order at the edge too; `neumann` is a wall without flux half a
spacing outside the last point. Two differences amplify noise: p rounded to TF32 makes r as large as p = 0 does.
A good value is that of the data. A guide may move p, which K and f determine; train on log K.
"""

from sympy import Expr

from sciguide.equations.base import Equation, Field
from sciguide.kernels.stencil import div, grad

CONDUCTIVITY = ("soil_hydraulic_conductivity_at_saturation",)


class Darcy(Equation):
    """-div(K grad(p)) = f."""

    K = Field(long_name="conductivity", standard_names=CONDUCTIVITY, positive=True)
    p = Field(long_name="head")
    f = Field(long_name="source")
    moves = ("p",)
    scale = "flux_divergence"

    def residual(self) -> Expr:
        return -div(self.K * grad(self.p)) - self.f

    def flux_divergence(self) -> Expr:
        """The term that the residual is compared with."""
        return div(self.K * grad(self.p))
