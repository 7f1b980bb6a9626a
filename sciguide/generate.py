"""Drawing ensembles from a trained model: in memory, or into a folder of CF files, one member a file.

Member m is a function of (model, seed, m, the options) alone. In strict mode its bytes are too: m always sits in row
m mod B of micro-batch m // B, whatever else is drawn, one intra-op thread computes it, and a missing member makes its
whole micro-batch again and keeps one.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import torch

from sciguide import __version__
from sciguide.cf import variable_name
from sciguide.device import CPU, find_device, model_of
from sciguide.errors import InputError
from sciguide.guidance import EVEN, Direction, Errors, Guidance, constraints_for
from sciguide.model import Model
from sciguide.observations import read_observations
from sciguide.policy import KINDS
from sciguide.receipts import begin, identity, require_space, sha256
from sciguide.sampler import sample
from sciguide.writer import Trace, member_bytes, write_member

if TYPE_CHECKING:
    import xarray as xr

MODEL = "model.pt"
POLICIES = ("none", "fixed", *KINDS)
TUNED = "policies"  # folder of a run


@dataclass(frozen=True)
class Options:
    """What decides the bytes of a member besides model, seed and its number.

    steps: network evaluations of the chain; policy: "none", "fixed" (the formula), or a tuned one; observations: a CSV
    file or None; scales: "ml" or "told"; equations: whether those of the model guide; direction: theirs, "kriging" or
    "gradient"; variance: of estimates, "learned" where the model has a network of it, or "prior"; hard: equations hold
    as far as their solver comes, not to what the data have; iterations: at most, of that; preference: of the learned
    policy, from 0 (the distribution alone) to 1 (physics alone); batch: members computed together.
    """

    steps: int = 20
    policy: str = "none"
    observations: str | None = None
    scales: str = "ml"
    equations: bool = True
    direction: str = "kriging"
    variance: str = "learned"
    hard: bool = False
    iterations: int = 200
    preference: float = EVEN
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: at least 1")
        if not 0 <= self.preference <= 1:
            raise InputError(f"preference {self.preference}: from 0 (the distribution alone) to 1 (physics alone)")
        if self.policy not in POLICIES:
            raise InputError(f"policy `{self.policy}` is not one of {', '.join(POLICIES)}")
        for name, kind in (("direction", Direction), ("variance", Errors)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"{name} `{getattr(self, name)}` is not one of {', '.join(get_args(kind))}")


class Drawn(NamedTuple):
    """Members: physical `fields` (B, C, Y, X) float32; `residuals` by equation (B,), root mean square over scale;
    `trace` per member or None."""

    fields: np.ndarray
    residuals: dict[str, np.ndarray]
    traces: list[Trace | None]


def find_model(run: str | Path) -> Path:
    """The model file of a run's folder, or the file itself. Raises InputError where there is none."""
    path = Path(run)
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such model; `sciguide fit -c CONFIG` writes {MODEL} into its run folder")
    return path


def load(run: str | Path, device: str | torch.device = "cpu") -> "Generator":
    """The generator of a run's folder, or of a model file, that computes on `device`. Raises InputError where there is
    none, or it is damaged, and where torch has no such device."""
    path = find_model(run)
    return Generator(Model.load(path, device), path.parent / TUNED)


class Generator:
    """Draws members from a model; `policies`: the folder of those that were tuned for it."""

    def __init__(self, model: Model, policies: Path | None = None) -> None:
        self.model, self.policies = model, policies
        self.equations = model.constraints()

    def generate(self, members: int = 16, seed: int = 0, **options: Any) -> "xr.Dataset":
        """An ensemble in memory: dims (realization, [level], y, x) with the source's coordinates and units, NaN on
        land, and `pde_residual_X` per equation. `options`: of `Options`."""
        options = Options(**options)
        guidance = self.guidance(options)
        batches = [list(range(i, i + options.batch)) for i in range(0, members, options.batch)]
        drawn = [self.draw(batch, seed, options, guidance) for batch in batches]
        fields = np.concatenate([d.fields for d in drawn])[:members]
        ds = self.model.layout.to_dataset(fields, "realization", np.arange(members, dtype=np.int32))
        for name in drawn[0].residuals:
            values = np.concatenate([d.residuals[name] for d in drawn])[:members]
            about = {"long_name": f"residual of {name}, root mean square over its scale", "units": "1"}
            ds[f"pde_residual_{variable_name(name)}"] = ("realization", values, about)
        return ds

    def guidance(self, options: Options) -> Guidance | None:
        """The guidance that `options` ask for; None where nothing guides."""
        if options.policy == "none":
            return None
        model, observations = self.model, None
        if options.observations is not None:
            observations = read_observations(options.observations, model.layout, model.normaliser)
        told = {k: getattr(options, k) for k in ("scales", "equations", "direction", "variance", "hard", "iterations")}
        constraints = constraints_for(model, observations, **told)
        if not constraints:
            raise InputError("nothing to guide by: give observations with --obs FILE, or --policy none")
        if options.policy not in KINDS:
            return Guidance(constraints, None, model.layout.names, options.steps)
        if self.policies is None:
            raise InputError(f"policy `{options.policy}`: load the run's folder, the tuned policies are there")
        path = self.policies / f"{options.policy}.pt"
        return Guidance.tuned(path, constraints, model.layout.names, options.steps, options.preference)

    def draw(self, members: Sequence[int], seed: int, options: Options, guidance: Guidance | None) -> Drawn:
        """The members with these numbers, together in one batch."""
        model, sigmas = self.model, self.model.sigmas(options.steps)
        noise = model.white(seed, members)
        start = guidance.start(noise, sigmas[0], model.prior) if guidance else None
        steps = list(sample(model.denoise, model.prior, noise, sigmas, guidance, start))
        x = steps[-1].guided
        residuals = {e.name: e.energy(x).sqrt().cpu().numpy() for e in self.equations}
        fields = np.where(model.layout.mask, model.normaliser.decode(x).cpu().numpy(), np.nan).astype(np.float32)
        return Drawn(fields, residuals, self._traces(steps, len(members), guidance))

    def _traces(self, steps: list, members: int, guidance: Guidance | None) -> list[Trace | None]:
        if guidance is None:
            return [None] * members
        names = guidance.actions.names
        sigma = [s.sigma for s in steps]
        actions = torch.stack([s.decision.action for s in steps], 1).cpu().numpy()
        return [Trace(sigma, actions[m], names) for m in range(members)]


def write_ensemble(
    run: str | Path,
    out: str | Path,
    members: int,
    seed: int,
    options: Options,
    shard: tuple[int, int] = (0, 1),
    device: str | torch.device = "cpu",
) -> Iterator[int]:
    """Write the members 0 .. members - 1 that are not finished yet into the folder `out`, and yield each as it is done.

    `shard` (i, n): only micro-batches whose number is i modulo n. Running again is resuming. Raises InputError where
    the folder holds another run, one on another kind of device among them, the disk is too small, or torch has no
    `device`, before anything is drawn.
    """
    path, device = find_model(run), find_device(device)
    config = {**asdict(options), "seed": seed, "observations": _digest(options.observations)}
    if options.policy in KINDS:
        config["policy_file"] = _tuned_digest(path.parent / TUNED / f"{options.policy}.pt")
    if device != CPU:
        config["device"] = model_of(device)
    run_identity = identity(sha256(path), config, __version__)
    done = begin(out, members, run_identity)
    batches = [b for b in range(-(-members // options.batch)) if b % shard[1] == shard[0]]
    missing = {b: [m for m in _members(b, options.batch) if m < members and m not in done] for b in batches}
    missing = {b: wanted for b, wanted in missing.items() if wanted}
    if not missing:
        return
    with one_thread():
        generator = load(path, device)
        model = generator.model
        require_space(out, sum(map(len, missing.values())), member_bytes(model.layout.template))
        guidance = generator.guidance(options)
        attributes = describe(model, config)
        for batch, wanted in missing.items():
            drawn = generator.draw(_members(batch, options.batch), seed, options, guidance)
            for member in wanted:
                row = member % options.batch
                floors = {e.name: e.floor**0.5 for e in model.equations}
                write_member(
                    out,
                    model.layout.to_dataset(drawn.fields[row : row + 1], "realization", [member]),
                    member,
                    identity=run_identity,
                    seed=seed,
                    attributes=attributes,
                    residuals={n: (float(r[row]), floors[n]) for n, r in drawn.residuals.items()},
                    trace=drawn.traces[row],
                )
                yield member


def _members(batch: int, size: int) -> list[int]:
    return list(range(batch * size, (batch + 1) * size))


def _digest(path: str | None) -> str | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file of observations")
    return sha256(Path(path))


def _tuned_digest(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such policy; `sciguide tune RUN` makes it")
    return sha256(path)


def describe(model: Model, config: dict[str, Any]) -> dict[str, str]:
    """The global attributes of a member file; nothing that differs between two runs of the same command."""
    source = model.layout.attrs
    guided = "unguided" if config["policy"] == "none" else f"guided by the policy {config['policy']}"
    return {
        "title": f"Synthetic ensemble of {', '.join(model.layout.variables)}",
        "summary": f"Members drawn from a diffusion model of the training data, {guided}",
        "institution": source.get("institution", "unknown"),
        "source": f"sciguide {__version__}, diffusion model with {model.prior.kind} prior",
        "history": f"drawn by sciguide {__version__}",
        "references": source.get("references", "none"),
        "sciguide_config": json.dumps(config, sort_keys=True),
        "sciguide_data": model.fingerprint,
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread inside: sums of several are split differently on different machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
