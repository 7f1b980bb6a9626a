"""The relations of `benchmarks/oracle.py` in a small form: what Gaussian fields settle exactly, or nearly.

Samplers of Gaussians, linear constraints and observations are exact maps; the rest comes from fixed draws, and the
margins asked for are several standard errors wide.
"""

import math

import numpy as np
import pytest
import torch

from benchmarks.oracle_fields import SIGMA_MIN, Mixture, gaussian, power_law, widest
from benchmarks.oracle_learner import scatter
from benchmarks.oracle_linear import ERRORS, Directions, Relation, metric_rows
from benchmarks.oracle_points import point_rows
from benchmarks.oracle_quadratic import Energy, Guide, Speeds, energy_rows, speed_rows, white
from benchmarks.oracle_rows import Row, Sheet
from benchmarks.oracle_samplers import along_prior, two_step
from benchmarks.oracle_unguided import OURS, finished, gaussian_rows, mixture_rows
from benchmarks.rivals import dpm_solver_2m
from sciguide.antithetic import error_draws, mean_residual
from sciguide.sampler import karras_sigmas


def sheet(rows: list[Row]) -> Sheet:
    found = Sheet(rows[0].study)
    found.rows = rows
    return found


def test_the_integrators_of_the_table_are_the_project_s_and_the_published_ones():
    mixture = Mixture(3, n=8)
    prior = mixture.prior(2000)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1, 8, 8)))
    top = widest(prior)
    start, sigmas = prior.sample(noise, top), karras_sigmas(6, SIGMA_MIN, top)
    ours = finished(mixture.denoise, prior, noise, 6)
    torch.testing.assert_close(along_prior(mixture.denoise, prior, start, sigmas), ours, atol=1e-10, rtol=0)
    assert (along_prior(mixture.denoise, prior, start, sigmas, 0.0) - ours).abs().max() > 1e-3
    rival = dpm_solver_2m(mixture.denoise, start, 6, SIGMA_MIN, top)
    torch.testing.assert_close(two_step(mixture.denoise, start, sigmas), rival, atol=1e-10, rtol=0)


def test_the_mixture_s_denoiser_is_the_posterior_mean():
    """By self-normalised weights of many draws, in one mode where the components differ most."""
    mixture = Mixture(0, n=4, components=3)
    x = mixture.draw(1, 5) + 0.8 * torch.from_numpy(np.random.default_rng(1).standard_normal((1, 16)))
    draws = mixture.draw(400_000, 6)
    weight = torch.softmax(-(x - draws).square().sum(1) / (2 * 0.8**2), 0)
    field = mixture.modes(x.reshape(1, 1, 4, 4)).reshape(1, 1, 4, 4)  # the Hartley transform is its own inverse
    found = mixture.modes(mixture.denoise(field, torch.full((1,), 0.8).double()))[0]
    effective = 1 / weight.square().sum()
    assert effective > 500
    assert ((weight @ draws - found).abs() / (found.abs().max() / effective.sqrt())).max() < 5


def test_without_guidance_only_the_prior_integrator_is_exact_on_a_gaussian():
    found = sheet(gaussian_rows(32, (10, 19)))
    theirs = "start 80 x white"
    assert found[theirs, "Euler", 10, "std_ratio"] == pytest.approx(0.80, abs=0.005)
    assert found[theirs, "2M", 10, "std_ratio"] == pytest.approx(1.09, abs=0.01)
    assert found[theirs, "Heun", 19, "std_ratio"] == pytest.approx(1.10, abs=0.01)  # ten steps
    assert found[OURS, 10, "W2"] < 1e-12
    usual, tuned = (
        found["start N(mu, C + sigma_0^2)", name, 10, "W2"] for name in ("2M", "2M, tuned on this Gaussian")
    )
    assert tuned < usual / 5 and usual > 0.05


def test_on_a_mixture_the_clip_serves_every_number_of_steps():
    """Sliced W2 of whitened fields and W1 of leading modes against 2M's, and against what two sets of data reach."""
    found = sheet(mixture_rows(0, 512, (5, 10), n=2, draws=4000, pairs=5))
    floor = found["data against data", "W1"]
    assert found[OURS, 5, "std_ratio"] == pytest.approx(1.03, abs=0.02)
    assert found[OURS, 10, "std_ratio"] == pytest.approx(1, abs=0.015)
    assert found[OURS, 5, "W1"] - floor < (found["2M", 5, "W1"] - floor) / 3
    assert found[f"{OURS}, not clipped", 5, "sliced W2"] > 1.7 * found[OURS, 5, "sliced W2"]
    assert found[f"{OURS}, first order", 10, "sliced W2"] > found[OURS, 10, "sliced W2"]
    assert found[OURS, 10, "sliced W2"] < 1.05 * found["data against data", "sliced W2"]
    assert found["Heun", 10, "std_ratio"] > 1.2 and found["Euler", 10, "std_ratio"] < 0.9


def test_a_linear_constraint_is_a_matter_of_the_metric_and_not_of_when():
    rows = sheet(metric_rows(16, (10,)))
    for case in ERRORS:
        ends = {p: rows[case, f"at the end, w = 1e{p:+d} of the best", "W2"] for p in (-4, -2, 0, 2, 4)}
        assert min(ends, key=ends.get) == 0
        assert rows[case, "at the end, w = 1e+0 of the best", "rms_residual"] < 1e-10
        # of the joint prior's own metric the chain of projections has the same limit
        joint = rows[case, "at every step, M of the joint prior", "W2"]
        assert abs(joint - ends[0]) < 1e-3 and ends[0] < rows[case, "unguided", "W2"] / 20
    wrong, right = (rows["u errs most", f"at the end, {w}", "W2"] for w in ("re-solving f", "re-solving u"))
    assert wrong > 100 * right
    both = [rows["both err", n, "W2"] for n in ("at the end, w = 1e+0 of the best", "at every step, diag(w, 1)")]
    assert both[0] == pytest.approx(both[1], abs=1e-8)
    # where one field errs more, a metric that does not change with the noise shrinks what it moves
    assert rows["f errs most", "at every step, diag(w, 1)", "std_f"] < 0.98


def test_the_projection_of_the_table_is_the_project_s_on_the_finished_field():
    relation = Relation(0.2, 0.02, 16)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 2, 16, 16)))
    # V_f is the network's error with the shape of M_f, which at noise far below the errors is white
    ours = relation.projection().correct(x, 1e-5)
    torch.testing.assert_close(relation.projected(x, 1e-5, relation.fixed), ours, atol=1e-5, rtol=0)


def test_a_normalised_gradient_stalls_where_conjugate_gradients_and_the_kriging_step_do_not():
    relation = Relation(*ERRORS["both err"], 16)
    directions, noise = Directions(relation), torch.from_numpy(np.random.default_rng(0).standard_normal((4, 2, 16, 16)))

    def left(correct, always):
        return float(relation.equation.energy(relation.chain(noise, 10, correct, always)).mean().sqrt())

    stalled = min(
        left(lambda x, s, a=size, p=power: directions.gradient(x, s, a, p, False), True)
        for size in np.geomspace(1e-3, 0.3, 6)
        for power in (0.0, 1.0)
    )
    conjugate = left(lambda x, s: directions.conjugate(x, s, 8), True)
    assert 0.01 < stalled < left(None, False) / 2
    assert conjugate < stalled / 50
    assert left(relation.projection().correct, False) < 1e-12


def test_observations_end_at_the_exact_posterior_by_the_kriging_step_alone():
    rows = sheet(point_rows(16, (10, 100), (10,)))
    for m in (10, 100):
        case = f"{m} points of 256"
        kriging = rows[case, "kriging step", "bias"]
        assert kriging < 0.06 and 0.92 < rows[case, "kriging step", "spread"] < 1.05
        for name in ("pixel errors", "PiGDM", "SDA", "SDA, best gamma"):
            assert rows[case, name, "bias"] > 3 * kriging
        for off in ("-0.5", "+0.5"):
            assert kriging < rows[case, f"kriging step, M: exponent {off} wrong", "bias"] < 0.15
        # at first order the members spread as they should and are further off
        first = [rows[case, "kriging step, first order", metric] for metric in ("bias", "spread")]
        assert first[0] > 2 * kriging and abs(first[1] - 1) < 0.02
    assert rows["100 points of 256", "SDA", "bias"] > 1e3  # denser than the field is smooth: it diverges
    assert rows["100 points of 256", "pixel errors", "spread"] > 1.2


def test_a_quadratic_constraint_needs_the_posterior_variance_subtracted():
    rows = sheet(energy_rows(512, 10, (1.0,), n=2))
    W1 = {r.method: r.value for r in rows.rows if r.metric == "W1"}
    floor = W1["posterior, other draws"]
    loss = {name: value - floor for name, value in W1.items()}
    assert loss["naive"] > 3 * abs(loss["unguided"]) and loss["naive"] > 0.04
    assert loss["naive, best gate"] < 0.8 * loss["naive"]
    for name in ("antithetic", "antithetic, spread", "exact mean", "exact mean and covariance"):
        assert loss[name] < 0.25 * loss["naive"], name
    square = {r.method: r.value for r in rows.rows if r.metric == "mean_square_over_told"}
    assert square["naive"] > 1.15 and abs(square["antithetic"] - 1) < 0.02


def test_squared_speeds_are_followed_to_the_posterior():
    rows = sheet(speed_rows(16, 8, 8, 80, (2.0,)))
    gain = {r.method: -r.value for r in rows.rows if r.metric == "energy_score minus unguided"}
    assert gain["antithetic"] > gain["naive"] > 0.1
    assert gain["antithetic"] > 0.9 * gain["slice sampling from guided members"]
    assert gain["antithetic"] == pytest.approx(gain["exact mean"], rel=0.03)


@pytest.mark.parametrize("kind", ["energy", "speeds"])
def test_antithetic_means_are_those_of_the_quadratic_in_closed_form(kind):
    index, y = torch.tensor([3, 70, 200]), torch.ones(2000, 3).double()
    constraint = Energy(1.0, 0.1) if kind == "energy" else Speeds(1.0, index, y, 0.1)
    guide = Guide(constraint, "exact mean", 0)
    x0 = guide.prior.sample(white(0, 1)).expand(2000, -1, -1, -1)
    moments = constraint.moments(guide.covariance(0.5))
    found = mean_residual(constraint.residual, x0, error_draws(guide.prior, 0.5, 0, range(2000), 0))
    variance = moments.covariance.diagonal() / 8
    score = (found.mean - constraint.residual(x0) - moments.shift).mean(0) / (variance / 2000).sqrt()
    assert score.abs().max() < 4
    torch.testing.assert_close(found.variance.mean(0), variance, rtol=0.1, atol=0)
    # the covariance that a first-order step lacks, by draws of both signs
    residual = constraint.residual(x0 + error_draws(guide.prior, 0.5, 1, range(2000), 0, 1)[0])
    J = constraint.jacobian(x0[:1])[0]
    expected = J @ guide.covariance(0.5) @ J.T + moments.covariance
    torch.testing.assert_close(residual.var(0), expected.diagonal(), rtol=0.15, atol=0)


def test_noise_within_a_group_hides_what_its_actions_did():
    """Where the noise decides the field, advantages about members of the same noise are far narrower."""
    same, other = (
        scatter("points", kind, 0) for kind in ("the same noise in a group", "the same problem, other noise")
    )
    assert same < other / 10


def test_gaussian_fields_have_the_variances_that_they_say():
    S = power_law(16, 3.0)
    assert float(S.mean()) == pytest.approx(1) and widest(gaussian(S)) == pytest.approx(3 * math.sqrt(float(S.max())))
    mixture = Mixture(1)
    modes = mixture.draw(4000, 3)
    ratio = modes.var(0) / mixture.variance
    assert (ratio - 1).abs().max() < 6 * (2 / 4000) ** 0.5
