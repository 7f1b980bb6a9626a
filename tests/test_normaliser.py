"""Physical to normalised and back: exact, on any array, blind to land."""

import json

import numpy as np
import pytest
import torch

from sciguide.datasets.normaliser import Normaliser
from sciguide.datasets.prepare import prepare
from sciguide.errors import InputError

NORMALISER = Normaliser(np.array([280.0, -1.0]), np.array([12.0, 0.8]), np.array([False, True]), ("T", "K"))


def physical(dtype=np.float32):
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(280, 12, (3, 5, 6)), np.exp(rng.normal(-1, 0.8, (3, 5, 6)))], 1).astype(dtype)
    x[..., 0, :2] = np.nan
    return x


def test_formula_and_round_trip():
    x = physical(np.float64)
    z = NORMALISER.encode(x)
    expected = np.nan_to_num(np.stack([(x[:, 0] - 280) / 12, (np.log(x[:, 1]) + 1) / 0.8], 1), nan=0.0)
    np.testing.assert_allclose(z, expected, rtol=1e-14, atol=1e-14)
    assert (z[..., 0, :2] == 0).all()
    land = np.isnan(x)
    np.testing.assert_allclose(NORMALISER.decode(z)[~land], x[~land], rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_agrees_with_numpy_and_keeps_the_type(dtype):
    x = torch.tensor(physical(np.float64)).to(dtype)
    z = NORMALISER.encode(x)
    assert z.dtype == dtype and NORMALISER.decode(z).dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(z.numpy(), NORMALISER.encode(physical(np.float64)), atol=tolerance)
    assert NORMALISER.encode(physical(np.float32)).dtype == np.float32


def test_gradients_are_finite_on_land():
    x = torch.tensor(physical(np.float64), requires_grad=True)
    NORMALISER.encode(x).square().sum().backward()
    land = torch.isnan(x.detach())
    assert torch.isfinite(x.grad).all() and (x.grad[land] == 0).all() and (x.grad[~land] != 0).all()
    z = torch.zeros(1, 2, 3, 3).index_fill(1, torch.tensor(0), 300.0).requires_grad_()  # the exp of T would overflow
    NORMALISER.decode(z).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_what_is_on_land_changes_nothing_at_sea():
    x = physical()
    other = x.copy()
    other[:, 0, 0, :2] = 1e30
    z = NORMALISER.encode(other)
    np.testing.assert_array_equal(z[..., 1:, :], NORMALISER.encode(x)[..., 1:, :])


def test_not_positive_is_refused():
    x = physical()
    x[1, 1, 3, 3] = 0.0
    for array in (x, torch.tensor(x)):
        with pytest.raises(InputError, match="`K` is not positive"):
            NORMALISER.encode(array)


def test_description_is_plain_and_exact(tmp_path):
    state = NORMALISER.to_dict()
    torch.save(state, tmp_path / "n.pt")
    for copy in (json.loads(json.dumps(state)), torch.load(tmp_path / "n.pt", weights_only=True)):
        again = Normaliser.from_dict(copy)
        np.testing.assert_array_equal(again.encode(physical()), NORMALISER.encode(physical()))
        assert again.names == ("T", "K")


def test_fitted_fields_have_mean_zero_and_variance_one(make_fields, tmp_path):
    make_fields().to_netcdf(tmp_path / "a.nc")
    done = prepare(tmp_path / "a.nc", cache=tmp_path / "cache")
    z = Normaliser.fit(done).encode(np.asarray(done.array)).astype(np.float64)
    weights = np.cos(np.deg2rad(done.layout.y))[:, None] * done.layout.mask
    weights /= weights.sum((1, 2), keepdims=True)
    np.testing.assert_allclose((weights * z.mean(0)).sum((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose((weights * (z**2).mean(0)).sum((1, 2)), 1, rtol=1e-6)
