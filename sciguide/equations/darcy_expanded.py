"""Steady flow through a porous medium, by the product rule.

    r = -K lap(p) - grad(K) . grad(p) - f

`K`, `p`, `f` and what is said of them, of edges and of rounding: as in `darcy`. There are no constants. `scale` is
K lap(p) + grad(K) . grad(p), which on data that solve the equation is the source itself.

Second order for smooth K, on stretched grids too. It is the form in which the 64 x 64 set of physics-informed
diffusion models was solved and scored: with `one-sided` edges the rows there are (-3, 4, -1) / 2 h and
(2, -5, 4, -1) / h^2, as in their solver. It fails where K varies by more than a factor of about 2 between neighbours,
is not conservative (what leaves a cell need not enter its neighbour: over a torus r does not sum to -f), and a K of two
grid lengths is invisible to its centred differences. Where you make the data yourself, prefer `darcy`. The residual of
its solution there, and the other way round, is the truncation error: not small, where K is rough.
A guide may move p, which K and f determine.
"""

from sympy import Expr

from sciguide.equations.base import Equation, Field
from sciguide.equations.darcy import CONDUCTIVITY
from sciguide.kernels.stencil import div, expand, grad


class DarcyExpanded(Equation):
    """-K lap(p) - grad(K) . grad(p) = f."""

    K = Field(long_name="conductivity", standard_names=CONDUCTIVITY, positive=True)
    p = Field(long_name="head")
    f = Field(long_name="source")
    moves = ("p",)
    scale = "flux_divergence"

    def residual(self) -> Expr:
        return -expand(div(self.K * grad(self.p))) - self.f

    def flux_divergence(self) -> Expr:
        """The term that the residual is compared with."""
        return expand(div(self.K * grad(self.p)))
