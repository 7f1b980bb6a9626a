"""The unit square with its edges among the points."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def coordinates(n: int) -> NDArray[np.float64]:
    """The points along each axis, from 0 to 1."""
    return np.linspace(0.0, 1.0, n)


def axes(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The coordinates y and x with their CF attributes."""
    return {dim: (coordinates(n), {"long_name": f"{dim}, in sides of the square", "units": "1"}) for dim in ("y", "x")}
