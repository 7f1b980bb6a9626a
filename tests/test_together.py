"""Equations that are solved together, against dense algebra."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sciguide.actions import Actions, Levers
from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.covariance import fit_prior
from sciguide.datasets.normaliser import Normaliser
from sciguide.equation_metric import Metric
from sciguide.equation_step import EquationStep
from sciguide.equations import get
from sciguide.grid import Grid
from sciguide.guidance import Guidance, constraints_for
from sciguide.jacobian import Jacobian
from sciguide.kriging import Kriging
from sciguide.model import NetworkError
from sciguide.observations import Observations
from sciguide.policy import Fixed
from sciguide.residual_spectrum import energies_of, shares
from sciguide.together import Together, grouped

SHAPE = (3, 8, 7)
GRID = Grid(np.linspace(30, 45, 8), np.linspace(0, 12, 7), sphere=True)
S2 = {"geostrophic": [0.02, 0.03], "nondivergence": [0.1]}
CHANNELS = {"geostrophic": [1, 2, 0], "nondivergence": [1, 2]}  # of z, u, v


def record(name: str, **constants: float) -> EquationRecord:
    scale = [8.0, 8.0] if name == "geostrophic" else [1e-5]
    operator = get(name)(**constants).on(GRID).scaled(scale)
    return EquationRecord(operator.to_dict(), CHANNELS[name], S2[name], 1e-6)


def wind_model(*records: EquationRecord) -> SimpleNamespace:
    """A prior of smooth random fields z, u, v that obey neither equation, and what constraints ask of a model."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, *SHAPE, generator=generator, dtype=torch.float64).cumsum(2).cumsum(3)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    normaliser = Normaliser(
        np.array([0.0, 10.0, 0.0]), np.array([2000.0, 8.0, 4.0]), np.zeros(3, bool), ("z", "u", "v")
    )
    model = SimpleNamespace(
        prior=fit_prior("eof", x, torch.ones(SHAPE).bool()), normaliser=normaliser, grid=GRID, shape=SHAPE,
        sigma_max=30.0, layout=SimpleNamespace(names=["z", "u", "v"]), variance=None, steps={}, equations=list(records),
        error=NetworkError([0.01, 30.0], [[1e-4, 2e-4, 3e-4], [0.5, 0.9, 0.7]]),
    )  # fmt: skip
    model.constraints = lambda: [EquationOnModel(r, normaliser, GRID) for r in model.equations]
    return model


def fields(count: int, seed: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, *SHAPE)))


def matrix(linear, size: int) -> torch.Tensor:
    """Of a linear map of batches of fields, (rows, size)."""
    return linear(torch.eye(size, dtype=torch.float64).reshape(-1, *SHAPE)).flatten(1).T


def test_rows_are_those_of_both():
    """Also where both have a constant of one name, with values of their own."""
    plane = record("geostrophic", f_least=2e-5)
    model = wind_model(plane, record("nondivergence"), record("geostrophic", f_least=7e-5))
    apart = model.constraints()
    (both,) = grouped(apart, model.normaliser, GRID)
    assert isinstance(both, Together) and both.parts == ("geostrophic", "nondivergence", "geostrophic")
    assert both.part_of == [0, 0, 1, 2, 2] and both.record.s2 == [0.02, 0.03, 0.1, 0.02, 0.03]
    x = fields(2)
    torch.testing.assert_close(both.residual(x), torch.cat([e.residual(x) for e in apart], 1), rtol=1e-12, atol=1e-12)


def test_equations_of_other_fields_stay_apart():
    one = record("nondivergence")
    other = replace(one, channels=[0, 0])
    model = wind_model(record("geostrophic"), one)
    assert len(grouped(model.constraints(), model.normaliser, GRID)) == 1
    model.equations = [one, other]
    assert [e.parts for e in grouped(model.constraints(), model.normaliser, GRID)] == [("nondivergence",)] * 2


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("joint", [True, False])
def test_each_has_its_own_s2(bands, direct, joint, monkeypatch):
    """The step for s^2 that a policy has bent, each equation's by itself, and each field's metric, in blocks or joint,
    against dense algebra."""
    model, sigma = wind_model(record("geostrophic"), record("nondivergence")), 0.5
    (both,) = grouped(model.constraints(), model.normaliser, GRID)
    monkeypatch.setattr("sciguide.equation_step.Metric", lambda model, J, _: Metric(model, J, joint))
    step = EquationStep(model, both, "told", tolerance=1e-11, iterations=2000)
    assert len(step.metric.pairs) == (6 if joint else 3)
    step.system.factor.direct = direct
    valid, size, x0 = step.J.valid, int(np.prod(SHAPE)), fields(2)
    J = matrix(lambda v: step.J.forward(v)[:, valid], size)
    log_s2 = torch.tensor([[1.0] * bands + [-2.0] * bands, [-1.0] * bands + [0.5] * bands]).double()
    tilt = torch.tensor([[0.0, 0, 0], [1.5, -1, 0.5]]).double()
    found, r = step.correct(x0, sigma, log_s2, tilt), step.J.rows(x0)[:, valid]
    of = valid.nonzero()[:, 0]
    for m in range(2):
        V = matrix(lambda v, m=m: step.metric(v, sigma, tilt[m : m + 1].exp()), size)
        s2 = torch.tensor([0.02, 0.03, 0.1]).double()[of] * log_s2[m, [0, 0, bands]].exp()[of]
        moved = V @ J.T @ torch.linalg.solve(J @ V @ J.T + s2.diag(), r[m])
        torch.testing.assert_close(found[m].flatten(), x0[m].flatten() - moved, atol=1e-7, rtol=0)


def test_the_joint_metric():
    """Positive, in the blocks of the channels what it is without observations, and between them the prior's covariance
    as often as the one that errs less."""
    model, sigma, size = wind_model(record("geostrophic"), record("nondivergence")), 0.5, int(np.prod(SHAPE))
    (both,) = grouped(model.constraints(), model.normaliser, GRID)
    joint, blocks = (Metric(model, Jacobian(model, both), b) for b in (True, False))
    M = matrix(lambda v: model.prior.apply_M(v, sigma), size)
    for scale in (None, torch.tensor([[0.1, 3.0, 1.0]]).double(), torch.tensor([[[0.1, 3, 1, 1]] * 3]).double()):
        V = matrix(lambda v, s=scale: joint(v, sigma, s), size)
        assert (V - V.T).abs().max() < 1e-12 * V.abs().max()
        assert torch.linalg.eigvalsh((V + V.T) / 2).min() > -1e-12 * V.abs().max()
        alone = matrix(lambda v, s=scale: blocks(v, sigma, s), size)
        for c in range(3):
            own = slice(56 * c, 56 * c + 56)
            torch.testing.assert_close(V[own, own], alone[own, own], rtol=1e-9, atol=1e-12)
    V = matrix(lambda v: joint(v, sigma), size)
    w = (V.diagonal() / M.diagonal()).reshape(3, -1)[:, 0]
    torch.testing.assert_close(V, M * torch.minimum(w[:, None], w).repeat_interleave(56, 0).repeat_interleave(56, 1))


def test_beside_observations_all_are_conditioned_on_at_once():
    """The equations and then the observations, with the metric given the equations, are one update by all rows."""
    model, sigma = wind_model(record("geostrophic"), record("nondivergence")), 2.0
    index, size, x0 = torch.tensor([3, 60, 100, 150]), int(np.prod(SHAPE)), fields(3)
    weight = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(4, 4)
    value, error = torch.randn(4, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)
    stations = Observations(index[:, None].expand(-1, 4).contiguous(), weight, value, error, index // 56)
    step, kriging = constraints_for(model, stations, "told")
    assert step.parts == ("geostrophic", "nondivergence") and step.when == "always" and isinstance(kriging, Kriging)
    assert step.coupled and not step.metric.joint, "the equations are of all channels"
    step.tolerance = 1e-12
    J, V = matrix(lambda v: step.J.forward(v)[:, step.J.valid], size), matrix(lambda v: step.metric(v, sigma), size)
    A = torch.eye(size, dtype=torch.float64)[index] / 0.3
    rows = torch.cat([J, A])
    noise = torch.cat([torch.tensor([0.02, 0.03, 0.1]).double()[step.J.valid.nonzero()[:, 0]], torch.ones(4).double()])
    r = torch.cat([step.J.rows(x0)[:, step.J.valid], stations.innovation(x0)], 1)
    expected = x0.flatten(1) - (V @ rows.T @ torch.linalg.solve(rows @ V @ rows.T + noise.diag(), r.T)).T
    found = kriging.correct(step.correct(x0, sigma), sigma)
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-7, rtol=0)


def test_s2_by_octave_beside_observations():
    """The residual's own spectrum, in the equations' step and in the metric of the observations, against dense
    algebra; measured, it is that of the samples. What a policy bends, it multiplies."""
    model, sigma, x0 = wind_model(record("geostrophic"), record("nondivergence")), 2.0, fields(3)
    smooth = model.prior.sample(fields(200))
    model.equations = [
        replace(e.record, octaves=shares(energies_of(e.operator)(e.physical(smooth)), e.record.s2, 0.0))
        for e in model.constraints()
    ]
    index, weight = torch.tensor([3, 100]), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(2, 4)
    error = torch.full((2,), 0.3, dtype=torch.float64)
    stations = Observations(index[:, None].expand(-1, 4).contiguous(), weight, 0 * error, error, index // 56)
    step, kriging = constraints_for(model, stations, "told")
    valid, size = step.J.valid, int(np.prod(SHAPE))
    transformed = step.waves.means(step.waves.transform(step.J.rows(smooth)).square()).mean(0)
    whole = step.waves.transform(step.J.rows(smooth)).square().mean((0, 2, 3))
    share = torch.nan_to_num(transformed / whole[:, None], nan=1.0)  # the grid is too small for the longest octave
    torch.testing.assert_close(step.shares, share, rtol=1e-9, atol=0)
    assert (step.shares[:, 2] / step.shares[:, 0]).max() > 3, "the residual is not white"
    J, V = matrix(lambda v: step.J.forward(v)[:, valid], size), matrix(lambda v: step.metric(v, sigma), size)

    def told(w: torch.Tensor, factor: torch.Tensor | float = 1.0) -> torch.Tensor:
        s2 = (torch.tensor([0.02, 0.03, 0.1]).double()[:, None] * step.shares * factor)[:, step.waves.band]
        return step.waves.inverse(s2 * step.waves.transform(w), w)[:, valid]

    unit = torch.zeros(int(valid.sum()), *valid.shape, dtype=torch.float64)
    unit[range(len(unit)), *valid.nonzero().T] = 1
    A = torch.eye(size, dtype=torch.float64)[index] / 0.3
    rows, noise = torch.cat([J, A]), torch.block_diag(told(unit), torch.eye(2).double())
    r = torch.cat([step.J.rows(x0)[:, valid], stations.innovation(x0)], 1)
    expected = x0.flatten(1) - (V @ rows.T @ torch.linalg.solve(rows @ V @ rows.T + noise, r.T)).T
    found = kriging.correct(step.correct(x0, sigma), sigma)
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-7, rtol=0)
    log_s2 = torch.tensor([[1.0, -1.0, 0.5, 0.2, -2.0, 0.3, 1.0, -0.5]]).double()
    system = J @ V @ J.T + told(unit, log_s2.exp().reshape(2, 4)[[0, 0, 1]])
    moved = V @ J.T @ torch.linalg.solve(system, r[0, : len(J)])
    found = step.correct(x0[:1], sigma, log_s2)
    torch.testing.assert_close(found.flatten(), x0[0].flatten() - moved, atol=1e-7, rtol=0)


def test_a_policy_sees_and_bends_each():
    model = wind_model(record("geostrophic"), record("nondivergence"))
    steps = constraints_for(model, None)
    (step,) = steps
    names = Actions(steps, ["z", "u", "v"], Levers(4, 1)).names
    assert names[:8] == tuple(f"log s2 {n} band {b}" for n in ("geostrophic", "nondivergence") for b in range(4))
    assert step.features(fields(2), 0.5).shape == (2, len(step.feature_names)) == (2, 16)
    calm = fields(2)
    calm[:, 1:] = 0  # no wind: no divergence, but no balance either
    seen = dict(zip(step.feature_names, step.features(calm, 0.5)[0].tolist(), strict=True))
    assert seen["nondivergence, log innovation ratio, band 0"] < seen["geostrophic, log innovation ratio, band 0"]
    guide = Guidance(steps, Fixed(len(names), looks=True), ["z", "u", "v"], 5)
    guided, decision = guide(5, fields(2), 0.5)
    assert decision.observation.shape == (2, len(Guidance.observation_names(steps)))
    before, after = (torch.stack([e.energy(x) for e in model.constraints()], 1) for x in (fields(2), guided))
    assert (after < before).all()


def test_stations_of_what_the_equation_does_not_move_are_not_forgotten():
    """Beside an equation of the wind alone, stations of z tell of the wind what the prior says they do: an estimate of
    the Wiener filter becomes the exact posterior mean given the equation and the stations. In blocks it would not."""
    model, sigma, size = wind_model(record("nondivergence")), 2.0, int(np.prod(SHAPE))
    prior = model.prior
    model.error = NetworkError([0.01, sigma], [prior.error_std(s).flatten().square().tolist() for s in (0.01, sigma)])
    index = torch.tensor([3, 12, 30, 50])
    weight = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(4, 4)
    value, error = torch.tensor([1.0, 0.5, -1, 2]).double(), torch.full((4,), 0.1, dtype=torch.float64)
    stations = Observations(index[:, None].expand(-1, 4).contiguous(), weight, value, error, index // 56)
    step, kriging = constraints_for(model, stations, "told")
    assert step.when == "always" and step.coupled and step.metric.reaches == [0, 1, 2]
    step.tolerance = 1e-12
    noisy = prior.sample(fields(1)) + sigma * fields(1, 6)
    x0, mean, C = (
        prior.filter(noisy, sigma),
        prior.mean[None],
        matrix(lambda v: prior.scale_modes(v, prior.variances), size),
    )
    valid = step.J.valid
    J, A = matrix(lambda v: step.J.forward(v)[:, valid], size), torch.eye(size, dtype=torch.float64)[index] / 0.1
    H = torch.cat([torch.eye(size, dtype=torch.float64), J, A])
    R = torch.cat([torch.full((size,), sigma**2), torch.full((len(J),), 0.1), torch.ones(4)]).double()
    innovation = torch.cat([(mean - noisy)[0].flatten(), step.J.rows(mean)[:, valid][0], stations.innovation(mean)[0]])
    expected = mean.flatten() - C @ H.T @ torch.linalg.solve(H @ C @ H.T + R.diag(), innovation)
    torch.testing.assert_close(kriging.correct(step.correct(x0, sigma), sigma).flatten(), expected, atol=1e-8, rtol=0)
    alone = EquationStep(model, step.equation, "told", when="always", tolerance=1e-12)
    blocks = Kriging(prior, stations, "told", alone.conditional).correct(alone.correct(x0, sigma), sigma)
    assert (blocks.flatten() - expected).reshape(3, -1)[1:].abs().max() > 0.1
