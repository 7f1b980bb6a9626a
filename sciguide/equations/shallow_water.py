"""A rotating layer of shallow water, between two time steps, on a plane or the sphere.

    momentum_x:  r = (u_next - u) / dt - (f + curl(u, v)) v + d/dx [g h + (u^2 + v^2) / 2]      u, v, h here the
    momentum_y:  r = (v_next - v) / dt + (f + curl(u, v)) u + d/dy [g h + (u^2 + v^2) / 2]      means of both
    mass:        r = (h_next - h) / dt + div(u h, v h)                                          steps

`u`, `v`: eastward and northward velocity (along x and y on a plane); `h`: depth of the layer, positive, over a level
bottom; each with the value `dt` seconds later. `g`: gravity, reduced gravity for an internal layer; `f`: the Coriolis
parameter on a plane, 2 Omega sin(lat) on the sphere. `scale` is g grad(h) for the momentum, as one vector, and the
difference of the two derivatives whose sum is the divergence, d(u h)/dx - d(v h)/dy, for the mass.

Vector-invariant form: one formula for plane and sphere, since the curl holds all metric terms (tan(lat) occurs
nowhere), and the one that energy- and enstrophy-conserving schemes step; mass in flux form: on an evenly spaced torus
the mean depth changes by exactly the mean of r. Midpoint in time, centred in space, second order in both. It fails for
steps in which a gravity wave, sqrt(g h), travels more than about half its length (balanced, slow flow bears longer
ones), for structure of two grid lengths, which centred differences on unstaggered points do not see (a solver on a C
grid differs by its averaging), on the last row before a pole, where layers vanish, and over a bottom that is not level,
whose slope stays in r.
Good values, spectral solutions of nearly balanced eddies, at most ten minutes apart: .02 on 128 x 128 points, .06 on
every second of them; for the mass .02 and .04, where the tendency of h itself is .04: truncation weighs most there.
A guide may move every field.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.equations.nondivergence import Nondivergence
from sciguide.kernels.stencil import coriolis, curl, ddx, ddy, div, middle


class ShallowWater(Equation):
    """du/dt + (f + curl(u)) k x u + grad(g h + u^2 / 2) = 0, dh/dt + div(u h) = 0."""

    u = Field(units="m s-1", long_name="eastward velocity", standard_names=Nondivergence.u.standard_names)
    v = Field(units="m s-1", long_name="northward velocity", standard_names=Nondivergence.v.standard_names)
    h = Field(units="m", long_name="depth of the layer", standard_names=("cell_thickness",), positive=True)
    u_next = Field(next="u")
    v_next = Field(next="v")
    h_next = Field(next="h")
    g = Constant(9.80665, units="m s-2", long_name="gravity")
    f = Constant(1e-4, units="s-1", long_name="Coriolis parameter on a plane")
    dt = Constant(1.0, units="s", long_name="time step")
    moves = ("u", "v", "h", "u_next", "v_next", "h_next")
    scale = "sizes"
    vectors = (("momentum_x", "momentum_y"),)

    def residual(self) -> dict[str, Expr]:
        u, v, h = self._middle()
        spin, head = coriolis(self.f) + curl(u, v), self.g * h + (u**2 + v**2) / 2
        return {
            "momentum_x": (self.u_next - self.u) / self.dt - spin * v + ddx(head),
            "momentum_y": (self.v_next - self.v) / self.dt + spin * u + ddy(head),
            "mass": (self.h_next - self.h) / self.dt + div(u * h, v * h),
        }

    def sizes(self) -> dict[str, Expr]:
        """The terms that the residuals are compared with."""
        u, v, h = self._middle()
        return {"momentum_x": self.g * ddx(h), "momentum_y": self.g * ddy(h), "mass": ddx(u * h) - ddy(v * h)}

    def _middle(self) -> tuple[Expr, Expr, Expr]:
        return middle(self.u, self.u_next), middle(self.v, self.v_next), middle(self.h, self.h_next)
