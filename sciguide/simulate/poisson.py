"""Pairs (f, phi) with lap(phi) = f on the unit square, phi = 0 on its edges: see `linear_pair.py`, also for their exact
posterior."""

from sciguide.equations.poisson import Poisson
from sciguide.simulate.linear_pair import ALPHA, TAU, LinearPair, Posterior, square_root
from sciguide.simulate.square import axes, coordinates

__all__ = ["ALPHA", "TAU", "Posterior", "axes", "coordinates", "square_root"]

TITLE = "Solutions of Poisson's equation with random sources"
VARIABLES = {
    "f": {"long_name": "source, the Laplacian of phi", "units": "1"},
    "phi": {"long_name": "solution of lap(phi) = f, zero on the edges", "units": "1"},
}
GROUP = 1
PAIR = LinearPair(Poisson, "phi")
operator, solve, draw, attributes = PAIR.operator, PAIR.solve, PAIR.draw, PAIR.attributes
exact_posterior = PAIR.exact_posterior


def static(n: int) -> dict:
    """Nothing: each sample has its own source."""
    return {}
