"""Pairs (f, psi) with lap(psi) + psi = f on the unit square, psi = 0 on its edges: see `linear_pair.py`, also for their
exact posterior. The smallest eigenvalue of the square, 2 pi^2, is far from 1: the solution is unique."""

from sciguide.equations.helmholtz import Helmholtz
from sciguide.simulate.linear_pair import ALPHA, TAU, LinearPair, Posterior, square_root
from sciguide.simulate.square import axes, coordinates

__all__ = ["ALPHA", "TAU", "Posterior", "axes", "coordinates", "square_root"]

TITLE = "Solutions of Helmholtz's equation with random sources"
VARIABLES = {
    "f": {"long_name": "source, the Laplacian of psi plus psi", "units": "1"},
    "psi": {"long_name": "solution of lap(psi) + psi = f, zero on the edges", "units": "1"},
}
GROUP = 1
PAIR = LinearPair(Helmholtz, "psi")
operator, solve, draw = PAIR.operator, PAIR.solve, PAIR.draw
exact_posterior = PAIR.exact_posterior


def static(n: int) -> dict:
    """Nothing: each sample has its own source."""
    return {}


def attributes() -> dict:
    """What a file says of how its samples were drawn."""
    return PAIR.attributes() | {"wavenumber_squared": 1.0}
