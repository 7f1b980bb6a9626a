"""The table of flows: its images, rivals and metrics against exact answers, then its rows from an untrained model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from benchmarks import flows_members, flows_rivals, schedules
from benchmarks.flows_data import FLOWS, Flow, cut_samples, images, read, reynolds
from benchmarks.flows_members import DIRECTION, ERROR, POLICIES, draw
from benchmarks.flows_reward import WORST, resolved
from benchmarks.flows_scores import Yardstick, floor, measure
from benchmarks.flows_table import Setting, Sheet, Size, by_reynolds
from sciguide.actions import USUAL, Actions
from sciguide.datasets.module import GridData
from sciguide.guidance import Guidance, constraints_for
from sciguide.learner import Worth
from sciguide.policy import Learned, Linear, Scheduled, Standard, save_policy
from sciguide.simulate import get, kolmogorov, rotating_layer

N = 16
KOLMOGOROV = FLOWS["kolmogorov"]._replace(counts=(8, 6, 8, 4))
NAMES = KOLMOGOROV.variables


def as_set(fields: dict[str, np.ndarray], n: int) -> xr.Dataset:
    """Kolmogorov fields (N, n, n) as `sciguide data make` writes them."""
    of, dims = kolmogorov, ("sample", "y", "x")
    live = {name: (dims, fields[name].astype(np.float32), attrs) for name, attrs in of.VARIABLES.items()}
    static = {name: (("y", "x"), values, attrs) for name, (values, attrs) in of.static(n).items()}
    coordinates = {dim: (dim, values, attrs) for dim, (values, attrs) in of.axes(n).items()}
    return xr.Dataset(live | static, coordinates)


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    """32 flows, a quarter of them beyond the training range, stepped for a tenth of a time unit."""
    rng, solver = np.random.default_rng(0), kolmogorov.stages(N)[-1][0]
    nu = 1 / np.where(np.arange(32) % 4, rng.uniform(100, 500, 32), 800.0)[:, None, None]
    w = kolmogorov.advance(solver, kolmogorov.start(solver, nu, rng), nu, 5)
    found = dict(zip("uvp", kolmogorov.snapshot(solver, w, N), strict=True))
    later = kolmogorov.snapshot(solver, kolmogorov.advance(solver, w, nu, 1), N)
    found |= {f"{name}_next": field for name, field in zip("uvp", later, strict=True)}
    return as_set(found | {"nu": np.broadcast_to(nu, (32, N, N))}, N)


@pytest.fixture(scope="module")
def setting(whole, tmp_path_factory) -> Setting:
    """The table's setting with an untrained network, whose denoiser is the Wiener filter."""
    from sciguide.training.diffusion import DiffusionModule

    run = tmp_path_factory.mktemp("flows")
    cut, cuts = cut_samples(whole, KOLMOGOROV)
    cut.to_netcdf(run / "data.nc")
    ranges = {k: list(getattr(cuts, k)) for k in ("train", "validation", "test")}
    section = {"source": str(run / "data.nc"), "variables": NAMES, **ranges, "cache": str(run / "cache")}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": section}))
    data = GridData(**section)
    equations = {"navier_stokes": {"nu": "nu", "force_x": "force_x", "dt": kolmogorov.DT}}
    module = DiffusionModule("spectral", ("periodic", "periodic"), 4, [1], equations=equations)
    module.build(data)
    model = module.export(data)
    model.save(run / "model.pt")
    size = Size({"kolmogorov": KOLMOGOROV}, {}, N, {}, {}, 2, 8, (2,), (), 5, ())
    yardstick = Yardstick(KOLMOGOROV, model, read(run / "data.nc", NAMES, cuts.train))
    return Setting(KOLMOGOROV, size, run, model, run / "data.nc", cuts, yardstick)


def energies(ds: xr.Dataset) -> np.ndarray:
    """Mean square residuals (N, 4)."""
    operator = kolmogorov.operator(ds.sizes["x"])
    parts = [ds[name].values if "sample" in ds[name].dims else ds[name].values[None] for name in operator.fields]
    u = np.stack(np.broadcast_arrays(*parts), 1).astype(np.float64)
    return operator.mean_square(operator.residual(torch.from_numpy(u))).numpy()


def test_images_of_flows_are_flows():
    """Residuals of any fields are those of their images, wherever they stand; and twice turned is as before."""
    rng = np.random.default_rng(1)
    ds = as_set({name: rng.standard_normal((3, N, N)) for name in NAMES}, N)
    found = images(ds)
    assert len(found) == 4
    for image in found[1:]:
        assert abs(image["u"] - ds["u"]).max() > 1
        np.testing.assert_allclose(energies(image), energies(ds), rtol=1e-12)
    xr.testing.assert_equal(images(found[1])[1], ds)


def test_cuts_keep_purposes_apart(whole, setting):
    cuts, path = setting.cuts, setting.path
    assert [b - a for a, b in cuts] == [32, 6, 8, 4]
    parts = [read(path, NAMES, cut) for cut in cuts]
    numbers = [reynolds(part, NAMES) for part in parts]
    assert all((Re <= 500).all() for Re in numbers[:3]) and (numbers[3] > 500).all()
    rows = {x.tobytes() for part in parts for x in part}
    assert len(rows) == 32 + 6 + 8 + 4
    np.testing.assert_array_equal(numbers[0][:8], numbers[0][8:16])  # the images have their own flow's viscosity
    with pytest.raises(SystemExit, match="are needed"):
        cut_samples(whole, KOLMOGOROV._replace(counts=(30, 6, 8, 4)))


def test_projection_takes_the_divergence_and_nothing_else(setting):
    rng = np.random.default_rng(2)
    rough = rng.standard_normal((2, 7, N, N))
    measured = setting.yardstick.features(flows_rivals.projected(KOLMOGOROV, rough))
    assert measured.divergence.max() < 1e-28 < setting.yardstick.features(rough).divergence.min()
    flows = setting.fields(setting.cuts.test).astype(np.float64)
    np.testing.assert_allclose(flows_rivals.projected(KOLMOGOROV, flows), flows, atol=1e-5)


def test_what_is_stepped_obeys_the_solver(setting):
    """Kolmogorov flows as they are up to the waves that were cut off; shallow water to rounding."""
    held = setting.fields(setting.cuts.test)
    spoilt = held.copy()
    spoilt[:, 2:6] = 0
    found = flows_rivals.stepped(KOLMOGOROV, spoilt)
    scale = held.std((0, 2, 3), keepdims=True)
    assert (np.abs(found - held) / scale).max((0, 2, 3))[[0, 1, 6]].max() < 1e-4
    assert np.sqrt((((found - held) / scale) ** 2).mean((0, 2, 3))).max() < 0.02
    flow: Flow = FLOWS["shallow_water"]
    noise = np.random.default_rng(3).standard_normal((2, 2, N, N))
    equation, heights = get("shallow_water")._operators(N)
    psi = torch.from_numpy(get("shallow_water").streamfunction(noise))
    s = rotating_layer.balanced(heights, psi).numpy()
    made = flows_rivals.stepped(flow, np.concatenate([s, 0 * s], 1))
    np.testing.assert_array_equal(made[:, :3], s)
    assert equation.scaled([1e-3, 1e-3, 1e-2]).energy(torch.from_numpy(made)).max() < 1e-16


def test_the_solver_s_reward_is_at_its_floor_on_data(setting):
    """Nine of ten training flows are below the floor; p off by .3 of its standard deviation is .09 above; what the
    solver cannot step is worst, and nothing is NaN."""
    training, check = setting.yardstick.training, setting.yardstick.checks
    terms = resolved(setting.model, setting.yardstick, training)
    encoded = setting.model.normaliser.encode(torch.tensor(training, dtype=torch.float64))
    found = terms.energies(encoded)
    assert found.shape == (32, 2) and found.dtype == torch.float64
    np.testing.assert_allclose((found.numpy() <= np.array(terms.floors) * 1.001).mean(0), 0.9, atol=0.05)
    moved = encoded.clone()
    moved[:, 2] += 0.3 * (check["p"] ** 0.5) / float(setting.model.normaliser.std[2])
    np.testing.assert_allclose(terms.energies(moved)[:, 1], 0.09, rtol=0.05)
    np.testing.assert_allclose(terms.energies(moved)[:, 0], found[:, 0], rtol=1e-3)
    assert (terms.energies(encoded * np.nan) == WORST).all()


def test_metrics_of_known_sets(setting):
    yardstick, held = setting.yardstick, setting.fields(setting.cuts.test)
    data = yardstick.features(held)
    same = measure(yardstick, data, data, 5)
    one = ("std_ratio", "u"), ("energy_ratio", "k 1 to 3"), ("kurtosis_ratio", "vorticity"), ("novelty", "all")
    nil = ("mean_error", "p"), ("spectrum_error", "kinetic energy"), ("w1", "u"), ("w1_components", "all")
    assert all(abs(same.value[k] - 1) < 1e-9 for k in one) and all(abs(same.value[k]) < 1e-9 for k in nil)
    assert same.minus(same).ends(("residual", "all")) == (0, 0, 0)
    twice = held.copy()
    twice[:, :6] *= 2
    found = measure(yardstick, yardstick.features(twice), data, 5)
    assert found.value["std_ratio", "v"] == pytest.approx(2, rel=1e-5)
    assert found.value["energy_ratio", "k 1 to 3"] == pytest.approx(4, rel=1e-5)
    assert found.value["speed_ratio", "u"] == pytest.approx(2 * same.value["speed_ratio", "u"], rel=1e-5)
    assert found.value["residual", "divergence"] == pytest.approx(2 * same.value["residual", "divergence"], rel=1e-5)
    assert found.value["divergence_spectral", "both"] < 1e-5
    assert found.value["w1", "u"] > 0.5 and found.value["energy_distance", "all"] > same.value["energy_distance", "all"]
    collapsed = measure(yardstick, yardstick.features(np.repeat(held[:1], 8, 0)), data, 5)
    assert collapsed.value["std_ratio", "u"] == 0
    copied = yardstick.features(yardstick.training[:8])
    assert measure(yardstick, copied, data, 5).value["novelty", "all"] == 0
    halves = floor(yardstick, data, 5)
    assert halves.value["residual", "momentum_x"] == same.value["residual", "momentum_x"]
    assert halves.value["std_ratio", "u"] != 1


def test_members_have_the_viscosity_that_was_given(setting):
    """The same for all methods, within its error; the rest is a draw of the same noise."""
    model, given = setting.model, np.array([0.002, 0.004, 0.009])
    for method in ("none", "fixed"):
        drawn = draw(model, method, 4, setting.run, range(3), given)
        own = drawn.fields[:, NAMES.index("nu")].astype(float)
        assert np.ptp(own, (1, 2)).max() < 1e-6
        assert np.abs(own.mean((1, 2)) - given).max() < 3 * ERROR * model.normaliser.std[6]
    free = draw(model, "none", 4, setting.run, range(2, 3))
    again = draw(model, "none", 4, setting.run, range(1, 4))
    np.testing.assert_allclose(again.fields[1], free.fields[0], rtol=1e-4, atol=1e-4)


@pytest.fixture
def tuned(setting) -> Path:
    """A folder of policies as `sciguide tune` leaves it, but as they begin: each is the formula."""
    model, folder = setting.model, setting.run / "policies"
    folder.mkdir(exist_ok=True)
    constraints = constraints_for(model, None, direction=DIRECTION)
    names = Guidance.observation_names(constraints), Actions(constraints, NAMES, USUAL).names
    seen, done = map(len, names)
    standard = Standard(torch.zeros(seen), torch.ones(seen))
    table, weights = torch.zeros(2, done), torch.zeros(done, seen + 1)
    made = {"scheduled": Scheduled(model.sigmas(2), table), "linear": Linear(standard, weights)}
    made |= {"learned": Learned(standard, done), "constant": made["scheduled"], "mean": made["scheduled"]}
    for name, policy in made.items():
        save_policy(folder / f"{name}.pt", policy, *names, USUAL)
    scores = {name: {"scores": [0.5, 0.5 + i]} for i, name in enumerate(("fixed", "scheduled", "linear", "learned"))}
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / schedules.SCORES).write_text(json.dumps({"constant": {"scores": [0.0, 0.0]}}))
    return folder


def test_the_mean_of_a_policy_is_the_schedule_that_it_is(setting, tmp_path):
    """Of one that does the same whatever it sees, and of one that looks at the noise level alone."""
    from sciguide.training.contest import Rules, distance_of, make_problems
    from sciguide.training.variety import Variety

    model, truths = setting.model, setting.fields(setting.cuts.validation)
    truths = model.normaliser.encode(torch.tensor(truths, dtype=torch.float64))
    task = make_problems(model, truths, Rules(Variety(steps=(3, 3)), direction=DIRECTION)).task(0)
    worth = Worth(distance_of(model, truths, "energy"), torch.ones(1), torch.ones(1), 1.0)
    weights = torch.zeros(len(task.actions), len(task.observations) + 1, dtype=torch.float64)
    weights[:, -1] = torch.linspace(-1, 1, len(task.actions))
    weights[0, -2] = 0.5  # of log sigma, which comes last
    standard = Standard(torch.zeros(len(task.observations)), torch.ones(len(task.observations)))
    save_policy(tmp_path / "a.pt", Linear(standard, weights), task.observations, task.actions, task.levers)
    found = schedules.mean_of(task, worth, tmp_path / "a.pt").table
    expected = weights[:, -1].repeat(3, 1)
    expected[:, 0] += 0.5 * torch.tensor(task.sigmas, dtype=torch.float64).log().clamp(-5, 5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_rows(setting, tuned):
    """Of one case, as the table has them: trivial methods, the policies, and their differences."""
    model, held, training = setting.model, setting.fields(setting.cuts.test), setting.yardstick.training
    sheet = Sheet(setting, "unconditional", setting.yardstick.features(held))
    for name, fields in flows_rivals.before_drawing(setting.flow, model, held, training, 0):
        sheet.score(name, 0, fields)
    binned = []
    for method in (*POLICIES, "formula at the end"):
        path = setting.run / f"{method}.npz"
        make = lambda m=method: draw(model, m, 2, tuned, range(4))  # noqa: E731
        found = flows_members.kept(path, setting.run / "model.pt", tuned, method, make)
        again = flows_members.kept(path, setting.run / "model.pt", tuned, method, None)
        np.testing.assert_array_equal(found.fields, again.fields)
        features = sheet.score(method, 2, *found)
        binned += by_reynolds(setting, method, 2, features, sheet.data)
        if method == "none":
            for name, made in flows_rivals.after_drawing(setting.flow, model, found.fields, training):
                sheet.score(name, 2, made)
    sheet.pair(2)
    sheet.rewards(2, tuned)
    value = {(r["method"], r["metric"], r["of"]): r["value"] for r in sheet.rows}
    assert value["mismatched pairs", "residual", "all"] > 3 * value["held-out data", "residual", "all"]
    assert value["fixed", "residual", "all"] < value["none", "residual", "all"]
    assert value["none, projected", "divergence_spectral", "both"] < 1e-6
    assert value["random training samples", "novelty", "all"] == 0
    assert value["N(mu, C), formula", "residual", "all"] < value["N(mu, C)", "residual", "all"]
    assert value["learned minus fixed", "residual", "all"] == 0 != value["learned minus none", "residual", "all"]
    assert value["learned minus scheduled", "reward", "judged problems"] == 1
    assert value["learned minus constant", "reward", "judged problems"] == 2
    shares = [r["value"] for r in binned if r["metric"] == "share" and r["method"] == "fixed"]
    assert sum(shares) == pytest.approx(1)
