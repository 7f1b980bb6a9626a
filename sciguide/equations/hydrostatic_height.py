"""Hydrostatic balance of the layers between levels of pressure, with heights in metres.

    r = g (height[k + 1] - height[k]) / (ln p[k + 1] - ln p[k]) + R (T[k] + T[k + 1]) / 2

`height`: geopotential height; `g`: standard gravity, by which it is defined; the rest, the levels (z is ln p, the top
first), limits and good values as in `hydrostatic`. A guide may move both fields.
"""

from sympy import Expr

from sciguide.equations.base import Constant, Equation, Field
from sciguide.equations.hydrostatic import TEMPERATURES, layer_mean, slope


class HydrostaticHeight(Equation):
    """g dheight / dln(p) = -R T."""

    height = Field(units="m", long_name="geopotential height", standard_names=("geopotential_height",))
    T = Field(units="K", long_name="temperature", standard_names=TEMPERATURES)
    R = Constant(287.04, units="J kg-1 K-1", long_name="gas constant of dry air")
    g = Constant(9.80665, units="m s-2", long_name="standard gravity")
    axes = ("z", "y", "x")
    vertical = "ln(re 1 Pa)"
    moves = ("height", "T")
    scale = "thickness"
    units = "m2 s-2"

    def residual(self) -> Expr:
        return self.g * slope(self.height) + self.R * layer_mean(self.T)

    def thickness(self) -> Expr:
        """The term that the residual is compared with."""
        return self.R * layer_mean(self.T)
