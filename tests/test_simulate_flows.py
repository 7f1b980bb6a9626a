"""The flow data sets: their solvers against exact solutions and invariants, their pairs against their equations."""

from importlib import import_module

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sciguide.equations.shallow_water import ShallowWater
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.simulate import kolmogorov, navier_stokes_pair, rotating_layer, shallow_water, shallow_water_sphere
from sciguide.simulate.gaussian_field import periodic_amplitudes
from sciguide.simulate.spectral import Torus

LAYERS = {"shallow_water": shallow_water, "shallow_water_sphere": shallow_water_sphere}
FLOWS = {"navier_stokes_pair": navier_stokes_pair, "kolmogorov": kolmogorov} | LAYERS


@pytest.fixture
def brief(monkeypatch):
    """A shorter spin-up."""
    monkeypatch.setattr(kolmogorov, "STAGES", ((32, 6.0), (48, 1.0)))
    monkeypatch.setattr(rotating_layer, "SPIN_UP", 24)


def random_flow(torus: Torus, seed: int = 0, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Vorticity of order one, its waves falling off like k^-2."""
    noise = np.random.default_rng(seed).standard_normal((*shape, torus.n, torus.n))
    return torus.modes(20 * noise) / torus.k2


def derivatives(torus: Torus, w: np.ndarray) -> dict[str, np.ndarray]:
    """u, v, w and their gradients on four times the points, by derivatives of each Fourier series."""
    wide = Torus(4 * torus.n, torus.length)
    ky, kx = wide.waves
    found = {}
    for name, modes in zip("uvw", (*torus.velocity(w), w), strict=True):
        modes = torus.resampled(modes, wide.n)
        found |= {name: modes, f"{name}_x": 1j * kx * modes, f"{name}_y": 1j * ky * modes}
    return {name: wide.field(modes) for name, modes in found.items()}


def test_taylor_green_vortices_decay_exactly():
    torus, nu, time = Torus(16, 2 * np.pi), 0.07, 3.0
    y, x = torus.points[:, None], torus.points
    w = 2 * np.cos(x) * np.cos(y)
    later = torus.advance(torus.modes(w), nu, np.zeros((16, 9)), time / 5, 5)
    assert np.allclose(torus.field(later), w * np.exp(-2 * nu * time), rtol=0, atol=1e-14)
    u, v = (torus.field(c) for c in torus.velocity(torus.modes(w)))
    assert np.allclose(u, -np.cos(x) * np.sin(y), atol=1e-14) and np.allclose(v, np.sin(x) * np.cos(y), atol=1e-14)
    p = torus.field(torus.pressure(torus.modes(w)))
    assert np.allclose(p, -(np.cos(2 * x) + np.cos(2 * y)) / 4, atol=1e-14)


@pytest.mark.parametrize("n", [8, 18, 26])
def test_transport_and_pressure_against_products_on_many_points(n):
    torus = Torus(n, 1.7)
    w = random_flow(torus)
    d = derivatives(torus, w)
    wide = Torus(4 * n, 1.7)
    transport = wide.resampled(wide.modes(-(d["u"] * d["w_x"] + d["v"] * d["w_y"])), n)
    assert np.allclose(torus.transport(w), transport, rtol=0, atol=1e-13 * np.abs(transport).max())
    ky, kx = wide.waves
    along = [wide.modes(d["u"] * d[f"{c}_x"] + d["v"] * d[f"{c}_y"]) for c in "uv"]
    source = wide.resampled(-1j * (kx * along[0] + ky * along[1]), n)
    laplacian = -np.where(torus.kept, torus.k2, 0) * torus.pressure(w)
    assert np.allclose(laplacian, source, rtol=0, atol=1e-13 * np.abs(source).max())
    assert np.abs(d["u_x"] + d["v_y"]).max() < 1e-12 * np.abs(d["u_x"]).max()
    assert np.allclose(d["v_x"] - d["u_y"], d["w"], atol=1e-12)


def test_energy_and_enstrophy_without_viscosity():
    """The tendency changes neither; the time step does by its fifth power."""
    torus = Torus(20, 2 * np.pi)
    w = random_flow(torus)

    def invariants(w):
        return np.array([(np.abs(w) ** 2 * torus.twice / k).sum() for k in (torus.k2, 1.0)])

    change = torus.transport(w)
    for k in (torus.k2, 1.0):
        work = (w.conj() * change).real * torus.twice / k
        assert abs(work.sum()) < 1e-14 * np.abs(work).sum()
    lost = [np.abs(invariants(torus.advance(w, 0.0, 0 * w, 0.4 / s, s)) / invariants(w) - 1) for s in (10, 20)]
    assert (lost[0] < 1e-3).all() and (lost[0] / lost[1] > 2**3.8).all()


def test_time_step_is_of_fourth_order_and_agrees_with_another_method():
    torus = Torus(12, 2 * np.pi)
    w, nu = random_flow(torus), 0.05
    force = torus.modes(np.cos(2 * torus.points)[:, None] * np.ones(12))
    k2 = np.where(torus.kept, torus.k2, 0)

    def rate(_, flat):
        now = flat.reshape(w.shape)
        d = derivatives(torus, now)
        wide = Torus(48, torus.length)
        moved = wide.resampled(wide.modes(-(d["u"] * d["w_x"] + d["v"] * d["w_y"])), 12)
        return (moved - nu * k2 * now + force).ravel()

    truth = solve_ivp(rate, (0, 1), w.ravel(), "DOP853", rtol=1e-10, atol=1e-12).y[:, -1].reshape(w.shape)
    errors = [np.abs(torus.advance(w, nu, force, 1 / s, s) - truth).max() for s in (40, 80, 160)]
    assert errors[2] < 1e-7 * np.abs(truth).max()
    assert np.log2(np.divide(errors[:-1], errors[1:])) == pytest.approx(4, abs=0.3)


def test_waves_move_between_sizes():
    small, large = Torus(10), Torus(24)
    w = random_flow(small, shape=(3,))
    there = small.resampled(w, 24)
    assert np.array_equal(large.resampled(there, 10), w)
    assert np.allclose(large.field(there)[:, ::12, ::12], small.field(w)[:, ::5, ::5], atol=1e-13)
    single = Torus(10, real=np.float32)
    assert single.transport(w.astype(np.complex64)).dtype == np.complex64
    with pytest.raises(InputError, match="size 7: .* even number"):
        Torus(7)


def test_pair_starts_as_the_field_it_says_and_does_not_depend_on_the_step():
    n = 32
    samples = [navier_stokes_pair.draw(n, 2, g) for g in range(8)]
    w0 = np.concatenate([s["w0"] for s in samples])
    expected = np.sqrt((periodic_amplitudes(n, 2.5, 7.0) ** 2).sum())
    assert expected == pytest.approx(0.185, abs=5e-4) and w0.std() == pytest.approx(expected, rel=0.05)
    torus = navier_stokes_pair.torus(n)
    w = torus.modes(samples[0]["w0"])
    finer = torus.field(navier_stokes_pair.later(torus, w, 2 * navier_stokes_pair.STEPS))
    assert np.abs(finer - samples[0]["wT"]).max() < 1e-7 * w0.std()
    larger = navier_stokes_pair.torus(2 * n)
    there = larger.resampled(navier_stokes_pair.later(larger, torus.resampled(w, 2 * n), navier_stokes_pair.STEPS), n)
    assert np.abs(torus.field(there) - samples[0]["wT"]).max() < 1e-5 * w0.std(), "32 points resolve it"
    still = torus.field(navier_stokes_pair.later(torus, 0 * w[0], 8))
    y, x = torus.points[:, None], torus.points
    decay = 8 * np.pi**2 * navier_stokes_pair.NU
    forced = 0.1 * (np.sin(2 * np.pi * (x + y)) + np.cos(2 * np.pi * (x + y))) * (1 - np.exp(-decay)) / decay
    assert np.allclose(still, forced, atol=1e-9), "one wave does not carry itself"


def test_kolmogorov_force_balances_laminar_flow():
    torus, nu = kolmogorov.torus(16), np.full((1, 1, 1), 0.3)
    speed = 1 / (0.3 * 16)
    u = np.broadcast_to(speed * np.sin(4 * torus.points)[:, None], (16, 16))
    w = torus.modes(-4 * speed * np.cos(4 * torus.points)[:, None] * np.ones((1, 16, 16)))
    assert np.allclose(torus.field(torus.velocity(w)[0]), u, atol=1e-14)
    assert np.allclose(kolmogorov.advance(torus, w, nu, 50), w, atol=1e-8)
    force, _ = kolmogorov.static(16)["force_x"]
    assert np.allclose(force, 0.3 * 16 * u, atol=1e-14)


def test_kolmogorov_symmetries():
    """A flow that is moved and then stepped is the one that is stepped and then moved."""
    torus, nu = kolmogorov.torus(24), np.full((8, 1, 1), 0.02)
    w = random_flow(torus, shape=(8,))
    one = kolmogorov.moved(torus, kolmogorov.advance(torus, w, nu, 10), np.random.default_rng(3))
    other = kolmogorov.advance(torus, kolmogorov.moved(torus, w, np.random.default_rng(3)), nu, 10)
    assert np.allclose(one, other, atol=1e-12) and np.abs(one - kolmogorov.advance(torus, w, nu, 10)).max() > 0.01
    assert np.allclose(np.abs(one), np.abs(kolmogorov.advance(torus, w, nu, 10)), atol=1e-12)


def test_kolmogorov_start_has_the_speed_of_its_viscosity():
    torus = kolmogorov.torus(32, np.float32)
    nu = 1 / np.repeat([100.0, 1000.0], 50)[:, None, None]
    w = kolmogorov.start(torus, nu, np.random.default_rng(0))
    u, v = (torus.field(c) for c in torus.velocity(w))
    speed = np.sqrt((u**2 + v**2).mean((1, 2))).reshape(2, 50)
    assert speed.mean(1) == pytest.approx([1.97, 1.97 * 10**0.383], rel=0.02)
    assert speed.std(1) / speed.mean(1) == pytest.approx(0.03, abs=0.01)


def relative(operator, fields: dict[str, np.ndarray], static: dict) -> np.ndarray:
    """rms of each residual over that of its scale term, of what float32 keeps of the fields."""
    shape = fields["u"].shape
    there = fields | {name: np.broadcast_to(values, shape) for name, (values, _) in static.items()}
    u = torch.from_numpy(np.stack([there[name] for name in operator.fields], 1).astype(np.float32)).double()
    return (operator.mean_square(operator.residual(u)).mean(0) / operator.scale_square(u).mean(0)).sqrt().numpy()


def mistakes(s: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The sample with something wrong."""
    now = {name: f for name, f in s.items() if f"{name}_next" in s}
    later = {f"{name}_next": s[f"{name}_next"] for name in now}
    exchanged = {"u": s["v"], "v": s["u"], "u_next": s["v_next"], "v_next": s["u_next"]}
    return {
        "exchanged": s | exchanged,
        "next of another": s | {name: np.roll(f, 1, 0) for name, f in later.items()},
        "nothing moves": s | {f"{name}_next": f for name, f in now.items()},
        "backwards": s | {f"{name}_next": f for name, f in now.items()} | {n: later[f"{n}_next"] for n in now},
        "mirrored": {name: f[..., ::-1] for name, f in s.items()},
    }


def test_kolmogorov_pairs_obey_their_equation(brief):
    n = 48
    sample, operator, static = kolmogorov.draw(n, 0, 0), kolmogorov.operator(n), kolmogorov.static(n)
    data = relative(operator, sample, static)
    assert (data[:2] < 0.08).all() and (data[2:] < 0.04).all()
    for name, wrong in mistakes(sample).items():
        assert (relative(operator, wrong, static)[:2] > 4 * data[:2]).all(), name
    wrong = [relative(operator, sample | {"nu": by * sample["nu"]}, static)[:2] for by in (1, 2, 10)]
    assert (wrong[0] < wrong[1]).all() and (1.1 * wrong[0] < wrong[2]).all()

    torus = kolmogorov.torus(n)
    ky, kx = torus.waves
    for end in ("", "_next"):
        u, v, p = (sample[name + end] for name in "uvp")
        divergence = torus.field(1j * kx * torus.modes(u) + 1j * ky * torus.modes(v))
        assert np.abs(divergence).max() < 2e-5 * np.abs(torus.field(1j * ky * torus.modes(u))).max(), "single precision"
        assert max(abs(f.mean()) for f in (u, v, p)) < 1e-6
    Re = 1 / sample["nu"][:, 0, 0]
    assert (Re > 100).all() and (Re < 1000).all() and np.ptp(sample["nu"], (1, 2)).max() == 0
    assert np.array_equal(sample["nu"][:, 0, 0], kolmogorov.draw(8, 0, 0)["nu"][:, 0, 0])


def test_kolmogorov_single_precision_is_harmless():
    """Of a step between snapshots, beside what the residual is small by."""
    double, single = kolmogorov.torus(48), kolmogorov.torus(48, np.float32)
    nu = np.full((1, 1, 1), 1e-3)
    w = random_flow(double, shape=(1,))
    one, other = (kolmogorov.advance(t, w.astype(d), nu, 1) for t, d in ((double, complex), (single, np.complex64)))
    step = np.abs(one - w).max()
    assert np.abs(one - other).max() < 1e-5 * step
    halved = double.advance(w, 1e-3, 0 * w, kolmogorov.DT / 6, 6) - double.advance(w, 1e-3, 0 * w, kolmogorov.DT / 3, 3)
    assert np.abs(halved).max() < 1e-4 * step


def layer(name: str, n: int):
    """The operator, the one of its heights, and a rough state, at rest on edges."""
    operator, heights = LAYERS[name]._operators(n)
    shape = (2, 3, *operator.grid.shape)
    rough = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rest = torch.tensor([0.0, 0.0, rotating_layer.DEPTH], dtype=torch.float64).reshape(3, 1, 1)
    return operator, heights, rest + torch.where(operator.valid, rough * rest.new_tensor([5, 5, 50])[:, None, None], 0)


def energy(operator, s: torch.Tensor) -> torch.Tensor:
    """Kinetic and available potential energy of each state, per area."""
    u, v, h = s.unbind(1)
    density = h * (u**2 + v**2) / 2 + rotating_layer.GRAVITY * (h - rotating_layer.DEPTH) ** 2 / 2
    return (torch.from_numpy(operator.grid.weights()) * density).mean((1, 2))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_conserves_energy_and_mass(name):
    operator, _, s = layer(name, 16)
    s.requires_grad_()
    slope = torch.autograd.grad(energy(operator, s).sum(), s)[0]
    work = slope * rotating_layer.tendency(operator, s.detach())
    assert abs(work.sum()) < 1e-14 * work.abs().sum()
    s = rotating_layer.smoothed(s.detach(), operator.grid.boundary)
    lost = []
    for dt in (600.0, 300.0, 150.0):
        step = rotating_layer.midpoint_step(with_step(operator, dt), s)
        lost.append((energy(operator, step) / energy(operator, s) - 1).abs().max())
        if name == "shallow_water":
            assert torch.allclose(step[:, 2].mean((1, 2)), s[:, 2].mean((1, 2)), rtol=1e-15, atol=0)
        assert torch.equal(step[..., ~operator.valid], s[..., ~operator.valid])
    assert lost[0] < 1e-3 and lost[0] / lost[1] > 6 and lost[1] / lost[2] > 6


def with_step(operator, dt: float):
    """The same with another time step."""
    return operator.from_dict(operator.to_dict() | {"constants": operator.constants | {"dt": dt}}, operator.grid)


@pytest.mark.parametrize("name", LAYERS)
def test_midpoint_step_is_the_root_and_of_second_order(name):
    operator, _, s = layer(name, 16)
    for _ in range(4):
        s = rotating_layer.smoothed(s, operator.grid.boundary)
    truth = s
    for _ in range(40):
        truth = rotating_layer.runge_kutta(lambda now: rotating_layer.tendency(operator, now), truth, 30.0)
    errors = []
    for steps in (4, 8):
        of, found = with_step(operator, 1200 / steps), s
        for _ in range(steps):
            before, found = found, rotating_layer.midpoint_step(of, found)
        both = torch.cat([before, found], 1)
        assert (of.residual(both).abs() <= 1e-13 * of.magnitude(both)).all()
        errors.append((found - truth)[:, :2].abs().max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_inertia_gravity_wave_travels_as_the_stencil_says():
    """omega^2 = f^2 + g H (sin(k dx) / dx)^2; the midpoint rule turns it by 2 atan(omega dt / 2)."""
    n, tiny, H, g, f = 16, 1e-7, rotating_layer.DEPTH, rotating_layer.GRAVITY, rotating_layer.CORIOLIS
    operator, dx = shallow_water.operator(n), shallow_water.SIDE / n
    k = np.sin(2 * np.pi * 2 / n) / dx
    omega = np.sqrt(f**2 + g * H * k**2)
    wave = np.array([omega / (H * k), -1j * f / (H * k), 1.0]) * H  # of u, v, h in exp(i (k x - omega t))

    def state(angle):
        phase = np.exp(1j * (2 * np.pi * 2 * np.arange(n) / n - angle))
        return torch.from_numpy((wave[:, None, None] * phase).real * np.ones((n, 1)))[None]

    rest = torch.tensor([0, 0, H], dtype=torch.float64).reshape(3, 1, 1)
    later = (rotating_layer.midpoint_step(operator, rest + tiny * state(0.0)) - rest) / tiny
    expected = state(2 * np.arctan(omega * rotating_layer.DT / 2))
    assert (later - expected).abs().max() < 1e-5 * expected.abs().max()


def rate_over_coriolis(operator, s: torch.Tensor) -> float:
    """How fast the wind changes, over 1e-4 / s times the wind."""
    return float(rotating_layer.tendency(operator, s)[:, :2].abs().max() / s[:, :2].abs().max() / 1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_weak_balanced_flow_is_steady(name):
    """The weaker, the steadier: on a plane whatever it looks like, on the sphere along the parallels."""
    operator, heights = LAYERS[name]._operators(32)
    psi = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 32, operator.grid.shape[1])))
    if name == "shallow_water_sphere":
        psi = torch.sin(torch.linspace(0, np.pi, 32, dtype=torch.float64))[None, :, None].expand(psi.shape) ** 4
    states = [rotating_layer.balanced(heights, strength * psi) for strength in (1e5, 1e4, 1e3)]
    rates = [rate_over_coriolis(operator, s) for s in states]
    assert rates[2] < 1e-3 and np.divide(rates[:-1], rates[1:]) == pytest.approx(10, rel=0.01)
    assert states[0][:, :2].abs().max() > 0.05


def test_balanced_jet_is_steady_to_second_order():
    rates = []
    for n in (32, 64, 128):
        operator, heights = shallow_water._operators(n)
        psi = 2e7 * torch.sin(2 * np.pi * torch.arange(n, dtype=torch.float64) / n)[None, :, None].expand(1, n, n)
        s = rotating_layer.balanced(heights, psi)
        assert s[:, 0].abs().max() == pytest.approx(20.9, rel=0.01)
        rates.append(rate_over_coriolis(operator, s))
    assert rates[2] < 2e-4 and np.divide(rates[:-1], rates[1:]) == pytest.approx(4, rel=0.05)


def test_filter_takes_out_the_shortest_waves_only():
    n = 32
    x = torch.arange(n, dtype=torch.float64)
    for waves in (0, 1, 4, 8, 16):
        s = torch.cos(2 * np.pi * waves * x / n).expand(1, 3, n, n).contiguous()
        kept = 1 - np.sin(np.pi * waves / n) ** 16
        for rules in (("periodic", "periodic"), ("open", "periodic")):
            assert torch.allclose(rotating_layer.smoothed(s, rules), kept * s, rtol=0, atol=1e-14)
    rough = torch.randn(1, 3, n, n, dtype=torch.float64)
    along = rotating_layer.smoothed(rough, ("open", "open"))
    assert torch.equal(along[..., 0, 0], rough[..., 0, 0]) and torch.equal(along[..., -1, 0], rough[..., -1, 0])


def test_random_field_on_the_sphere_is_isotropic():
    """Orthonormal harmonics, whose squares of one degree sum to the same everywhere."""
    z, weights = np.polynomial.legendre.leggauss(64)
    P = shallow_water_sphere.legendre(z)
    degree = np.arange(shallow_water_sphere.LAST + 1)
    assert np.allclose((P**2).sum(1), (2 * degree[:, None] + 1) / (4 * np.pi), rtol=1e-10)
    for m in (0, 1, 24):
        inner = np.einsum("ay,by,y->ab", P[:, m], P[:, m], weights) * (2 * np.pi if m == 0 else np.pi)
        assert np.allclose(inner, np.diag(degree >= m), atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_start_has_the_wind_it_says(name):
    of, rng = LAYERS[name], np.random.default_rng(0)
    operator, heights = of._operators(64)
    if name == "shallow_water":
        psi = of.streamfunction(rng.standard_normal((8, 2, 64, 64)))
        rows = slice(None)
    else:
        psi = of.streamfunction(rng.standard_normal((8, 2, of.LAST + 1, of.LAST + 1)), 64)
        rows = slice(27, 37)  # where the window is 1
    s = rotating_layer.balanced(heights, torch.from_numpy(psi))[:, :, rows]
    assert s[:, :2].std((0, 2, 3)).numpy() == pytest.approx(rotating_layer.SPEED, rel=0.15)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_pairs_obey_their_equation(name, brief):
    of, n = LAYERS[name], 24
    sample, operator = of.draw(n, 0, 0), of.operator(n)
    data = relative(operator, sample, of.static(n))
    assert (data < 1e-5).all(), "what float32 leaves of an exact solution"
    for mistake, wrong in mistakes(sample).items():
        assert (relative(operator, wrong, of.static(n)) > 1000 * data).all(), mistake
    doubled = ShallowWater(g=rotating_layer.GRAVITY, f=2e-4, dt=rotating_layer.DT).on(operator.grid)
    if not operator.grid.sphere:
        assert (relative(doubled, sample, {})[:2] > 0.3).all()
    assert min(sample[name].min() for name in ("h", "h_next")) > 300
    assert np.abs(sample["u"]).max() < 80 and sample["u"].std() > 3


def test_too_long_a_step_is_refused():
    operator, heights = shallow_water._operators(16)
    psi = torch.from_numpy(shallow_water.streamfunction(np.random.default_rng(0).standard_normal((1, 2, 16, 16))))
    with pytest.raises(InputError, match="did not converge"):
        rotating_layer.midpoint_step(with_step(operator, 1e7), rotating_layer.balanced(heights, psi))


@pytest.mark.parametrize("name", FLOWS)
def test_sets_follow_the_interface(name, brief):
    of, n = import_module(f"sciguide.simulate.{name}"), 12
    one, again, other, seed = (of.draw(n, *which) for which in ((5, 1), (5, 1), (5, 2), (6, 1)))
    axes, operator = of.axes(n), of.operator(n)
    shape = (of.GROUP, *(len(values) for values, _ in axes.values()))
    assert set(one) == set(of.VARIABLES)
    for variable, field in one.items():
        assert field.shape == shape and field.dtype == np.float64 and np.isfinite(field).all()
        assert np.array_equal(field, again[variable])
        assert not np.array_equal(field, other[variable]) and not np.array_equal(field, seed[variable])
        assert len({f.tobytes() for f in field}) == of.GROUP
        assert {"long_name", "units"} <= set(of.VARIABLES[variable])
    for values, attributes in axes.values():
        assert (np.diff(values) > 0).all() and {"long_name", "units"} <= set(attributes)
    assert all(v.shape == shape[1:] and {"long_name", "units"} <= set(a) for v, a in of.static(n).values())
    if operator is not None:
        assert set(operator.fields) <= set(one) | set(of.static(n))
        assert isinstance(operator.grid, Grid) and operator.grid.shape == shape[1:]
    assert of.TITLE and all(isinstance(v, str | float | int | list) for v in of.attributes().values())
