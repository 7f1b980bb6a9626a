"""The rows of the table: sets of pairs (K, p), physical and float32, and the seconds of one thread that a member took,
which are wall seconds on a core of its own."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from torch import Tensor

from sciguide.errors import InputError
from sciguide.guidance import Guidance, equation_steps
from sciguide.model import Model
from sciguide.sampler import sample
from sciguide.simulate import darcy_smooth

STEPS, BATCH, WAVES = 20, 32, 16
BEST = {"scales": "ml", "iterations": 4}
VARIANTS = (
    BEST,
    *({"scales": "ml", "iterations": n} for n in (1, 20)),
    {"scales": "told", "iterations": 20},
    {"scales": "told", "iterations": 20, "hard": True},
)
PRIOR, PLAIN, GUIDED, SOLVED = "N(mu, C), no network", "plain", "guided", "re-solved"
DATA = "solver data"


class Made(NamedTuple):
    """`pairs` (N, 2, Y, X); `evaluations` of the network; `seconds` of a member and the `share` of them that
    guidance took; `correction`: what was done to the members at the end, the same for rows that can be compared; `key`:
    equal for rows with the same K."""

    name: str
    pairs: NDArray[np.float32]
    evaluations: int = 0
    seconds: float = np.nan
    share: float = np.nan
    correction: str = ""
    key: str = ""


class Chains(NamedTuple):
    """Finished fields (N, C, Y, X), normalised, and the seconds of a member, in all and of guidance."""

    x: Tensor
    seconds: float
    guidance: float


class Timed:
    """A guide, and how long it has taken."""

    def __init__(self, guide: Callable) -> None:
        self.guide, self.seconds = guide, 0.0

    def __call__(self, index: int, x0: Tensor, sigma: float) -> tuple[Tensor, Any]:
        begun = time.process_time()
        out = self.guide(index, x0, sigma)
        self.seconds += time.process_time() - begun
        return out


def few(members: int) -> int:
    """Of the first seed, for rows that are not the chief ones."""
    return max(members // 4, min(members, 16))


def noises(model: Model, seeds: Sequence[int], members: int) -> Iterator[Tensor]:
    """White noise, members in batches, seed by seed."""
    for seed in seeds:
        for first in range(0, members, BATCH):
            chosen = range(first, min(first + BATCH, members))
            yield model.white(seed, chosen)


def chains(
    model: Model,
    seeds: Sequence[int],
    members: int,
    steps: int = STEPS,
    constraints: Sequence[Any] = (),
    denoise: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Chains:
    """Members of every seed, guided where there are constraints."""
    found, guide = [], None
    if constraints:
        guide = Timed(Guidance(constraints, None, model.layout.names, steps))
    begun = time.process_time()
    for noise in noises(model, seeds, members):
        chain = sample(denoise or model.denoise, model.prior, noise, model.sigmas(steps), guide)
        found.append(deque(chain, maxlen=1).pop().guided)
    seconds = time.process_time() - begun
    count = len(seeds) * members
    return Chains(torch.cat(found), seconds / count, guide.seconds / count if guide else 0.0)


def corrected(model: Model, x: Tensor, options: dict[str, Any]) -> Chains:
    """Finished fields after the kriging step of the model's equation."""
    (step,) = equation_steps(model, direction="kriging", **options)
    step.correct(x[:1], model.sigma_min)  # what is computed once and kept
    begun = time.process_time()
    found = torch.cat([step.correct(part, model.sigma_min) for part in x.split(BATCH)])
    seconds = (time.process_time() - begun) / len(x)
    return Chains(found, seconds, seconds)


def physical(model: Model, x: Tensor) -> NDArray[np.float32]:
    return model.normaliser.decode(x).cpu().numpy().astype(np.float32)


def with_p(pairs: NDArray, p: NDArray) -> NDArray[np.float32]:
    """The pairs with another p (N or 1, Y, X)."""
    out = pairs.copy()
    out[:, 1] = p
    return out


def solved(K: NDArray) -> NDArray[np.float64]:
    """p of every K (N, Y, X); NaN where it is too uneven to solve."""
    out = np.full(K.shape, np.nan)
    for p, one in zip(out, K, strict=True):
        try:
            p[:] = darcy_smooth.solve(one)
        except InputError as error:
            print(error, flush=True)
    return out


def low_passed(p: NDArray) -> NDArray[np.float64]:
    """p (N, Y, X) without cosine modes of `WAVES` half waves or more along either axis."""
    modes = dctn(p.astype(np.float64), axes=(1, 2), norm="ortho")
    modes[:, WAVES:] = modes[:, :, WAVES:] = 0
    return idctn(modes, axes=(1, 2), norm="ortho")


def trivial(training: NDArray, held: NDArray, n: int) -> Iterator[Made]:
    """What needs neither network nor prior: K is that of held-out data, but for the last."""
    yield Made(DATA, held, key="held")
    yield Made("zero p", with_p(held, np.zeros((1, *held.shape[2:]))), key="held")
    yield Made("data mean p", with_p(held, training[:, 1].mean(0, dtype=np.float64)[None]), key="held")
    yield Made("mismatched (K_i, p_j)", with_p(held, np.roll(held[:, 1], len(held) // 2, 0)), key="held")
    chosen = np.random.default_rng(0).permutation(len(training))[:n]
    yield Made("random training samples", training[np.sort(chosen)], key="training")


def without_network(model: Model, seeds: Sequence[int], members: int) -> Iterator[Made]:
    """Draws of N(mu, C): plain, guided by the equation, and with p solved anew."""
    begun = time.process_time()
    x = torch.cat([model.prior.sample(noise) for noise in noises(model, seeds, members)])
    seconds = (time.process_time() - begun) / len(x)
    pairs = physical(model, x)
    yield Made(PRIOR, pairs, 0, seconds, 0.0, PLAIN, "prior")
    guided = corrected(model, x, BEST)
    spent = seconds + guided.seconds
    yield Made(f"{PRIOR}, guided", physical(model, guided.x), 0, spent, guided.seconds / spent, GUIDED, "prior")
    yield Made(f"{PRIOR}, re-solved", with_p(pairs, solved(pairs[:, 0])), 0, correction=SOLVED, key="prior")


def with_network(model: Model, seeds: Sequence[int], members: int) -> Iterator[Made]:
    """Unguided at 5, 10 and 20 evaluations; the last also low-passed, re-solved, and guided at the end. Of every seed
    are 20 evaluations, and the best guidance of them."""
    some = few(members)
    for steps in (5, 10, STEPS):
        plain = chains(model, seeds, members) if steps == STEPS else chains(model, seeds[:1], some, steps)
        pairs, key = physical(model, plain.x), f"{steps}"
        yield Made("network, unguided", pairs, steps, plain.seconds, 0.0, PLAIN, key)
    cost = plain.seconds
    yield Made(f"network, p low-passed ({WAVES} modes)", with_p(pairs, low_passed(pairs[:, 1])), steps, cost, key=key)
    begun = time.process_time()
    p = solved(pairs[:, 0])
    spent = cost + (time.process_time() - begun) / len(pairs)
    yield Made("network, p re-solved", with_p(pairs, p), steps, spent, 1 - cost / spent, SOLVED, key)
    looking = looks(model, plain, seeds[0], min(members, BATCH))
    for options in VARIANTS:
        found = corrected(model, plain.x if options == BEST else plain.x[:some], options)
        guidance = looking + found.seconds
        name = "hard" if options.get("hard") else options["scales"]
        about = f"network, guided at the end, {options['iterations']} iterations, {name}"
        share = guidance / (cost + guidance)
        yield Made(about, physical(model, found.x), steps, cost + guidance, share, GUIDED, key)


def looks(model: Model, plain: Chains, seed: int, members: int) -> float:
    """Seconds of a member that guidance spends in the chain before its end. Asserts that a guided chain ends where the
    step at the end of an unguided one does, which is how the table draws them."""
    steps = equation_steps(model, direction="kriging", **BEST)
    steps[0].correct(plain.x[:1], model.sigma_min)  # what is computed once and kept
    found = chains(model, [seed], members, constraints=steps)
    at_end = corrected(model, plain.x[:members], BEST)
    torch.testing.assert_close(found.x, at_end.x, rtol=0, atol=1e-6)
    return max(found.guidance - at_end.seconds, 0.0)
