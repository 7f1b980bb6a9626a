"""Two-dimensional turbulence as vorticity and streamfunction, between two time steps.

    transport:       r = (w_next - w) / dt + div(u (w + f), v (w + f)) + drag w - nu lap(w)
    inversion:       r = w - lap(psi)
    inversion_next:  r = w_next - lap(psi_next)

with u = -dpsi/dy, v = dpsi/dx, and w, psi in the transport the means of both steps. `w`: vertical vorticity; `psi`:
streamfunction (codes with u = dpsi/dy want it negated); each with the value `dt` seconds later. `nu`: viscosity;
`drag`: linear friction; f: 2 Omega sin(lat) on the sphere, where this is the barotropic vorticity equation, nothing on
a plane. A flow that is forced has its forcing as r. `scale` is the transport without f, lap(psi) for the inversions.

Flux form: over an evenly spaced torus r sums to what the mean vorticity changes by. Its velocity has no divergence at
all, so an even vorticity is at rest. Midpoint in time, centred in space, second order in both. Each step is inverted
for itself, a saw-tooth in time would pass a mean. It fails for snapshots farther apart than about a turnover time,
max|w| dt = 1, for filaments thinner than five points, and on data of a spectral code near its cut-off. On a pair of
states at T = 0 and 1 it says nothing. Where only w is at hand, psi comes from a Poisson solve.
Good values, spectral solutions of decaying turbulence: transport .04 to .2 on 128 x 128 points, .2 to .5 on every
second of them; inversions .005 to .02, and .02 to .06. `order = 4` makes .01 and .08 of a transport of .04 and .2.
A guide may move every field.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.kernels.stencil import coriolis, ddx, ddy, div, lap, middle


class Vorticity(Equation):
    """dw/dt + div(u (w + f), v (w + f)) = nu lap(w) - drag w, w = lap(psi)."""

    w = Field(
        units="s-1",
        long_name="vertical vorticity",
        standard_names=("atmosphere_upward_relative_vorticity", "ocean_relative_vorticity"),
    )
    psi = Field(units="m2 s-1", long_name="streamfunction", standard_names=("atmosphere_horizontal_streamfunction",))
    w_next = Field(next="w")
    psi_next = Field(next="psi")
    nu = Constant(0.0, units="m2 s-1", long_name="viscosity")
    drag = Constant(0.0, units="s-1", long_name="linear friction")
    dt = Constant(1.0, units="s", long_name="time step")
    moves = ("w", "psi", "w_next", "psi_next")
    scale = "sizes"

    def residual(self) -> dict[str, Expr]:
        w, psi = self._middle()
        tendency = (self.w_next - self.w) / self.dt
        return {
            "transport": tendency + transport(psi, w + coriolis(0)) + self.drag * w - self.nu * lap(w),
            "inversion": self.w - lap(self.psi),
            "inversion_next": self.w_next - lap(self.psi_next),
        }

    def sizes(self) -> dict[str, Expr]:
        """The terms that the residuals are compared with."""
        w, psi = self._middle()
        return {"transport": transport(psi, w), "inversion": lap(self.psi), "inversion_next": lap(self.psi_next)}

    def _middle(self) -> tuple[Expr, Expr]:
        return middle(self.w, self.w_next), middle(self.psi, self.psi_next)


def transport(psi: Expr, q: Expr) -> Expr:
    """div(u q, v q) of the flow along psi."""
    return div(-ddy(psi) * q, ddx(psi) * q)
