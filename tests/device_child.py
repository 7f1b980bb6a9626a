"""Generating and tuning on a device and on the CPU: `python tests/device_child.py DEVICE FOLDER`.

DEVICE is `elsewhere`, which only pretends (`elsewhere.py`), or one that torch has. Prints one JSON line a case: its
name, by how much the two differ at most, in standard deviations of the field, and what was raised. Run by
test_device.py in a child, as torch cannot forget a device; with `cuda` on any machine that has the package's
dependencies.
"""

import contextlib
import io
import json
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import yaml
from elsewhere import NAME, elsewhere
from test_fused_path import flow

from benchmarks import sparse_methods as methods
from benchmarks.oracle_learner import GROUPS, learn
from benchmarks.oracle_linear import metric_rows
from benchmarks.oracle_points import point_rows
from benchmarks.oracle_quadratic import energy_rows, speed_rows
from benchmarks.oracle_unguided import mixture_rows
from benchmarks.policy_fields import TwoFields
from benchmarks.policy_rivals import task_of
from benchmarks.policy_stations import Approximate, Stations
from benchmarks.reanalysis_scores import Case, Method, score
from benchmarks.sparse_problems import SETS, TASKS, problems
from sciguide import equation_system
from sciguide.actions import Actions, Levers
from sciguide.baselines import kriged
from sciguide.cli import main
from sciguide.datasets.module import GridData
from sciguide.device import find_device
from sciguide.generate import Options, load
from sciguide.guidance import Guidance
from sciguide.model import Model
from sciguide.policy import Fixed, Scheduled, save_policy
from sciguide.reward import Pointwise
from sciguide.training import diffusion
from sciguide.training.variance import fit_variance
from sciguide.training.variety import Variety
from sciguide.writer import open_ensemble

STEPS, MEMBERS = 3, 2
OBSERVED = {"policy": "fixed", "observations": "poisson.csv"}
# what is drawn from which run, by the name of the case
DRAWN: dict[str, tuple[str, dict]] = {
    "unguided": ("flow", {}),
    "linear and nonlinear equations": ("flow", {"policy": "fixed"}),
    "down the gradient": ("poisson", {"policy": "fixed", "direction": "gradient"}),
    "a linear equation": ("poisson", {"policy": "fixed"}),
    "a hard projection by iterations": ("poisson", {"policy": "fixed", "hard": True, "iterations": 20}),
    "observations and an equation": ("poisson", OBSERVED),
    "observations": ("poisson", {**OBSERVED, "equations": False, "variance": "prior"}),
    "observations and a variance network": ("poisson", {**OBSERVED, "equations": False}),
    "a bending policy": ("poisson", {**OBSERVED, "policy": "scheduled"}),
    "more rows than points": ("walls", {"policy": "fixed"}),
    "more rows than points, bent": ("walls", {"policy": "scheduled"}),
}
WALLS = "sciguide.simulate.darcy_walls:DarcyWalls"
LEVERS = Levers(bands=4, octaves=4, compute=True)


def make_runs() -> None:
    """`flow`: a linear and a nonlinear equation beside land; `poisson`: a prior of waves, a variance network; `walls`:
    more rows than points, coefficients of each member's own. The last two with a policy that bends all there is."""
    for name in ("flow", "poisson", "walls"):
        Path(name).mkdir()
    field = flow()
    field.where((field.y > 1) | (field.x > 2)).to_netcdf("flow.nc")
    for name, kind, size in (("poisson", "poisson", 8), ("walls", "darcy_smooth", 16)):
        assert not main(["data", "make", kind, f"--out={name}.nc", f"--size={size}", "--samples=26"])
    make_run("flow", equations={"navier_stokes_steady": {}, "nondivergence": {}})
    diffusion.fit_variance = partial(fit_variance, steps=20)
    diffusion.CHANCE = -1e9  # the network is kept, whatever it is worth
    make_run("poisson", prior="spectral", equations={"poisson": {}}, variance=True)
    edges = {"boundary": ("one-sided", "one-sided"), "sigma_min": 0.001}
    make_run("walls", {"variables": ["K", "p"], "log": ["K"]}, equations={WALLS: {}}, **edges)
    Path("poisson.csv").write_text("variable,y,x,value,error\nf,0.5,0.5,0.7,0.1\nphi,0.3,0.6,0.01,0.003\n")
    for name, options in (("poisson", OBSERVED), ("walls", {"policy": "fixed"})):
        bend(name, options)


def make_run(name: str, told: Mapping | None = None, **options) -> None:
    """A model of the samples in NAME.nc, untrained, its weights random, and the config beside it."""
    told = {"source": f"{name}.nc", "train": [0, 18], "validation": [18, 26], "cache": "cache", **(told or {})}
    data, module = GridData(**told), diffusion.DiffusionModule(width=4, multipliers=[1, 2], **options)
    module.build(data)
    torch.manual_seed(0)
    for parameter in module.denoiser.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    module.export(data).save(f"{name}/model.pt")
    Path(name, "config.yaml").write_text(yaml.safe_dump({"data": told}))


def bend(name: str, options: dict) -> None:
    """A schedule of random actions for a run, none of which ends a chain before its last step."""
    generator = load(name)
    constraints, model = generator.guidance(Options(steps=STEPS, **options)).constraints, generator.model
    actions = Actions(constraints, model.layout.names, LEVERS).names
    table = torch.randn(STEPS, len(actions), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table[:, -1] = torch.tensor([0.0, 0.0, 1.0])
    Path(name, "policies").mkdir()
    policy = Scheduled(model.sigmas(STEPS), table)
    save_policy(f"{name}/policies/scheduled.pt", policy, Guidance.observation_names(constraints), actions, LEVERS)


def drawn(run: str, options: dict, device: str) -> xr.Dataset:
    return load(run, device).generate(MEMBERS, 1, steps=STEPS, batch=MEMBERS, **options)


def tuned(device: str) -> xr.Dataset:
    """Scores of every policy that a tuning finds, and members drawn by the learned one."""
    run = f"tuned_{device}"
    shutil.copytree("poisson", run, ignore=shutil.ignore_patterns("policies"))
    words = "--points=5 --misreport=2 --bias=0.5 --compute --front --price=0.1 --direction=gradient --iterations=5"
    words += " --trajectories=64 --judged=2 --members=2 --steps=2 --norm=spectra"
    assert not main(["tune", run, *words.split(), f"--device={device}"])
    scores = json.loads(Path(run, "policies", "scores.json").read_text())
    ds = drawn(run, {**OBSERVED, "policy": "learned", "direction": "gradient"}, device)
    front = scores.pop("front")
    found = [[*v["scores"], *v["score"], v["evaluations"], v["iterations"]] for v in scores.values()]
    return ds.assign(scores=(("policy", "number"), found), front=(("at", "what"), [[*r.values()] for r in front]))


def commanded(device: str) -> xr.Dataset:
    """What `sciguide generate` writes, and that it is not taken for what a CPU wrote."""
    out = [f"--out=poisson/{device}", f"--device={device}"]
    words = ["generate", "poisson", "--policy=fixed", "--direction=gradient", "--members=3", "--batch=2", "--steps=2"]
    assert not main([*words, *out])
    ds = open_ensemble(Path("poisson", device)).load()
    assert (json.loads(ds.attrs["sciguide_config"]).get("device") is None) == (device == "cpu")
    if device != "cpu":
        with contextlib.redirect_stderr(io.StringIO()):
            assert main([*words, out[0]]) == 2, "members of a GPU and of a CPU are not mixed"
    return ds.assign_attrs({})


def trained(device: str) -> xr.Dataset:
    """The validation loss of an untrained network, and a step of training."""
    data = GridData(source="flow.nc", train=[0, 18], validation=[18, 26], cache="cache")
    module = diffusion.DiffusionModule(width=4, multipliers=[1, 2])
    module.build(data)
    torch.manual_seed(0)
    for parameter in module.denoiser.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    losses, module.log = [], lambda name, value, **options: losses.append(float(value))
    x = data.normaliser.encode(torch.from_numpy(np.array(data.split("validation")))).float()
    module, batch = module.to(device), {"x": x.to(device)}
    module.validation_step(batch, 0)
    loss = module.training_step(batch, 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.device == loss.device for p in module.denoiser.network.parameters())
    module.measure_error(data)
    return xr.Dataset({"loss": ("validation", [losses[0], 0.0])})


def policy_worlds(device: str) -> xr.Dataset:
    """Scores of the formula in the worlds of the policy tables."""
    there, worlds = find_device(device), {}
    for name, world in (
        ("fields", TwoFields(1.5, scales="ml", when="always", steps=2, device=there)),
        ("one of six", Stations(steps=2, mixture=True, device=there)),
        ("both", Approximate(steps=2, device=there)),
    ):
        task = task_of(world, 0, LEVERS)
        worth, _ = task.measure(Pointwise(torch.ones(task.shape).double()), [0], 2)
        worlds[name] = ("problem", task.score(Fixed(len(task.actions), looks=True), [0, 1], "tune", worth, 2).numpy())
    return xr.Dataset(worlds)


def oracle_studies(device: str) -> xr.Dataset:
    """Numbers of the oracle's table."""
    there = find_device(device)
    rows = [
        *mixture_rows(0, 64, (3,), 2, 200, 2, device=there),
        *metric_rows(8, (2,), ("both err",), device=there),
        *point_rows(8, (5,), (2,), device=there),
        *energy_rows(8, 2, (1.0,), 2, device=there),
        *speed_rows(4, 2, 2, 2, (1.0,), device=there),
    ]
    learned = learn("points", next(iter(GROUPS)), 0, 64, 1, 2, there).share[-1]
    return xr.Dataset({"value": ("row", np.array([*(r.value for r in rows), learned]))})


def sparse_methods(device: str) -> xr.Dataset:
    """Ensembles by the methods of the sparse table."""
    model = Model.load("poisson/model.pt", device)
    (problem,) = problems(SETS["poisson"], TASKS[0], 8, 1)
    exact = methods.without_network(model, methods.exact_prior("poisson", model))
    found = {form: methods.rival(model, problem, form, 2, 2) for form in ("pixel errors", "PiGDM")}
    found["DPS"] = methods.through_network(model, problem, 1.0, 2, 2)
    found["exact prior"] = methods.guided(exact, problem, 2, equations=False, members=2)
    found["kriged"] = kriged(model, problem.observations(model.layout, model.normaliser), 2, 0, False)[0].fields
    return xr.Dataset({name: (("member", "c", "y", "x"), fields) for name, fields in found.items()})


def reanalysis_methods(device: str) -> xr.Dataset:
    """Scores by the methods of the reanalysis table."""
    model = Model.load("poisson/model.pt", device)
    data = GridData(**yaml.safe_load(Path("poisson/config.yaml").read_text())["data"])
    data.setup()
    truths, training = (model.normaliser.encode(torch.tensor(data.split(s)).double()) for s in ("validation", "train"))
    case = Case(model, truths, training.to(device), Variety((9, 9), (0, 1), steps=(2, 2)))
    tried = {kind: Method(kind, ("poisson",)) for kind in ("none", "guided", "knows", "interpolation", "nearest")}
    tried["equations alone"] = Method(equations=("poisson",), observed=False)
    found = {name: score(case, method, [0, 1], 0) for name, method in tried.items()}
    rows = {n: [np.r_[s.crps, s.error, s.residuals, s.data] for s in each] for n, each in found.items()}
    return xr.Dataset({name: (("problem", "score"), each) for name, each in rows.items()})


def refused(device: str) -> xr.Dataset:
    """Nothing, where what mixes devices raises, which all other cases rest on."""
    x, y = torch.ones(3, device=device), torch.ones(3)
    for leak in (
        lambda: x + y,
        lambda: torch.cat([x, y]),
        lambda: torch.where(x > 0, x, y),
        lambda: y[x > 0],
        lambda: x.numpy(),
        lambda: torch.randn(3, generator=torch.Generator(), device=device),
    ):
        try:
            leak()
        except (RuntimeError, TypeError):
            continue
        assert device == "cpu", "an operation on two devices went through"
    return xr.Dataset()


def by_iterations(run: str, options: dict, device: str) -> xr.Dataset:
    """As a system of many rows."""
    most, equation_system.MOST_FACTORED = equation_system.MOST_FACTORED, 0
    try:
        return drawn(run, options, device)
    finally:
        equation_system.MOST_FACTORED = most


def off(a: xr.Dataset, b: xr.Dataset) -> float:
    """The largest difference, in standard deviations of each variable."""
    worst = 0.0
    for name in a.data_vars:
        if a[name].dtype.kind == "f":
            x, y = a[name].values.astype(float), b[name].values.astype(float)
            assert (np.isnan(x) == np.isnan(y)).all() and np.isfinite(x).any(), name
            worst = max(worst, float(np.nanmax(abs(x - y)) / max(np.nanstd(x), 1e-12)))
    return worst


def cases() -> dict[str, Callable[[str], xr.Dataset]]:
    """What is done on both devices."""
    found = {
        name: partial(by_iterations if "iterations" in name else drawn, run, options)
        for name, (run, options) in DRAWN.items()
    }
    tables = {"worlds of the policy tables": policy_worlds, "methods of the sparse table": sparse_methods}
    tables["studies of the oracle's table"] = oracle_studies
    tables["methods of the reanalysis table"] = reanalysis_methods
    return {"refusals": refused, **found, "tuning": tuned, "the command": commanded, "training": trained, **tables}


def say(name: str, difference: float | None, raised: str, reads: int) -> None:
    print(json.dumps({"case": name, "off": difference, "raised": raised, "reads": reads}), flush=True)


def compare(device: str) -> None:
    """Every case on the CPU and on `device`."""
    for name, make in cases().items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                here = make("cpu")
                with elsewhere() if device == NAME else contextlib.nullcontext() as looking:
                    found = make(device)
            say(name, off(here, found), "", looking.reads if looking else 0)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "/sciguide/" in f.filename]
            say(name, None, f"{type(error).__name__}: {error} at {' '.join(ours[-4:])}"[:600], 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    device, folder = sys.argv[1], Path(sys.argv[2])
    with contextlib.chdir(folder), contextlib.redirect_stdout(sys.stderr):
        make_runs()
    with contextlib.chdir(folder):
        compare(device)
