"""The whole way from data to report on a problem whose best possible answer is known.

Pairs (f, phi) with lap(phi) = f are Gaussian, so the posterior given noisy points of phi is known in closed form, from
the generator's own covariance. A base model is trained on few pairs; each policy then draws an ensemble for every test
problem through the public functions, and the ensembles are scored against the truth and that posterior.
"""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from sciguide.cli import dispatch
from sciguide.demo_page import Found, write_demo_page
from sciguide.demo_problems import (
    DRAWING,
    EXACT,
    EXACT_MEAN,
    FIELDS,
    POLICIES,
    PRIOR,
    TUNING,
    Plan,
    Problem,
    make_data,
    references,
)
from sciguide.demo_scores import Scores, crps_ratio, records, score, summarise, verdict
from sciguide.errors import InputError
from sciguide.generate import Generator, load
from sciguide.provenance import provenance
from sciguide.receipts import write_json
from sciguide.writer import open_ensemble

CONFIG = Path(__file__).with_name("configs") / "demo.yaml"
MARK = "demo.json"  # in every folder that a demo made
COMPARED = {
    ("learned", "fixed"): ("The learned policy", "the formula"),
    ("scheduled", "fixed"): ("The tuned schedule", "the formula"),
    ("learned", PRIOR): ("The learned policy", "the model's Gaussian prior, conditioned without a network,"),
}
MADE = ("train.nc", "truth.nc", "cache", "observations", "run", "last", "report.html", MARK)


def run_demo(out: str | Path, plan: Plan, command: Sequence[str]) -> Path:
    """All stages into the folder `out`; the path of the report. What an earlier demo left there is removed first.

    Raises InputError where `out` holds anything else.
    """
    folder, console, seconds = Path(out), Console(), {}
    if clear(folder):
        console.print(f"removed an earlier demo from {folder}")

    @contextmanager
    def stage(name: str, what: str) -> Iterator[None]:
        console.rule(f"[bold]{name}[/]: {what}", align="left")
        begin = monotonic()
        yield
        seconds[name] = monotonic() - begin
        console.print(f"{name}: {seconds[name]:.1f} s")

    with stage("data", f"{plan.training + plan.validation} pairs to learn from, {plan.problems} problems to solve"):
        problems = make_data(folder, plan)
    with stage("fit", "a base model of the pairs"):
        fit(folder, plan)
    with stage("tune", f"guidance by {plan.points} observations and the equation, on held-out samples"):
        tune(folder, plan)
    with stage("generate", f"{plan.members} members for each of {plan.problems} problems by each policy"):
        generator = load(folder / "run")
        ensembles = {p: draw(folder, generator, problems, plan, p, console) for p in POLICIES}
    with stage("evaluate", "against the truths and the exact posterior"):
        ensembles |= references(generator.model, problems, plan.members)
        scores = evaluate(generator, problems, ensembles)
        lines = {name: summarise(s, scores[EXACT_MEAN], scores[EXACT]) for name, s in scores.items()}
        verdicts = [verdict(*words, crps_ratio(scores[a], scores[b])) for (a, b), words in COMPARED.items()]
    with stage("report", "one page"):
        found = Found(plan, generator, problems, ensembles, lines, verdicts, seconds)
        path = write_demo_page(folder, found, command)
        write_json(
            folder / MARK,
            {
                "header": provenance(shlex.join(command)),
                "records": records(lines, FIELDS, plan.problems),
                "verdicts": verdicts,
            },
        )
    console.rule(align="left")
    console.print(*verdicts, f"report: {path}", sep="\n")
    return path


def clear(folder: Path) -> bool:
    """Make the folder, or remove what an earlier demo left there, and whether there was one. Raises InputError where
    the folder holds something and no mark of a demo."""
    there = (folder / MARK).is_file()
    if folder.exists() and not there and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and holds no demo: give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / name for name in MADE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_json(folder / MARK, {"records": [], "verdicts": []})
    return there


def fit(folder: Path, plan: Plan) -> None:
    """Train the shipped config on the demo's own files."""
    total = plan.training + plan.validation
    own = {
        "run": folder / "run",
        "data.source": folder / "train.nc",
        "data.cache": folder / "cache",
        "data.train": [0, plan.training],
        "data.validation": [plan.training, total],
    }
    dispatch(["fit", "-c", str(CONFIG), *(f"--{key}={value}" for key, value in own.items()), *plan.fit])


def tune(folder: Path, plan: Plan) -> None:
    """Tune a schedule and learn a policy on problems like the ones to be solved, made of the validation samples."""
    options = {
        "points": plan.points,
        "error": plan.noise,
        "observe": '["phi"]',
        "norm": "crps",
        "steps": plan.steps,
        "scales": plan.scales,
        "trajectories": plan.trajectories,
        "judged": plan.judged,
        "members": plan.members,
        "seed": TUNING,
    }
    dispatch(["tune", str(folder / "run"), *(f"--{key}={value}" for key, value in options.items())])


def draw(
    folder: Path, generator: Generator, problems: list[Problem], plan: Plan, policy: str, console: Console
) -> NDArray[np.float32]:
    """Ensembles (P, M, C, Y, X) by one policy: that of the first problem as files, with what the policy did, by
    `sciguide generate`; those of the others in memory."""
    run = folder / "run"
    out = run / "ensembles" / policy
    options = {"policy": policy, "steps": plan.steps, "scales": plan.scales, "batch": plan.members}
    words = [f"--{key}={value}" for key, value in options.items()]
    observed = [] if policy == "none" else [f"--obs={problems[0].file}"]
    dispatch(
        ["generate", str(run), f"--members={plan.members}", f"--seed={DRAWING}", f"--out={out}", *words, *observed]
    )
    found = [open_ensemble(out)]
    for i, problem in enumerate(track(problems[1:], policy, console=console, transient=True), 1):
        observations = None if policy == "none" else str(problem.file)
        found.append(generator.generate(plan.members, DRAWING + i, observations=observations, **options))
    return np.stack([np.stack([ds[name].values for name in FIELDS], 1) for ds in found])


def evaluate(
    generator: Generator, problems: list[Problem], ensembles: dict[str, NDArray[np.float32]]
) -> dict[str, Scores]:
    """The scores of every method; R of the fields as they are written, in float32."""
    truths = np.stack([problem.truth for problem in problems])
    (equation,) = generator.equations
    order = [FIELDS.index(name) for name in equation.operator.fields]
    out = {}
    for name, fields in ensembles.items():
        flat = torch.from_numpy(fields.reshape(-1, *truths.shape[1:])[:, order]).double()
        out[name] = score(fields, truths, equation.operator.energy(flat).numpy().reshape(fields.shape[:2]))
    return out
