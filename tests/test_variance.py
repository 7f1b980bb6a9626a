"""The variance network where the answer is known: a Gaussian set, and one of two states."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from sciguide.cli import main as sciguide
from sciguide.generate import load
from sciguide.kriging import Kriging
from sciguide.model import Model
from sciguide.observations import Observations
from sciguide.prior import EOF
from sciguide.training.variance import CHANCE, fit_variance
from sciguide.variance import Variance

N, TAU = 6, 0.3  # points on each side; standard deviation of what is beside the state
POINTS = N * N


def prior_of(amplitude: float) -> EOF:
    """Fields that are the same everywhere, with this standard deviation, and white noise of TAU on top."""
    mask = torch.ones(1, N, N, dtype=torch.bool)
    flat = torch.full((POINTS, 1), 1 / N, dtype=torch.float64)
    leading = torch.tensor([POINTS * amplitude**2 + TAU**2], dtype=torch.float64)
    return EOF(torch.zeros(1, N, N).double(), mask, flat, leading, torch.tensor(TAU**2))


def two_states(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The exact denoiser of fields that are +1 or -1 everywhere, plus white noise of TAU, and the variance of its error
    at each point, (B,): E[state] = tanh(sum x / (TAU^2 + sigma^2)), and given the state the Wiener filter is exact."""
    noise = TAU**2 + sigma**2
    share = TAU**2 / noise
    mean = torch.tanh(x.sum((1, 2, 3)) / noise)
    x0 = share[:, None, None, None] * x + ((1 - share) * mean)[:, None, None, None]
    return x0, TAU**2 * sigma**2 / noise + (1 - share) ** 2 * (1 - mean**2)


def model_of(denoise) -> SimpleNamespace:
    grid = SimpleNamespace(boundary=("open", "open"))
    return SimpleNamespace(prior=prior_of(1.0), denoise=denoise, grid=grid, sigma_min=0.05, sigma_max=20.0)


def draw(n: int, states: bool, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    state = rng.choice([-1.0, 1.0], (n, 1, 1, 1)) if states else rng.standard_normal((n, 1, 1, 1))
    return torch.from_numpy(state + TAU * rng.standard_normal((n, 1, N, N)))


AREA = torch.ones(1, N, N).double()


@pytest.fixture(scope="module")
def mixture() -> tuple[SimpleNamespace, Variance]:
    """The model whose denoiser is exact, and the network of its errors' variance."""
    model = model_of(lambda x, sigma: two_states(x, sigma)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciguide.training.variance.BATCH", 64)  # one number of each sample is to be learned from
        variance, judged = fit_variance(model, draw(2048, True, 0), AREA, steps=250)
    assert judged.gain < -CHANCE * judged.error
    return model, variance


def noised(sigma: float, n: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Fields of two states, their estimates, and the variances of these, (B,)."""
    x, rng = draw(n, True, 1), np.random.default_rng(2)
    noisy = x + sigma * torch.from_numpy(rng.standard_normal(x.shape))
    return x, *two_states(noisy, torch.full((n,), sigma, dtype=torch.float64))


def test_of_a_gaussian_the_formula_is_left_as_it_is():
    model = model_of(prior_of(1.0).filter)
    variance, judged = fit_variance(model, draw(512, False, 0), AREA, steps=100)
    assert judged.gain > -CHANCE * judged.error  # nothing that `fit` would keep
    for sigma in (0.1, 1.0, 5.0):
        x = draw(64, False, 1)
        x0 = model.prior.filter(x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(3)), sigma)
        assert float(variance.ratio(x0, sigma).log().square().mean().sqrt()) < 0.2


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0])
def test_of_two_states_it_is_the_variance_of_the_posterior(mixture, sigma):
    model, variance = mixture
    _, x0, exact = noised(sigma)
    wiener = float(model.prior.error_std(sigma).square())
    found = (variance.ratio(x0, sigma).mean((1, 2, 3)) * wiener).log()
    off = (found - exact.log()).square().mean().sqrt()
    assert off < 0.5 * (exact / wiener).log().square().mean().sqrt()


def test_kriging_with_it_errs_less_and_knows_by_how_much():
    """Points with large errors, beside estimates that tell the state apart or do not: M is too large for the
    first and too small for the second."""
    sigma, error = 3.0, 2.0
    x, x0, exact = noised(sigma, 1024)
    prior = prior_of(1.0)
    index, rng = torch.arange(0, POINTS, 6), np.random.default_rng(3)
    m = len(index)
    weight = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(m, 4)
    values = x.flatten(1)[:, index] + error * torch.from_numpy(rng.standard_normal((len(x), m)))
    told = torch.full((m,), error).double(), torch.zeros(m, dtype=torch.long)
    observations = Observations(index[:, None].expand(-1, 4).contiguous(), weight, values[0], *told)

    def off(ratio) -> tuple[float, dict[bool, float]]:
        """Error of the corrected estimates; for certain and uncertain ones expected over found error."""
        kriging = Kriging(prior, observations, "told", ratio=ratio)
        kriging.observations = replace(observations, value=values)
        square = (kriging.correct(x0, sigma) - x).square().mean((1, 2, 3))
        e = torch.ones_like(x0) if ratio is None else ratio(x0, sigma).sqrt()
        M = prior.apply_M(torch.eye(POINTS).double().reshape(-1, 1, N, N), sigma).flatten(1)
        EME = e.flatten(1)[:, :, None] * M * e.flatten(1)[:, None]
        rows = EME[:, index]
        B = rows[:, :, index] + error**2 * torch.eye(m).double()
        left = (EME - rows.mT @ torch.linalg.solve(B, rows)).diagonal(dim1=1, dim2=2).mean(1)
        certain = exact < 0.2
        groups = {c: float((left[certain == c].mean() / square[certain == c].mean()).sqrt()) for c in (True, False)}
        return float(square.mean().sqrt()), groups

    wiener = prior.error_std(sigma).square()
    plain, groups = off(None)
    better, mended = off(lambda x0, sigma: (exact[:, None, None, None] / wiener).expand_as(x0))
    assert better < 0.93 * plain
    for group in groups:
        assert abs(np.log(mended[group])) < 0.5 * abs(np.log(groups[group]))


def test_a_run_keeps_it_and_members_are_drawn_by_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sciguide.training.diffusion.fit_variance", partial(fit_variance, steps=20))
    monkeypatch.setattr("sciguide.training.diffusion.CHANCE", -1e9)  # whatever it is worth
    data, run = tmp_path / "poisson.nc", tmp_path / "run"
    words = f"--run={run} --data.source={data} --data.train=[0,48] --data.validation=[48,64] --data.batch_size=8"
    words += " --data.steps_per_epoch=2 --trainer.max_epochs=1 --model.width=8 --model.multipliers=[1]"
    assert not sciguide(["data", "make", "poisson", "--out", str(data), "--size", "8", "--samples", "64"])
    assert not sciguide(["fit", "-c", "configs/sparse_poisson.yaml", *words.split(), "--model.variance=true"])
    assert not sciguide(["inspect", str(run / "model.pt")])
    assert "variance   of the network's errors" in capsys.readouterr().out
    model = Model.load(run / "model.pt")
    x0, ratio = torch.randn(2, *model.shape, dtype=torch.float64), model.variance.ratio
    model.save(tmp_path / "again.pt")
    assert torch.equal(Model.load(tmp_path / "again.pt").variance.ratio(x0, 0.5), ratio(x0, 0.5))
    assert float((ratio(x0, 0.5) - 1).abs().max()) > 1e-3
    (tmp_path / "obs.csv").write_text("variable,y,x,value,error\nf,0.5,0.5,0.7,0.1\n")
    told = {"steps": 3, "policy": "fixed", "observations": str(tmp_path / "obs.csv"), "equations": False, "batch": 2}
    drawn = {v: load(run).generate(2, variance=v, **told).f.values for v in ("learned", "prior")}
    assert not np.array_equal(drawn["learned"], drawn["prior"]) and np.isfinite(drawn["learned"]).all()
    model.variance = None
    model.save(run / "model.pt")
    for v in ("learned", "prior"):
        assert np.array_equal(load(run).generate(2, variance=v, **told).f.values, drawn["prior"])
