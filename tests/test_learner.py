"""The learner against finite differences and known optima, resuming, and the whole of `sciguide tune`."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from two_fields import make_task

from benchmarks.policy import CASES
from benchmarks.policy_rivals import FORMULA, KNOWING, LEARNED, LINEAR, SCHEDULES, compete, rows
from sciguide.actions import USUAL, Levers
from sciguide.bootstrap import paired_bootstrap
from sciguide.cli import main
from sciguide.errors import InputError
from sciguide.generate import load
from sciguide.learner import HELD, JUDGED, Task, Worth, clipped_loss, own_numbers, preferences
from sciguide.policy import Fixed, Learned, Standard
from sciguide.prior import Isotropic
from sciguide.reward import Pointwise, advantages, potential, returns_to_go, rewards
from sciguide.rollout import Chain, Members, Problems, roll_out
from sciguide.search import CMA, RandomSearch, search
from sciguide.training.contest import Rules, distance_of, make_problems, take_up, truths
from sciguide.training.policy import PolicyModule
from sciguide.training.problems import RunProblems, Terms
from sciguide.training.tune import Budget, between, tune_learned, tune_linear, tune_scheduled
from sciguide.training.variety import Variety
from sciguide.training.verdict import trade_off


class Pull:
    """Moves the estimate towards 1, by a share that the action decides."""

    name, bands, octaves, iterative, feature_names = "pull", 1, 1, False, ("field",)

    def acts(self, index, last):
        return True

    def features(self, x0, sigma):
        return x0[:, :, 0, 0]

    def correct(self, x0, sigma, log_s2, tilt):
        return x0 + torch.sigmoid(-log_s2)[..., None, None] * (1 - x0) / 2


def two_steps() -> Problems:
    """One noise level and the finished field: two decisions about one number."""
    prior = Isotropic(torch.ones(1, 1, 1, dtype=torch.bool), torch.ones((), dtype=torch.float64))
    chain = Chain(lambda x, sigma: prior.filter(x, sigma), prior, [1.0])
    members = Members(chain, [Pull()], lambda x: (x - 1).square().flatten(1))
    return Problems(torch.zeros(1, 1, 1, 1, 1), torch.tensor([1e-4]).double(), [0], lambda repeats: members)


def test_the_gradient_is_that_of_the_expected_final_potential():
    replicas, noises = 50, 800
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, noises, 1, 1, 1)))
    one = torch.ones(1).double()

    def play(bias: float, log_std: float):
        policy = Learned(Standard(torch.zeros(4).double(), torch.ones(4).double()), 1)
        with torch.no_grad():
            policy.network[-1].bias += bias
            policy.log_std += log_std
        policy.generator = torch.Generator().manual_seed(0)
        found = roll_out(two_steps(), policy, noise, replicas)
        return policy, found, potential(found.energies, torch.tensor([1e-4]).double(), one, one)

    policy, found, phi = play(0.0, 0.0)
    advantage = advantages(returns_to_go(rewards(phi), torch.zeros_like(phi[0])), replicas)
    # the group's mean holds the member itself: a factor (A - 1) / A; the loss is a mean over the two decisions
    advantage = 2 * advantage * replicas / (replicas - 1)
    log_prob = policy(found.observation.flatten(0, 1), found.action.flatten(0, 1)).log_prob
    old = found.log_prob.flatten()
    torch.testing.assert_close(log_prob, old)
    loss = clipped_loss(log_prob, old, advantage.flatten(), 0.2)
    estimated = torch.cat(torch.autograd.grad(-loss, [policy.network[-1].bias, policy.log_std]))
    step = 0.05
    for i, gradient in enumerate(estimated.tolist()):
        ends = [play(*(sign * step * (k == i) for k in (0, 1)))[2] for sign in (1, -1)]
        expected = float((ends[0][-1] - ends[1][-1]).mean() / (2 * step))
        assert gradient == pytest.approx(expected, abs=0.02), (i, gradient, expected)
        assert abs(expected) > 0.1 or i == 1


def test_the_loss_is_clipped_where_it_would_gain():
    old, advantage = torch.zeros(2), torch.tensor([1.0, -1.0])
    far = torch.tensor([1.0, -1.0], requires_grad=True)
    clipped_loss(far, old, advantage, 0.2).backward()
    assert far.grad.tolist() == [0, 0]
    near = torch.zeros(2, requires_grad=True)
    clipped_loss(near, old, advantage, 0.2).backward()
    assert near.grad.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("method", [RandomSearch, CMA])
def test_searches_find_an_optimum_and_resume_to_the_same(method, tmp_path):
    target = np.array([2.0, -1.0, 0.5])
    calls = []

    def score(candidate, generation):
        calls.append(generation)
        return -float(np.square(candidate - target).sum()) + 0.1 * np.sin(generation)

    whole = search(lambda n: method(3, n, 0), score, 400, tmp_path / "a.json")
    assert len(calls) <= 400 and np.abs(whole - target).max() < 0.35

    def interrupted(candidate, generation):
        if generation == 20:
            raise KeyboardInterrupt
        return score(candidate, generation)

    with pytest.raises(KeyboardInterrupt):
        search(lambda n: method(3, n, 0), interrupted, 400, tmp_path / "b.json")
    np.random.seed(5)
    calls.clear()
    again = search(lambda n: method(3, n, 0), score, 400, tmp_path / "b.json")
    assert min(calls) == 20 and np.array_equal(again, whole)
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "b.json").read_text())


def test_a_schedule_is_linear_between_its_knots():
    levels = np.log([9.0, 4, 1, 0.3, 0.1])
    assert np.array_equal(between(levels, None), np.eye(5)) and np.array_equal(between(levels, 7), np.eye(5))
    assert np.array_equal(between(levels, 1), np.ones((5, 1)))
    at = np.linspace(levels.min(), levels.max(), 3)
    np.testing.assert_allclose(between(levels, 3) @ at, levels, atol=1e-12)
    np.testing.assert_allclose(between(levels, 3).sum(1), 1)


def oracle_task(seed: int = 0, setting: str = "varies", levers: Levers = USUAL) -> tuple[Task, Worth, Standard]:
    fields, task = make_task(setting, "told", "end", seed, levers)
    return task, *task.measure(Pointwise(torch.ones(fields.shape).double()), range(4), 2)


def test_learning_resumes_to_the_same_policy(tmp_path, monkeypatch):
    task, worth, standard = oracle_task()
    whole = tune_learned(task, worth, standard, 256)
    torch.manual_seed(9)
    epoch = PolicyModule.on_train_epoch_end

    def stop(self):
        if self.current_epoch == 1:
            raise RuntimeError("stopped")

    monkeypatch.setattr(PolicyModule, "on_train_epoch_end", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        tune_learned(task, worth, standard, 256, tmp_path)
    monkeypatch.setattr(PolicyModule, "on_train_epoch_end", epoch)
    done = []
    again = tune_learned(task, worth, standard, 256, tmp_path, lambda n, score: done.append(n))
    assert done == [128, 192, 256]
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b) and torch.isfinite(a).all()
    third = tune_learned(task, worth, standard, 256, tmp_path, lambda n, score: done.append(n))
    assert len(done) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), third.parameters(), strict=True))


def test_budgets_are_kept():
    task, worth, standard = oracle_task()
    played = []

    class Counted(Task):
        def play(self, policy, numbers, stage, worth, noises, replicas=1, preference=0.5):
            played.append(len(numbers) * noises * replicas)
            return super().play(policy, numbers, stage, worth, noises, replicas, preference)

    counted = Counted(**vars(task))
    for tune in (
        lambda: tune_scheduled(counted, worth, Budget(200)),
        lambda: tune_scheduled(counted, worth, Budget(200), CMA),
        lambda: tune_linear(counted, worth, standard, Budget(200)),
        lambda: tune_learned(counted, worth, standard, 200),
    ):
        played.clear()
        tune()
        assert 100 < sum(played) <= 200


def test_learned_beats_every_schedule_where_errors_vary():
    """The second case of benchmarks/policy.py in small: 1,000 trajectories, one seed."""
    case, rivals = CASES[1], (FORMULA, *SCHEDULES[1:], LEARNED, KNOWING)
    found = compete(case, 0, 1000, 48, rivals)
    energy = {name: judged.energy for name, (_, judged) in found.items()}
    best = min(SCHEDULES[1:], key=lambda n: energy[n].mean())
    for rival in (best, FORMULA):
        assert paired_bootstrap(energy[LEARNED], energy[rival]).high < 0
    ratio = energy[LEARNED].mean() / energy[KNOWING].mean()
    assert ratio < 1.15 < energy[best].mean() / energy[KNOWING].mean()
    table = rows(case, 0, 1000, found)
    assert [r["rival"] for r in table] == [*rivals] and table[-2]["gain on schedule low"] > 0
    assert table[0]["gain on formula"] == 0 and 0.8 < table[-1]["spread over error"] < 1.2


def test_tuned_policies_keep_to_the_formula_where_samples_are_alike():
    """What a search finds there loses on the problems held out, which decide."""
    found = {n: j for n, (_, j) in compete(CASES[0], 0, 1600, 48, ("unguided", FORMULA, LINEAR, LEARNED)).items()}
    for rival in (LINEAR, LEARNED):
        assert np.array_equal(found[rival].energy, found[FORMULA].energy)
    assert found[FORMULA].energy.mean() < 0.8 * found["unguided"].energy.mean()


@pytest.fixture
def run(tmp_path, make_fields, monkeypatch):
    """A run's folder: an untrained model of currents with land, and the config that tells its data."""
    import yaml

    from sciguide.datasets.module import GridData
    from sciguide.training.diffusion import DiffusionModule

    monkeypatch.chdir(tmp_path)
    make_fields(steps=30).to_netcdf("a.nc")
    config = {"source": "a.nc", "train": [0, 18], "validation": [18, 30], "cache": "cache"}
    data = GridData(**config)
    module = DiffusionModule(width=4, multipliers=[1, 2], equations={"nondivergence": {}})
    module.build(data)
    folder = tmp_path / "run"
    folder.mkdir()
    module.export(data).save(folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": config}))
    return folder


def test_tune_then_generate_and_tune_again(run, capsys):
    words = ["tune", str(run), "--points=5", "--observe=[u]", "--misreport=3", "--trajectories=64", "--judged=2"]
    words += ["--members=2", "--steps=3", "--norm=spectra"]
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[-5:-1]] == ["fixed", "scheduled", "linear", "learned"]
    files = {p: p.read_bytes() for p in (run / "policies").glob("*.pt")}
    scores = (run / "policies" / "scores.json").read_text()
    assert len(files) == 3
    assert main(words) == 0
    assert {p: p.read_bytes() for p in files} == files and (run / "policies" / "scores.json").read_text() == scores
    assert main([*words, "--seed=1"]) == 2
    assert "policies of other options" in capsys.readouterr().err
    run.with_name("o.csv").write_text("variable,y,x,value,error\nu,-31,30,0.3,0.1\nu,-32,31,0.1,0.1\n")
    ds = load(run).generate(members=2, steps=3, policy="learned", observations="o.csv")
    assert np.isfinite(ds.u.values[:, -1]).all()
    out = run / "e"
    again = ["generate", str(run), "--members=2", "--steps=3", "--policy=linear", "--obs=o.csv", f"--out={out}"]
    assert main(again) == 0 and main(again) == 0
    assert main(["generate", str(run), "--policy=learned", f"--out={run / 'x'}"]) == 2
    assert "tuned for guidance by" in capsys.readouterr().err


def test_what_cannot_be_tuned_is_one_line(run, capsys):
    for words, message in (
        (["--points=-1"], "--points -1: one number or [low, high], at least 0"),
        (["--trajectories=10"], "--trajectories 10: at least 64"),
        (["--points=5", "--observe=[w]"], "--observe w: no such variable; there are u, v"),
        (["--points=500"], "500 stations: there are"),
    ):
        assert main(["tune", str(run), *words]) == 2
        assert message in capsys.readouterr().err
        if (run / "policies").is_dir():
            (run / "policies" / "tune.json").unlink()
    (run / "config.yaml").unlink()
    assert main(["tune", str(run)]) == 2
    assert "tuning needs the data" in capsys.readouterr().err


def test_problems_of_a_run(run):
    """Tuning and judging share no truth and no network; a problem is a function of its number; errors are as told."""
    model = load(run).model
    samples = truths(run, model)
    problems = RunProblems(model, samples, Variety((10, 10), (0,), steps=(3, 3)), "told")
    tuning, judging = problems(range(20)), problems(range(JUDGED, JUDGED + 20))
    shared = {t.numpy().tobytes() for b in tuning for t in b.truth} & {
        t.numpy().tobytes() for b in judging for t in b.truth
    }
    assert not shared and [len(b.numbers) for b in tuning] == [8, 8, 4]
    alone, together = problems([9])[0], tuning[1]
    a, b = (p.members(1).constraints[-1].observations.value for p in (alone, together))
    assert torch.equal(a[0], b[1])
    misfit = torch.cat([p.members(1).energies(p.truth[:, 0])[:, -1] for p in problems(range(400))])
    assert float(misfit.mean()) == pytest.approx(1, abs=0.05)
    assert float((misfit > tuning[0].floors[-1]).double().mean()) == pytest.approx(0.1, abs=0.04)
    unobserved = RunProblems(model, samples, Variety(steps=(3, 3)), "told")([0, 1])
    assert len(unobserved) == 1 and unobserved[0].truth.shape == (2, 8, *model.shape)


def test_terms_of_ones_own_are_rewarded_and_guide_nothing(run):
    """Mean squares of both variables over a floor of 4: the potential is that of the equation and of both terms, with
    equal weights; the fields, and what a policy sees, are the same without."""
    model = load(run).model
    samples = truths(run, model)
    rules = Rules(Variety(steps=(3, 3)), judged=2, trajectories=64)
    own = replace(rules, terms=Terms(mean_squares, (4.0, 4.0)))
    plain, task = (make_problems(model, samples, r).task(0) for r in (rules, own))
    even = Worth(distance_of(model, samples, "energy"), torch.full((3,), 1 / 3), torch.ones(3), 1.0)
    formula = Fixed(len(task.actions), looks=True)
    (played,) = task.play(formula, [0], "tune", even, 2)
    (without,) = plain.play(formula, [0], "tune", replace(even, weights=torch.ones(1), scales=torch.ones(1)), 2)
    assert torch.equal(played.rollout.finished, without.rollout.finished)
    seen = played.rollout.observation, without.rollout.observation
    torch.testing.assert_close(*seen, rtol=0, atol=0, equal_nan=True)
    last = played.rollout.finished
    expected = without.phi[-1] / 3 - (mean_squares(last) / 4).clamp(min=1).log().sum(1) / 3
    torch.testing.assert_close(played.phi[-1], expected)
    assert take_up(run, run / "model.pt", own) == run / "policies"
    assert "mean_squares" in (run / "policies" / "tune.json").read_text()
    with pytest.raises(InputError, match="policies of other options"):
        take_up(run, run / "model.pt", rules)


def mean_squares(x: torch.Tensor) -> torch.Tensor:
    """Of each variable, ten times, (B, 2)."""
    return 10 * x.square().mean((2, 3))


def test_every_seed_has_problems_of_its_own_to_tune_on_and_to_choose_by():
    """Below those to be judged by, in the same rhythm of groups, and with other truths in another order."""
    tuned, held = ([own_numbers(seed, start, 4000) for seed in (0, 1, 2, 4095)] for start in (0, HELD))
    every = [n for numbers in tuned + held for n in numbers]
    assert len(set(every)) == len(every) and max(every) < JUDGED and tuned[0] == range(4000)
    assert max(map(max, tuned)) < HELD <= min(map(min, held))
    for count in (64, 100, 128, 333, 1000):
        firsts = {numbers[0] % count for numbers in held[:3]}
        assert len(firsts) == 3
    assert all(numbers[0] % 8 == 0 for numbers in held)


def test_preference_weighs_physics_against_the_distribution_and_the_policy_sees_it():
    task, worth, _ = oracle_task()
    formula = Fixed(len(task.actions))
    scores = [float(task.score(formula, [0, 1], "tune", worth, 2, p).mean()) for p in (0.0, 0.5, 1.0)]
    assert scores[1] == pytest.approx((scores[0] + scores[2]) / 2)
    (played,) = task.play(formula, [0, 1], "tune", worth, 2, preference=0.25)
    assert (played.rollout.observation[:, :, -2] == 0.25).all() and task.observations[-2] == "preference"
    (varied,) = task.play(formula, [0, 1], "tune", worth, 2, preference=None)
    seen = varied.rollout.observation[0, :, -2].reshape(2, -1)
    assert [t.preference for t in trade_off(task, worth, formula, [JUDGED, JUDGED + 1], 2, 3)] == [0.0, 0.5, 1.0]
    assert torch.allclose(seen, preferences([0, 1])[:, None].expand_as(seen)) and seen[0, 0] != seen[1, 0]


def test_the_best_state_on_held_problems_is_kept_and_the_way_is_written_down(tmp_path, monkeypatch):
    """A policy that learning ruins ends as that with which it began: the formula, or a schedule where work counts."""
    monkeypatch.setattr("sciguide.training.tune.LEAST_CHECKED", 100)
    monkeypatch.setattr("sciguide.training.tune.LEAST_SCHEDULED", 400)
    for levers, spent in ((USUAL, 0), (Levers(compute=True), 100)):
        folder = tmp_path / str(spent)
        task, worth, standard = oracle_task(setting="alike", levers=levers)
        ruined = tune_learned(task, worth, standard, 400, folder, learning_rate=5.0)
        assert float(ruined.network[-1].weight.abs().max()) == 0.0, "the first scored best"
        rows = (folder / "history.csv").read_text().splitlines()
        # a quarter for a schedule, and three checks of a 64th of the trajectories in problems, of two noises each
        left = 400 - spent - 3 * 2 * (400 // 64)
        assert rows[0] == "update,trajectories,score,entropy,action_rms,at_limit" and len(rows) == 1 + left // 64
        assert rows[1].startswith(f"1,{spent + 64},") and (folder / "schedule.json").is_file() == bool(spent)
        again = tune_learned(task, worth, standard, 400, folder, learning_rate=5.0)
        assert torch.equal(again.network[0].weight, ruined.network[0].weight)
        assert len((folder / "history.csv").read_text().splitlines()) == len(rows)
