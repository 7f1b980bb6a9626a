"""Incompressible flow in a plane, between two time steps.

    momentum_x:       r = (u_next - u) / dt + u du/dx + v du/dy + dp/dx - nu lap(u) - force_x      u, v, p here the
    momentum_y:       r = (v_next - v) / dt + u dv/dx + v dv/dy + dp/dy - nu lap(v) - force_y      means of both steps
    divergence:       r = du/dx + dv/dy
    divergence_next:  r = du_next/dx + dv_next/dy

`u`, `v`: velocity along x and y; `p`: kinematic pressure, that is pressure over density; each with the value `dt`
seconds later. `nu`: kinematic viscosity; `force_x`, `force_y`: one body force everywhere, such as the mean pressure
gradient of a channel. Pure numbers do as well as metres and seconds. `scale` is the pressure gradient for the momentum,
as one vector, and the vorticity for the divergences.

Advective form, so that an error of the divergence shows in its own components only (flux form adds u div(u, v));
midpoint in time and centred in space, second order in both, on stretched grids too. The divergence of each step is
asked for, not that of their mean, which a saw-tooth in time would pass. It fails for snapshots farther apart than about
a turnover time, one over the largest vorticity, at corners and edges of a moving wall, where gradients are not
resolved, for a saw-tooth of two grid lengths in p, which centred differences do not see, and on the sphere, whose
metric terms it lacks. A forcing that varies in space stays in r. Solvers that hold p half a step apart, or on a
staggered grid, differ by that much.
Good values, spectral solutions of decaying turbulence: momentum .01 to .03 on 128 x 128 points, .04 to .08 on every
second of them; divergence .002 to .007, and .009 to .02. A guide may move every field.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.kernels.stencil import curl, ddx, ddy, div, lap, middle

X_NAMES = ("x_velocity", "sea_water_x_velocity", "x_wind", "eastward_sea_water_velocity", "eastward_wind")
Y_NAMES = ("y_velocity", "sea_water_y_velocity", "y_wind", "northward_sea_water_velocity", "northward_wind")


class NavierStokes(Equation):
    """du/dt + u . grad(u) + grad(p) = nu lap(u), div(u) = 0."""

    u = Field(units="m s-1", long_name="velocity along x", standard_names=X_NAMES)
    v = Field(units="m s-1", long_name="velocity along y", standard_names=Y_NAMES)
    p = Field(units="m2 s-2", long_name="kinematic pressure")
    u_next = Field(next="u")
    v_next = Field(next="v")
    p_next = Field(next="p")
    nu = Constant(0.01, units="m2 s-1", long_name="kinematic viscosity")
    force_x = Constant(0.0, units="m s-2", long_name="body force along x")
    force_y = Constant(0.0, units="m s-2", long_name="body force along y")
    dt = Constant(1.0, units="s", long_name="time step")
    moves = ("u", "v", "p", "u_next", "v_next", "p_next")
    scale = "sizes"
    vectors = (("momentum_x", "momentum_y"),)

    def residual(self) -> dict[str, Expr]:
        u, v, p = self._middle()
        du, dv = (self.u_next - self.u) / self.dt, (self.v_next - self.v) / self.dt
        return {
            "momentum_x": du + u * ddx(u) + v * ddy(u) + ddx(p) - self.nu * lap(u) - self.force_x,
            "momentum_y": dv + u * ddx(v) + v * ddy(v) + ddy(p) - self.nu * lap(v) - self.force_y,
            "divergence": div(self.u, self.v),
            "divergence_next": div(self.u_next, self.v_next),
        }

    def sizes(self) -> dict[str, Expr]:
        """The terms that the residuals are compared with."""
        p = self._middle()[2]
        return {
            "momentum_x": ddx(p),
            "momentum_y": ddy(p),
            "divergence": curl(self.u, self.v),
            "divergence_next": curl(self.u_next, self.v_next),
        }

    def _middle(self) -> tuple[Expr, Expr, Expr]:
        return middle(self.u, self.u_next), middle(self.v, self.v_next), middle(self.p, self.p_next)
