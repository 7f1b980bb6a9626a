"""The sparse benchmark: its rows against the exact posterior and linear algebra, and one small run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import sparse
from benchmarks.sparse import Part, fit
from benchmarks.sparse_factor import Told, factorised
from benchmarks.sparse_methods import (
    FORMS,
    exact_draws,
    exact_mean,
    exact_prior,
    guided,
    resolved,
    rival,
    unguided,
    without_network,
)
from benchmarks.sparse_problems import SETS, TASKS, TINY, TRAINING, Task, points_of, problems
from benchmarks.sparse_rows import EXACT, Plan, models_of, rows_of
from benchmarks.sparse_table import KRIGING, rows, score
from sciguide.guidance import constraints_for
from sciguide.model import Model
from sciguide.simulate import samples

N = 12
QUICK = ("--data.steps_per_epoch=2", "--trainer.max_epochs=1", "--model.width=8", "--model.multipliers=[1,2]")
PLAN = Plan(60, 8, 2, 1, (3,), (3,), fit=(*QUICK, "--data.batch_size=8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sparse")


@pytest.fixture(scope="module")
def model(runs) -> Model:
    return fit(SETS["poisson"], N, PLAN, runs)


def test_as_many_points_per_area_as_published():
    assert [points_of(n) for n in (128, 64, 32)] == [500, 125, 32]


def test_tasks_share_draws_and_points_which_training_has_not():
    of = SETS["poisson"]
    found = {task: problems(of, task, N, 3) for task in TASKS}
    first = found[TASKS[0]]
    training = samples(of.name, N, TRAINING, 3)["f"]
    for task, each in found.items():
        for a, b in zip(first, each, strict=True):
            assert np.array_equal(a.truth, b.truth) and np.array_equal(a.points, b.points)
            assert not any(np.array_equal(b.truth[0], f) for f in training)
            missed = b.values - b.truth[b.given][*b.points.T]
            assert b.of.variables[b.given] == task.given(of) and b.of.variables[b.channel] == task.wanted(of)
            assert (missed == 0).all() if task.noise == 0 else 0 < np.abs(missed).max() < 5 * b.error
            assert b.error == pytest.approx(max(task.noise, TINY) * b.truth[b.given].std())
    with pytest.raises(ValueError, match="training"):
        problems(of, TASKS[0], N, 1, TRAINING)


def test_the_exact_prior_is_the_covariance_of_the_pairs(model):
    prior = exact_prior("poisson", model)
    drawn = samples("poisson", N, 7, 4000)
    x = model.normaliser.encode(torch.from_numpy(np.stack([drawn["f"], drawn["phi"]], 1))).flatten(1)
    size = x.shape[1]
    C = prior.scale_modes(torch.eye(size).double().reshape(size, *model.shape), prior.variances).reshape(size, size)
    torch.testing.assert_close(C, torch.cov(x.T), atol=0.12 * float(C.diagonal().max()), rtol=0)
    torch.testing.assert_close(prior.sample(torch.zeros(1, *model.shape).double())[0], prior.mean)
    # every draw obeys the equation, and zero edges
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, *model.shape)))
    (equation,) = model.constraints()
    assert float(equation.energy(prior.sample(noise)).max()) < 1e-16


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.name} {t.noise}")
def test_the_formula_with_the_exact_prior_ends_at_the_exact_posterior(model, task):
    exact = without_network(model, exact_prior("poisson", model))
    for p in problems(SETS["poisson"], task, N, 2):
        mean, spread = exact_mean(p)[0, p.channel], exact_draws(p, 400)[:, p.channel].std(0)
        found = guided(exact, p, 20, equations=False, members=100)[:, p.channel]
        off = np.sqrt(((found.mean(0) - mean) ** 2).mean() / (spread**2).mean())
        assert off < 0.2  # .1 is the scatter of 100 members
        assert np.sqrt(found.var(0).mean() / (spread**2).mean()) == pytest.approx(1, abs=0.1)


def test_one_cholesky_factor_is_the_package_s_solve(model):
    observations = problems(SETS["poisson"], TASKS[2], N, 1)[0].observations(model.layout, model.normaliser)
    step, _ = constraints_for(model, observations)
    v = torch.from_numpy(np.random.default_rng(0).standard_normal((3, *model.shape)))
    expected = [step.conditional(v, sigma) for sigma in (0.02, 1.0)]
    step.system.factor = None
    assert factorised(model, [step], 2) == [step] and isinstance(step.system.factor, Told)
    for sigma, wanted in zip((0.02, 1.0), expected, strict=True):
        torch.testing.assert_close(step.conditional(v, sigma), wanted, atol=1e-7 * float(wanted.abs().max()), rtol=0)


def test_rivals_pull_towards_the_values_and_a_solution_belongs_to_its_input(model):
    p = problems(SETS["poisson"], Task("forward", 0.01), N, 1)[0]
    free = unguided(model, p, 4)
    at = lambda x: np.sqrt(((x[:, p.given][:, *p.points.T] - p.values) ** 2).mean())  # noqa: E731
    assert at(rival(model, p, "pixel errors", 4)) < 0.8 * at(free) and set(FORMS) > {"PiGDM"}
    again = resolved(p, free)
    assert np.array_equal(again[:, 0], free[:, 0])
    assert float(model.constraints()[0].energy(model.normaliser.encode(torch.from_numpy(again))).max()) < 1e-16


def test_scores_and_rows_of_an_ensemble_that_is_known():
    of, rng = SETS["darcy_twophase"], np.random.default_rng(0)
    found: dict = {("exact", 0): [], ("ours", 20): [], KRIGING: []}
    for p in problems(of, Task("inverse", 0.0), N, 40):
        centre = p.truth[None] + rng.standard_normal((1, *p.truth.shape))
        found["exact", 0].append(score(p, centre, np.zeros(1), 1.0))
        drawn = centre + rng.standard_normal((16, *p.truth.shape))
        found["ours", 20].append(score(p, drawn, np.full(16, 0.04), 2.0))
        wider = centre + 2 * rng.standard_normal((16, *p.truth.shape))
        found[KRIGING].append(score(p, wider, np.zeros(16), 1.0))
    first, second, third = rows({"set": of.name}, found, ("exact", 0), True)
    assert first["ratio_to_exact"] == 1 and np.isnan(first["spread_over_error"])
    assert second["ratio_to_exact"] == pytest.approx(np.sqrt(1 + 1 / 16), abs=0.02)
    assert second["spread_over_error"] == pytest.approx(1, abs=0.03)
    assert second["residual"] == pytest.approx(0.2) and second["seconds"] == 2
    gain = second["crps_percent"] - third["crps_percent"]
    assert second["crps_over_kriging_percent"] == pytest.approx(gain) and gain < 0
    assert second["crps_over_kriging_percent_high"] < 0 and third["crps_over_kriging_percent"] == 0
    assert first["wrong_percent"] == 0  # errors of 1, and 4.5 to the threshold


@pytest.mark.slow
def test_a_small_run_of_all_sets(runs, model, monkeypatch, capsys):
    monkeypatch.setattr(sparse, "PLANS", {N: PLAN})
    monkeypatch.setattr(sparse, "RESULTS", runs)
    tasks = TASKS[1:3]
    monkeypatch.setattr(sparse, "TASKS", tasks)
    monkeypatch.setattr("benchmarks.sparse_table.RESAMPLES", 10)
    monkeypatch.setattr("benchmarks.sparse_rows.USUAL", 3)
    for name in ("poisson", "darcy_twophase"):
        monkeypatch.setattr("sys.argv", ["sparse.py", "--only", name, "--runs", str(runs), "--date", "2026-01-31"])
        sparse.main()
    with (runs / "sparse.csv").open() as file:
        table = list(csv.DictReader(line for line in file if not line.startswith("#")))
    models = models_of(SETS["poisson"], model)
    for name, of in SETS.items():
        there = [r for r in table if r["set"] == name]
        assert bool(there) == (name in ("poisson", "darcy_twophase"))
        for task in tasks if there else ():
            names = {(r.method, r.evaluations) for r in rows_of(of, PLAN, models, task)} if of.gaussian else set()
            got = {
                (r["method"], int(r["evaluations"]))
                for r in there
                if r["task"] == task.name and float(r["noise"]) == task.noise
            }
            assert names <= got
    best = [float(r["ratio_to_exact"]) for r in table if r["method"] == EXACT]
    assert len(best) == len(tasks) and set(best) == {1.0}
    assert {r["wrong_percent"] == "nan" for r in table if r["set"] == "darcy_twophase" and r["task"] == "inverse"} == {
        False
    }
    # scores that are there are not made again
    part = Part(SETS["poisson"], N, PLAN, runs)
    before = json.dumps(part.kept)
    monkeypatch.setattr(Part, "score", None)
    part.run()
    assert json.dumps(part.kept) == before
