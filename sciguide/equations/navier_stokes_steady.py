"""Steady incompressible flow in a plane.

    momentum_x:  r = u du/dx + v du/dy + dp/dx - nu lap(u) - force_x
    momentum_y:  r = u dv/dx + v dv/dy + dp/dy - nu lap(v) - force_y
    divergence:  r = du/dx + dv/dy

Fields, constants and form as in `navier_stokes`, without time: `u`, `v`: velocity along x and y; `p`: kinematic
pressure; `nu`: kinematic viscosity; `force_x`, `force_y`: one body force everywhere. Pure numbers do as well as metres
and seconds. `scale` is the pressure gradient for the momentum, as one vector, and the vorticity for the divergence.

Centred differences, second order, on stretched grids too. It fails at corners of a moving wall, where velocity jumps
(a lid-driven cavity has most of its residual beside the lid's ends), in boundary layers of fewer than four
points, for a saw-tooth of two grid lengths in p, and on the sphere, whose metric terms it lacks. A time mean of an
unsteady flow does not obey it: the eddies' stress stays in r.
Good values: .003 to .006 for the momentum inside a lid-driven cavity of 101 x 101 stretched points, twice the viscosity
gives .4 to .9; .001 to .002 for the divergence. A guide may move every field.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.equations.navier_stokes import X_NAMES, Y_NAMES
from sciguide.kernels.stencil import curl, ddx, ddy, div, lap


class NavierStokesSteady(Equation):
    """u . grad(u) + grad(p) = nu lap(u), div(u) = 0."""

    u = Field(units="m s-1", long_name="velocity along x", standard_names=X_NAMES)
    v = Field(units="m s-1", long_name="velocity along y", standard_names=Y_NAMES)
    p = Field(units="m2 s-2", long_name="kinematic pressure")
    nu = Constant(0.01, units="m2 s-1", long_name="kinematic viscosity")
    force_x = Constant(0.0, units="m s-2", long_name="body force along x")
    force_y = Constant(0.0, units="m s-2", long_name="body force along y")
    moves = ("u", "v", "p")
    scale = "sizes"
    vectors = (("momentum_x", "momentum_y"),)

    def residual(self) -> dict[str, Expr]:
        u, v, p = self.u, self.v, self.p
        return {
            "momentum_x": u * ddx(u) + v * ddy(u) + ddx(p) - self.nu * lap(u) - self.force_x,
            "momentum_y": u * ddx(v) + v * ddy(v) + ddy(p) - self.nu * lap(v) - self.force_y,
            "divergence": div(u, v),
        }

    def sizes(self) -> dict[str, Expr]:
        """The terms that the residuals are compared with."""
        return {"momentum_x": ddx(self.p), "momentum_y": ddy(self.p), "divergence": curl(self.u, self.v)}
