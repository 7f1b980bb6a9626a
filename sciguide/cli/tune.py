"""`sciguide tune RUN`: learn the guidance policy on the frozen model of a run, beside its rivals."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from sciguide.cli.parser import call
from sciguide.errors import InputError

if TYPE_CHECKING:
    from sciguide.model import Model
    from sciguide.training.contest import Outcome


def run(argv: list[str]) -> int:
    return call(tune, argv, "sciguide tune")


def tune(
    run: str,
    points: int | list[int] = 0,
    error: float | list[float] = 0.1,
    misreport: float = 1.0,
    observe: list[str] | None = None,
    bias: float = 0.0,
    constants: dict[str, float] | None = None,
    no_equations: bool = False,
    direction: Literal["kriging", "gradient"] = "kriging",
    scales: Literal["ml", "told"] = "ml",
    iterations: int = 200,
    variance: Literal["learned", "prior"] = "learned",
    steps: int | list[int] = 20,
    bands: Literal[1, 4] = 4,
    octaves: Literal[1, 4] = 1,
    compute: bool = False,
    price: float = 0.0,
    trajectories: int = 2000,
    judged: int = 32,
    members: int = 8,
    norm: Literal["energy", "crps", "spectra"] = "energy",
    front: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Tune the guidance of a run's model and print how each policy scores on problems that none was tuned on.

    The policies go into RUN/policies, for `generate --policy scheduled|linear|learned`. Running the same command again
    resumes. With 600 trajectories or more some are spent on problems held out for that: what scores lower there than
    the formula is not taken. What varies from problem to problem is not told to the policy, which has to see it: the
    true errors, how far off the model's estimates and the equations' constants are. All of it can stand in a file: -c
    FILE.

    Args:
        run: a run's folder
        points: stations per problem, at random grid points, one number or [least, most]; 0 guides by the run's
            equations alone
        error: their told standard deviation, in standard deviations of the fields, or [least, most]
        misreport: true errors are the told ones times a factor from 1 / misreport to misreport
        observe: variables that stations measure; all if left out
        bias: the model's estimates of a variable are off by up to so many standard deviations of their error
        constants: of the equations, {name: factor}: the guide's are wrong by a factor from 1 / factor to factor
        no_equations: guide by the observations alone, also where the model has equations
        direction: in which equations correct: kriging, or gradient, cheap steps down the gradient of the residual
        scales: that the formula estimates by maximum likelihood, or takes as told
        iterations: of the formula's conjugate gradients, at most
        variance: of the estimates' errors: learned, where the model has a network of it, or the prior's
        steps: evaluations of the network per member, or [least, most]
        bands: in which a policy bends the variance of each constraint
        octaves: in which it bends how far each variable may move
        compute: it also decides how many iterations a correction takes, and where the chain ends; with 3,000
            trajectories or more the learned policy then stands on a schedule, found first
        price: of a chain's evaluations, in units of the score; iterations cost a 25th of one
        trajectories: that each rival is tuned on
        judged: problems that the policies are judged by
        members: of each of these
        norm: distance to the truth, of whole fields (energy), point by point (crps), or of whole fields and of each
            variable's energy by octaves of the wavenumber (spectra), which sees short waves
        front: the learned policy is trained for every preference between the distribution and physics, for
            `generate --preference`, instead of the even one; it needs a few times the trajectories
        seed: of everything
        device: that computes: cpu, cuda, or cuda:1 and so on
    """
    check(locals())
    from sciguide.actions import Levers
    from sciguide.device import find_device
    from sciguide.generate import find_model, one_thread
    from sciguide.kernels.backends import computed_by
    from sciguide.model import Model
    from sciguide.training.contest import Rules, compete, take_up, truths
    from sciguide.training.variety import Variety, span

    path = find_model(run)
    find_device(device)
    backend = computed_by(device)
    model = Model.load(path, device)
    ranges = {"points": span("--points", points, 0), "error": span("--error", error, 1e-12)}
    ranges |= {"steps": span("--steps", steps, 1), "misreport": misreport, "bias": bias, "constants": constants or {}}
    rules = Rules(
        Variety(channels=observed(model, observe), **ranges),
        **{"equations": not no_equations, "direction": direction, "scales": scales, "variance": variance},
        **{"iterations": iterations},
        **{"levers": Levers(bands, octaves, compute), "norm": norm, "front": front, "price": price},
        **{"trajectories": trajectories, "judged": judged, "members": members, "seed": seed},
    )
    folder = take_up(path.parent, path, rules, model.device)
    print(backend)
    with one_thread(), progress(trajectories, judged) as report:
        outcome = compete(model, truths(path.parent, model), folder, rules, report)
    show(outcome, judged, bool(price or compute))
    print(f"policies: {folder}")
    return 0


def check(given: dict[str, Any]) -> None:
    """Raises InputError for options out of range."""
    for name, least in (("judged", 2), ("members", 2), ("trajectories", 64), ("iterations", 1), ("misreport", 1)):
        if given[name] < least:
            raise InputError(f"--{name} {given[name]}: at least {least}")
    for name in ("bias", "price"):
        if given[name] < 0:
            raise InputError(f"--{name} {given[name]}: not negative")
    for name, factor in (given["constants"] or {}).items():
        if factor < 1:
            raise InputError(f"--constants {name}: {factor}: a factor of 1 at least")


def show(outcome: "Outcome", judged: int, work: bool) -> None:
    """Print how the policies scored, and what they cost where that is of interest."""
    print(f"score on {judged} problems that no policy was tuned on, large is good; 95 % intervals")
    for name, v in outcome.verdicts.items():
        score, gain = ("{:8.4f} [{:.4f}, {:.4f}]".format(*map(float, interval)) for interval in (v.score, v.gain))
        gain = f"   on the formula {gain}" if name != "fixed" else "   the formula"
        cost = f"   {v.evaluations:.1f} evaluations, {v.iterations:.0f} iterations" if work else ""
        print(f"{name:<10} {score}   distance to the truth {float(v.energies.mean()):.4f}{gain}{cost}")
    for r in outcome.front:
        print(f"preference {r.preference:4.2f}  residual over the data's {r.excess:6.3f}  energy score {r.energy:.4f}")


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
