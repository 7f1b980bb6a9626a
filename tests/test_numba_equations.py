"""Every shipped equation's CPU kernels against the reference, on fields of its own sizes."""

import numpy as np
import pytest
import torch
from test_equation_gradients import made
from test_numba_backend import assert_equal

from sciguide.equations import names


@pytest.mark.parametrize("name", names())
def test_every_equation(name):
    op, u, _ = made(name, "torus")
    site = op.kernels.site
    x = u.float()
    unit = x.double().square().mean((0, *range(2, x.ndim))).sqrt().numpy()
    # as a model holds them: of order one, with the units folded into the kernel
    normalised = site.with_units(np.zeros(len(unit)), unit, np.zeros(len(unit), bool))
    x = x / torch.from_numpy(unit).float().reshape(-1, *(1,) * site.axes)
    assert_equal(normalised, x, ("gradient",))
