"""A tracer carried by a flow, between two time steps.

    r = (c_next - c) / dt + div(u c, v c) - kappa lap(c)        u, v, c here the means of both time steps

`c`: amount of tracer per area (per volume, in a layer of even depth); `u`, `v`: eastward and northward velocity (along
x and y on a plane); each with the value `dt` seconds later. A steady flow is given twice. `kappa`: diffusivity, 0 for
none. `scale` is the advection u . grad(c).

Flux form: on an evenly spaced torus the tracer's sum changes by exactly the sum of r. A mixing ratio obeys this form
only where the flow has no divergence: multiply it by the mass of its layer first. Midpoint in time (Crank-Nicolson in a
steady flow) and centred in space, second order in both. It fails for steps longer than about a turnover time, one over
the largest vorticity, whatever the grid (snapshots a day apart do not resolve weather: expect r of the size of the
advection itself), for fronts and filaments thinner than five points, and for winds on one level, whose vertical
transport is missing.
Good values: .05 to .2 for vorticity as a tracer of turbulence on 128 x 128 points, .001 for a wave of forty points; 1
says that there is no relation. A guide may move every field.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.equations.nondivergence import Nondivergence
from sciguide.kernels.stencil import ddx, ddy, div, lap, middle


class AdvectionDiffusion(Equation):
    """dc/dt + div(u c, v c) = kappa lap(c)."""

    c = Field(long_name="tracer")
    u = Field(units="m s-1", long_name="eastward velocity", standard_names=Nondivergence.u.standard_names)
    v = Field(units="m s-1", long_name="northward velocity", standard_names=Nondivergence.v.standard_names)
    c_next = Field(next="c")
    u_next = Field(next="u")
    v_next = Field(next="v")
    kappa = Constant(0.0, units="m2 s-1", long_name="diffusivity")
    dt = Constant(1.0, units="s", long_name="time step")
    moves = ("c", "u", "v", "c_next", "u_next", "v_next")
    scale = "advection"

    def residual(self) -> Expr:
        c, u, v = self._middle()
        return (self.c_next - self.c) / self.dt + div(u * c, v * c) - self.kappa * lap(c)

    def advection(self) -> Expr:
        """The term that the residual is compared with."""
        c, u, v = self._middle()
        return u * ddx(c) + v * ddy(c)

    def _middle(self) -> tuple[Expr, Expr, Expr]:
        return middle(self.c, self.c_next), middle(self.u, self.u_next), middle(self.v, self.v_next)
