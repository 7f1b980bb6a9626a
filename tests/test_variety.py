"""Tuning problems that vary: drawn by their numbers alone, within their ranges, and what they change is really off."""

import numpy as np
import pytest
import torch
import xarray as xr
from test_learner import run  # noqa: F401  a fixture

from sciguide.cli import main
from sciguide.errors import InputError
from sciguide.generate import load
from sciguide.learner import JUDGED
from sciguide.training.contest import truths
from sciguide.training.problems import RunProblems
from sciguide.training.variety import Variety, span

VARIED = Variety((5, 20), (0,), (0.05, 0.5), 10.0, (2, 6), 0.5, {"f": 2.0})


def test_draws_stay_within_their_ranges_and_depend_on_the_number_alone():
    groups = [VARIED.group(False, n) for n in range(400)]
    assert groups[7] == VARIED.group(False, 7) != VARIED.group(True, 7)
    for name, low, high in (("points", 5, 20), ("error", 0.05, 0.5), ("steps", 2, 6)):
        found = np.array([getattr(g, name) for g in groups])
        assert low <= found.min() < 1.2 * low + 1 and high >= found.max() > 0.9 * high
    factors = np.log([g.constants["f"] for g in groups])
    assert abs(factors.mean()) < 0.05 and np.abs(factors).max() <= np.log(2)
    own = [VARIED.own(n, 2) for n in range(400)]
    assert np.log([o.factor for o in own]).std() == pytest.approx(np.log(100) / 12**0.5, rel=0.1)
    assert np.mean([o.bias for o in own]) == pytest.approx(0.25, rel=0.1) and own[3].bias.shape == (2,)
    assert VARIED.grouped and not Variety((5, 5), (0,), misreport=3.0, bias=1.0).grouped
    assert Variety().group(False, 3) == (0, 0.1, 20, {}) and Variety().own(3, 1).factor == 1


def test_a_range_is_one_number_or_two():
    assert span("--steps", 5, 1) == (5, 5) and span("--steps", [5, 50], 1) == (5, 50)
    for wrong in (0, [7, 5], [1, 2, 3]):
        with pytest.raises(InputError, match=r"--steps .*: one number or \[low, high\], at least 1"):
            span("--steps", wrong, 1)


def test_problems_of_a_run_vary(run):  # noqa: F811
    model = load(run).model
    samples = truths(run, model)
    variety = Variety((5, 20), (0,), (0.05, 0.5), 10.0, (2, 6), 0.5)
    problems = RunProblems(model, samples, variety, "told")
    batches = [problems([8 * g])[0] for g in range(8)]
    members = [b.members(2) for b in batches]
    assert len({len(m.chain.sigmas) for m in members}) > 2
    assert len({len(m.constraints[-1].observations.index) for m in members}) > 2
    assert len(problems.task(0).sigmas) == 6
    plain = RunProblems(model, samples, Variety((5, 5), (0,), steps=(3, 3)), "told")([0])[0].members(1).chain
    x, sigma = torch.zeros(2, *model.shape).double(), torch.full((2,), 0.5).double()
    off = members[0].chain.denoise(x, sigma) - plain.denoise(x, sigma)
    # members of a problem share what their estimates are off by
    torch.testing.assert_close(off[0], off[1], atol=1e-6, rtol=0)
    own = variety.own(0, model.shape[0]).bias
    expected = own * (model.prior.error_std(0.5).flatten().numpy())
    found = off[0].square().mean((1, 2)).sqrt().numpy()
    assert (found < 3 * expected).all() and (found > expected / 3).all()
    clean = members[0].chain.denoise(x, torch.zeros(2).double())
    assert torch.equal(clean, x), "a field that is clean is not moved"
    for numbers in ([0], [JUDGED]):
        again = RunProblems(model, samples, variety, "told")(numbers)[0].members(1)
        a, b = (p.constraints[-1].observations for p in (again, problems(numbers)[0].members(1)))
        assert torch.equal(a.value, b.value) and torch.equal(a.index, b.index)


def test_residuals_of_observations_count_against_their_true_errors(run):  # noqa: F811
    model = load(run).model
    problems = RunProblems(model, truths(run, model), Variety((40, 40), (0,), (0.3, 0.3), 10.0), "told")
    numbers = range(8)
    (batch,) = problems(numbers)
    told = batch.members(2).constraints[-1].observations
    truth = batch.truth[:, 0].repeat_interleave(2, 0)
    seen = told.innovation(truth).square().mean(1)
    factors = torch.tensor([problems.variety.own(n, model.shape[0]).factor for n in numbers]).repeat_interleave(2)
    assert factors.max() / factors.min() > 5
    found = batch.members(2).energies(truth)[:, -1]
    torch.testing.assert_close(found * factors.double() ** 2, seen)
    assert 0.8 < found.mean() < 1.2, "the truth is at the floor, however wrong what is told"


def test_tune_takes_ranges_and_says_what_work_policies_do(run, capsys):  # noqa: F811
    config = run / "problems.yaml"
    config.write_text("points: [5, 10]\nerror: [0.05, 0.3]\nmisreport: 3.0\nsteps: [2, 4]\nbias: 0.3\n")
    words = ["tune", str(run), "-c", str(config), "--observe=[u]", "--compute", "--price=0.1", "--octaves=4"]
    assert main([*words, "--trajectories=64", "--judged=2", "--members=2"]) == 0
    table = capsys.readouterr().out.splitlines()[-5:-1]
    assert all("evaluations" in line and "iterations" in line for line in table)
    run.with_name("o.csv").write_text("variable,y,x,value,error\nu,-31,30,0.3,0.1\nu,-32,31,0.1,0.1\n")
    drawn = ["generate", str(run), "--members=2", "--steps=3", "--policy=learned", "--obs", str(run.with_name("o.csv"))]
    assert main([*drawn, f"--out={run / 'e'}"]) == 0
    with xr.open_dataset(min((run / "e").glob("member_*.nc"))) as ds:
        names = ds["action"].attrs["comment"]
        assert names.endswith(": stop") and "metric u octave 3" in names and ds["policy_action"].shape[1] == 4
    capsys.readouterr()
    for extra, message in (
        (["--constants={q: 2}"], "no equation of the model has a constant q"),
        (["--constants={q: 0.5}"], "--constants q: 0.5: a factor of 1 at least"),
        (["--bias=-1"], "--bias -1.0: not negative"),
    ):
        (run / "policies" / "tune.json").unlink(missing_ok=True)
        assert main([*words, "--trajectories=64", *extra]) == 2
        assert message in capsys.readouterr().err
