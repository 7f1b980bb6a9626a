"""The worlds of the policy tables have the best answer that they claim, and the commands keep what they have done."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import policy, policy_front, policy_trained, tables
from benchmarks.policy_fields import ERROR, TwoFields
from benchmarks.policy_rivals import FORMULA, KNOWING, LEARNED, NOISES, Case, compete, task_of, together
from benchmarks.policy_stations import Approximate, Stations
from sciguide.actions import Levers
from sciguide.kriging import Kriging
from sciguide.learner import JUDGED
from sciguide.rollout import draw_noise, roll_out


def test_members_of_the_generator_are_its_gaussian_whatever_the_steps():
    for steps in (1, 5):
        world = TwoFields(1.0, 1.0, steps=steps)
        (batch,) = world.problems([0, 1])
        noise = draw_noise("tune", 0, [0, 1], 3, world.shape)
        found = roll_out(batch, None, noise).finished.unflatten(0, (2, 3))
        for p, number in enumerate((0, 1)):
            _, mean, std = world.draw(number)
            expected = mean + world.waves.inverse(std[:, world.waves.band] * world.waves.transform(noise[p]), noise[p])
            torch.testing.assert_close(found[p], expected, atol=1e-9, rtol=0)


def test_who_is_told_the_errors_conditions_on_the_equation():
    """x - V J^T (J V J^T)^-1 r with the V of each problem, solved densely. The formula's own V is the prior's at the
    smallest noise level, white to a hundredth."""
    world = TwoFields(1.0, 1.0)
    numbers, (step,) = [3, 4], world.constraints
    policy, levers = world.knowing(numbers, 2)
    noise = draw_noise("tune", 0, numbers, 2, world.shape)
    (batch,) = world.problems(numbers)
    plain = roll_out(batch, None, noise).finished
    found = roll_out(batch, policy, noise, levers=levers).finished
    d = plain[0].numel()
    J = step.J.forward(torch.eye(d).double().reshape(d, *world.shape)).flatten(1).T
    T = world.waves.transform(torch.eye(d).double().reshape(d, *world.shape)).flatten(1)
    for row in range(4):
        variance = world.draw(numbers[row // 2])[2].square()[:, world.waves.band].flatten()
        V = T @ torch.diag(variance) @ T.T
        weights = torch.linalg.solve(J @ V @ J.T + 1e-12 * torch.eye(len(J)), J @ plain[row].flatten())
        expected = plain[row].flatten() - V @ J.T @ weights
        torch.testing.assert_close(found[row].flatten(), expected, atol=0.01 * ERROR, rtol=0)
        assert (plain[row].flatten() - expected).abs().max() > ERROR


def test_stations_err_by_their_factor_and_who_is_told_it_takes_it():
    world = Stations(scales="told")
    numbers = [JUDGED + i for i in range(64)]
    misfits = []
    for batch in world.problems(numbers):
        members = batch.members(1)
        squares = members.energies(batch.truth[:, 0])[:, 0]
        misfits += (squares / torch.tensor([world.draw(n)[2] ** 2 for n in batch.numbers])).tolist()
    assert np.mean(misfits) == pytest.approx(1, abs=0.1)
    (batch,) = world.problems(numbers[:1])
    members = batch.members(1)
    (known,) = members.constraints
    policy, _ = world.knowing(numbers[:1], 1)
    x0 = torch.zeros(1, *world.shape).double()
    rows, factor = known.observations, world.draw(numbers[0])[2]
    told = known.correct(x0, 0.5, policy(x0[:, 0, 0]).action)
    assert not torch.allclose(told, known.correct(x0, 0.5))
    true = replace(rows, value=rows.value[0], error=rows.error * factor)
    torch.testing.assert_close(told, Kriging(world.prior, true, "told").correct(x0, 0.5), atol=1e-8, rtol=0)


def test_the_equation_is_off_by_what_the_formula_is_told_on_average():
    world = Approximate()
    truth = torch.stack([world.draw(n)[0] for n in range(400)])
    R = world.equation.energy(truth)
    assert float(R.mean()) == pytest.approx(world.equation.record.s2, rel=0.15)
    assert float(R.max() / R.min()) > 1e3 and float(truth.square().mean((0, 2, 3))[0]) == pytest.approx(1, rel=0.1)


def test_a_contest_has_all_rivals_and_all_seeds_as_one():
    case = Case(
        "c", "n", lambda scales, **options: TwoFields(1.0, scales=scales, **options), "told", others=(Levers(1, 1),)
    )
    each = [compete(case, seed, 96, 4) for seed in (0, 1)]
    assert {FORMULA, f"{FORMULA}, scales ml", LEARNED, f"{LEARNED}, 1 band", KNOWING, "unguided"} <= set(each[0])
    whole = together(each)
    assert len(whole[FORMULA][1].score) == 8 and whole[LEARNED][0] == case.levers
    assert whole["unguided"][1].energy.mean() > whole[FORMULA][1].energy.mean() > whole[KNOWING][1].energy.mean()
    task = task_of(TwoFields(1.0), 0)
    assert whole[FORMULA][1].evaluations == len(task.sigmas) and NOISES == 8


def test_the_command_keeps_what_it_has_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(policy, "RESULTS", tmp_path)
    monkeypatch.setattr(policy, "SMALL_TRAJECTORIES", 96)
    monkeypatch.setattr(policy, "SMALL_JUDGED", 4)
    words = ["--small", "--only", "alike", "--runs", str(tmp_path / "runs"), "--date", "2026-01-31"]
    assert policy.main(words) == 0
    text = (tmp_path / "policy_small.csv").read_text()
    monkeypatch.setattr(policy, "compete", lambda *words: pytest.fail("it is done already"))
    assert policy.main(words) == 0
    again = [r for r in csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))]
    assert {r["case"] for r in again} == {"alike"} and {r["seed"] for r in again} == {"0", "all"}
    lines = (tmp_path / "policy_small.csv").read_text().splitlines()
    assert [x for x in lines if x[:1] != "#"] == [x for x in text.splitlines() if x[:1] != "#"]


@pytest.mark.slow
def test_the_front_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(policy_front, "RESULTS", tmp_path)
    assert policy_front.main(["--small"]) == 0
    assert (tmp_path / "policy_front_small.csv").read_text().count("\nfront,") == 15


def test_seeds_of_a_trained_run_are_averaged_problem_by_problem():
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(2, 40))
    noise = rng.normal(size=40)
    gains = {"fixed": 0, "constant": 0.05, "scheduled": noise, "linear": -0.2}
    each = [
        {
            name: {"scores": (f + gain).tolist(), "energies": (1 - f - gain).tolist(), "evaluations": 9 + seed}
            for name, gain in (gains | {"learned": 0.1 + sign * noise}).items()
        }
        for seed, (f, sign) in enumerate(zip(fixed, (1, -1), strict=True))
    ]
    table = policy_trained.rows(Path("runs/x"), Path("problems.yaml"), each, 2000)
    assert [r["seed"] for r in table] == [0] * 5 + [1] * 5 + ["all"] * 5
    found = {r["rival"]: r for r in table if r["seed"] == "all"}
    learned = found["learned"]
    # what differs between the seeds goes out in the mean, so what is left has no spread
    assert [learned[f"fixed {end}"] for end in ("low", "high")] == pytest.approx([0.1, 0.1])
    assert learned["gain on linear"] == pytest.approx(0.3) and learned["gain on constant"] == pytest.approx(0.05)
    assert learned["energy over fixed"] == pytest.approx(-0.1)
    assert learned["energy score"] == pytest.approx(0.9 - fixed.mean()) and learned["evaluations"] == 9.5
    assert all(r["trajectories"] == 2000 for r in table)
    apart = next(r for r in table if r["rival"] == "learned")
    assert apart["score"] == pytest.approx(fixed[0].mean() + 0.1 + noise.mean())
    assert apart["fixed low"] < apart["gain on fixed"] < apart["fixed high"]


def test_rows_that_stay_in_a_table_stay_with_their_command(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    for i, name in enumerate(("one", "two", "three", "two")):
        monkeypatch.setattr("sys.argv", ["benchmarks/a.py", "--only", name])
        tables.write_table(
            path, [{"of": name, "value": i}], "about", kept=[r for r in tables.read_table(path) if r["of"] != name]
        )
    assert [(r["of"], r["value"]) for r in tables.read_table(path)] == [("one", "0"), ("three", "2"), ("two", "3")]
    lines = [line.partition("benchmarks.a")[2] for line in path.read_text().splitlines() if "command: " in line]
    assert lines == [" --only two", " --only three", " --only one"]
