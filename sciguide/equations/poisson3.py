"""Poisson's equation with its source, in three dimensions.

    r = lap(phi) - f

As `poisson`, over (z, y, x): the seven-point Laplacian, second order where the spacing varies smoothly, lengths along
all three axes. On the sphere z is a height above a surface that is thin beside the radius: no metric term of z.
"""

from sciguide.equations.poisson import Poisson


class Poisson3(Poisson):
    """lap(phi) = f, over three axes."""

    axes = ("z", "y", "x")
