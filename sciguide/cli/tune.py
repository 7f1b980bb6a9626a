"""`sciguide tune RUN`: learn the guidance policy on the frozen model of a run, beside its rivals."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sciguide.cli.parser import call
from sciguide.errors import InputError

if TYPE_CHECKING:
    import torch

    from sciguide.model import Model

FOLDER, OPTIONS, SCORES = "policies", "tune.json", "scores.json"


def run(argv: list[str]) -> int:
    return call(tune, argv, "sciguide tune")


def tune(
    run: str,
    points: int = 0,
    error: float = 0.1,
    misreport: float = 1.0,
    observe: list[str] | None = None,
    no_equations: bool = False,
    direction: Literal["kriging", "gradient"] = "kriging",
    scales: Literal["ml", "told"] = "ml",
    steps: int = 20,
    trajectories: int = 2000,
    judged: int = 32,
    members: int = 8,
    norm: Literal["energy", "crps"] = "energy",
    front: bool = False,
    seed: int = 0,
) -> int:
    """Tune the guidance of a run's model and print how each policy scores on problems that none was tuned on.

    The policies go into RUN/policies, for `generate --policy scheduled|linear|learned`. Running the same command again
    resumes.

    Args:
        run: a run's folder
        points: stations per problem, at random grid points; 0 guides by the run's equations alone
        error: their told standard deviation, in standard deviations of the fields
        misreport: true errors are the told ones times a factor from 1 / misreport to misreport
        observe: variables that stations measure; all if left out
        no_equations: guide by the observations alone, also where the model has equations
        direction: in which equations correct: kriging, or gradient, cheap steps down the gradient of the residual
        scales: that the formula estimates by maximum likelihood, or takes as told
        steps: evaluations of the network per member
        trajectories: that each rival is tuned on
        judged: problems that the policies are judged by
        members: of each of these
        norm: distance to the truth, of whole fields (energy) or point by point (crps)
        front: the learned policy is trained for every preference between the distribution and physics, for
            `generate --preference`, instead of the even one; it needs a few times the trajectories
        seed: of everything
    """
    for name, value, least in (
        ("points", points, 0),
        ("steps", steps, 1),
        ("judged", judged, 2),
        ("members", members, 2),
    ):
        if value < least:
            raise InputError(f"--{name} {value}: at least {least}")
    if trajectories < 64 or error <= 0 or misreport < 1:
        raise InputError("--trajectories are at least 64, --error is positive, --misreport at least 1")
    from sciguide.generate import find_model, one_thread
    from sciguide.kernels.backends import computed_by
    from sciguide.model import Model

    path = find_model(run)
    backend = computed_by()
    options = {k: v for k, v in locals().items() if k in tune.__annotations__ and k not in ("run", "return")}
    folder = take_up(path, options)
    model = Model.load(path)
    print(backend)
    with one_thread():
        compete(model, truths(path.parent, model), folder, options)
    return 0


def take_up(model: Path, options: dict[str, Any]) -> Path:
    """The folder of the policies, made or taken up. Raises InputError where it holds those of another command."""
    from sciguide.receipts import sha256, write_json

    folder = model.parent / FOLDER
    state = {**options, "model": sha256(model)}
    saved = folder / OPTIONS
    if saved.is_file() and json.loads(saved.read_text()) != state:
        raise InputError(f"{folder} holds policies of other options or another model ({saved}): remove that folder")
    folder.mkdir(exist_ok=True)
    write_json(saved, state)
    return folder


def truths(run: Path, model: "Model") -> "torch.Tensor":
    """The validation samples of the run's own data, normalised, (N, C, Y, X) float64."""
    import torch
    import yaml

    from sciguide.datasets.module import GridData

    config = run / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config}: not there; tuning needs the data that the run was fitted to")
    data = GridData(**yaml.safe_load(config.read_text())["data"])
    data.setup()
    if data.prepared.fingerprint != model.fingerprint:
        raise InputError(f"{config}: its data are not those that the model was fitted to; fit it again")
    return model.normaliser.encode(torch.tensor(data.split("validation"), dtype=torch.float64))


def compete(model: "Model", truths: "torch.Tensor", folder: Path, options: dict[str, Any]) -> None:
    """Tune every rival with the same budget, save it, judge all of them and print the table."""
    import torch

    from sciguide.guidance import EVEN
    from sciguide.learner import JUDGED
    from sciguide.policy import save_policy
    from sciguide.receipts import write_json
    from sciguide.rollout import stages_apart
    from sciguide.training.problems import RunProblems, Stations
    from sciguide.training.tune import Budget, judge, trade_off, tune_learned, tune_linear, tune_scheduled

    stations = None
    if options["points"]:
        channels = observed(model, options["observe"])
        stations = Stations(options["points"], channels, options["error"], options["misreport"])
    guides = {"equations": not options["no_equations"], "direction": options["direction"]}
    task = RunProblems(model, truths, stations, options["scales"], options["steps"], **guides).task(options["seed"])
    weights = torch.from_numpy(model.grid.weights())
    area = torch.where(torch.from_numpy(model.layout.mask), weights, 0)
    numbers = [JUDGED + i for i in range(options["judged"])]
    budget = Budget(options["trajectories"])
    stages_apart(options["seed"], range(budget.trajectories), numbers)
    with progress(budget.trajectories, options["judged"]) as report:
        worth, standard = task.measure(area, range(8), 2, norm=options["norm"])
        rivals = {
            "scheduled": lambda: tune_scheduled(
                task, worth, budget, state=folder / "scheduled.json", report=report("scheduled")
            ),
            "linear": lambda: tune_linear(
                task, worth, standard, budget, state=folder / "linear.json", report=report("linear")
            ),
            "learned": lambda: tune_learned(
                task,
                worth,
                standard,
                budget.trajectories,
                folder / "learned",
                report("learned"),
                preference=None if options["front"] else EVEN,
            ),
        }
        policies = {}
        for name, tuned in rivals.items():
            policies[name] = tuned()
            save_policy(folder / f"{name}.pt", policies[name], task.observations, task.actions)
        told = report("judging")
        verdicts = judge(task, worth, policies, numbers, options["members"])
        told(options["judged"], float(verdicts["learned"].score.value))
        front = trade_off(task, worth, policies["learned"], numbers, options["members"]) if options["front"] else []
    table = {
        name: {"score": v.score, "gain on the formula": v.gain, "scores": v.scores.tolist()}
        for name, v in verdicts.items()
    }
    written = {k: {n: plain(v) for n, v in row.items()} for k, row in table.items()}
    write_json(folder / SCORES, written | ({"front": [r._asdict() for r in front]} if front else {}))
    print(f"score on {len(numbers)} problems that no policy was tuned on, large is good; 95 % intervals")
    for name, row in table.items():
        score, gain = ("{:8.4f} [{:.4f}, {:.4f}]".format(*map(float, row[k])) for k in ("score", "gain on the formula"))
        print(f"{name:<10} {score}" + (f"   on the formula {gain}" if name != "fixed" else "   the formula"))
    for r in front:
        print(f"preference {r.preference:4.2f}  residual over the data's {r.excess:6.3f}  energy score {r.energy:.4f}")
    print(f"policies: {folder}")


def plain(value: Any) -> list[float]:
    """Numbers and lists of them."""
    return [float(v) for v in value]


def observed(model: "Model", names: list[str] | None) -> tuple[int, ...]:
    """The channels of the variables `names`. Raises InputError for one that the model lacks."""
    channels = model.layout.channels
    for name in names or ():
        if name not in model.layout.variables:
            raise InputError(f"--observe {name}: no such variable; there are {', '.join(model.layout.variables)}")
    return tuple(i for i, c in enumerate(channels) if names is None or c.variable in names)


@contextmanager
def progress(trajectories: int, judged: int) -> Iterator[Callable[[str], Callable[[int, float], None]]]:
    """`report(name)`: a bar with the score of that rival, moved by calling it with (done, score)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    score = TextColumn("score {task.fields[score]}")
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), score, TimeRemainingColumn())
    with Progress(*columns, transient=True) as bars:

        def report(name: str) -> Callable[[int, float], None]:
            task = bars.add_task(name, total=judged if name == "judging" else trajectories, score="")
            return lambda done, value: bars.update(task, completed=done, score=f"{value:.3f}")

        yield report
