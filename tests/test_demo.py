"""The demo: its data and references against linear algebra, its words against the numbers, and one small run."""

import json
import re

import numpy as np
import pytest
from test_report import shown

from sciguide.bootstrap import Interval
from sciguide.cli import main
from sciguide.demo import clear
from sciguide.demo_problems import EXACT, EXACT_MEAN, POLICIES, PRIOR, SMALL, make_data
from sciguide.demo_scores import crps_ratio, records, score, summarise, verdict
from sciguide.errors import InputError


def ensembles(rng: np.random.Generator, offset: float = 0.0, problems: int = 40, members: int = 16):
    """(P, M, 2, 3, 3) of unit spread and truths (P, 2, 3, 3) from the same distributions, but for `offset`."""
    centre = rng.normal(size=(problems, 1, 2, 3, 3)) + 5
    return centre + rng.normal(size=(problems, members, 2, 3, 3)) + offset, (centre + rng.normal(size=centre.shape))[
        :, 0
    ]


def test_scores_of_a_calibrated_and_of_a_shifted_ensemble():
    x, truth = ensembles(np.random.default_rng(0))
    residual = np.full(x.shape[:2], 0.04)
    good, shifted = score(x, truth, residual), score(x + 1.5, truth, residual)
    exact = score(x.mean(1, keepdims=True), truth, residual[:, :1])
    line = summarise(good, exact, good)
    np.testing.assert_allclose(line.spread_error.value, 1, atol=0.1)
    np.testing.assert_allclose(line.ratio.value, 1)
    np.testing.assert_allclose(line.std_ratio.value, 1)
    assert float(line.residual.value) == pytest.approx(0.2)
    np.testing.assert_allclose(good.crps.mean(0), 1 / np.sqrt(np.pi), atol=0.05)  # of N(0, 1) about itself
    assert summarise(exact, exact, good).spread_error is None
    assert crps_ratio(shifted, good).low > 1 and crps_ratio(good, shifted).high < 1
    found = records({"a": line}, ("f", "phi"), 40)
    assert [r["variable"] for r in found if r["metric"] == "crps"] == ["f", "phi"]
    assert [r["variable"] for r in found if r["metric"] == "residual"] == ["all"]
    assert all(r["low"] <= r["value"] <= r["high"] for r in found if r["metric"] == "crps")


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (
            (0.9, 0.85, 0.95),
            r"^A beats B beyond the bootstrap interval: CRPS changes by -10.0 % \(95 % interval -15.0 %",
        ),
        ((0.98, 0.95, 1.01), "^A does not beat B beyond the bootstrap interval: "),
        ((1.1, 1.05, 1.2), "^A does not beat B; it is worse beyond the bootstrap interval: "),
    ],
)
def test_the_sentence_follows_from_the_interval(ratio, words):
    assert re.search(words, verdict("A", "B", Interval(*map(np.float64, ratio))))


def test_problems_are_observed_where_and_as_they_say(tmp_path):
    plan = SMALL._replace(problems=40, noise=0.1)
    problems = make_data(tmp_path, plan)
    truths = np.stack([p.truth for p in problems])
    error = 0.1 * truths[:, 1].std()
    missed = []
    for problem in problems:
        j, i = (np.rint(part * (plan.size - 1)).astype(int) for part in (problem.y, problem.x))
        assert len(set(zip(j, i, strict=True))) == plan.points
        assert min(j.min(), i.min()) > 0 and max(j.max(), i.max()) < plan.size - 1
        missed.append((problem.values - problem.truth[1, j, i]) / error)
    assert np.std(missed) == pytest.approx(1, abs=0.12)
    # the posterior's spread is that of the truth about its mean
    draws = [p.posterior.draw(np.random.default_rng(0), 30) for p in problems]
    spread = np.mean([d["phi"].var(0, ddof=1) for d in draws])
    assert np.mean([(p.posterior.mean["phi"] - p.truth[1]) ** 2 for p in problems]) == pytest.approx(spread, rel=0.3)


def test_only_a_folder_of_the_demo_is_cleared(tmp_path):
    folder = tmp_path / "demo"
    assert not clear(folder)
    (folder / "run").mkdir()
    (folder / "run" / "old").touch()
    (folder / "mine.txt").touch()
    assert clear(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["demo.json", "mine.txt"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds no demo"):
        clear(other)
    assert (other / "thesis.tex").exists()


def test_small_demo_from_data_to_report(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--small"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    html = (out / "report.html").read_text()
    found = json.loads((out / "demo.json").read_text())
    assert len(found["verdicts"]) == 3
    for sentence in found["verdicts"]:
        assert "the bootstrap interval" in sentence and sentence in said and sentence in html.replace("&#39;", "'")
    alts = [alt for alt, _ in shown(out / "report.html").images]
    methods = [*POLICIES, PRIOR, EXACT]
    for name in ("f", "phi"):
        assert any(alt.startswith(f"Map of the true {name}") for alt in alts)
        for method in methods:
            for what in (f"{name}, member 0 of", f"{name}, mean of", f"the spread of {name},"):
                assert f"Map of {what} {method}" in alts
    assert all(f"Map of the residual of a member of {method}" in alts for method in [*methods, EXACT_MEAN])
    assert sum(alt.startswith("Action ") for alt in alts) == 10  # four bands of each constraint, two fields
    for stage in ("data", "fit", "tune", "generate", "evaluate"):
        assert f"<td>{stage}</td>" in html
    by = {(r["method"], r["variable"], r["metric"]): r["value"] for r in found["records"]}
    assert by[EXACT_MEAN, "f", "ratio"] == pytest.approx(1)
    assert by["fixed", "phi", "error"] < 0.7 * by["none", "phi", "error"]
    assert by["fixed", "all", "residual"] < 1e-3 < 0.1 < by["none", "all", "residual"]
    assert (out / "run" / "ensembles" / "learned" / "member_00003.nc").is_file()
