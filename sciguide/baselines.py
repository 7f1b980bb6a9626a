"""The trivial methods that stand beside an ensemble in every table: what costs no network, or no thought.

Each is a set of physical fields (N, C, Y, X), NaN off the mask, made from the same evidence as the ensemble itself.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sciguide import metrics
from sciguide.datasets.layout import Layout
from sciguide.evidence import Evidence
from sciguide.generate import Generator, Options, one_thread
from sciguide.kriging import Kriging
from sciguide.likelihood import observation_scales
from sciguide.model import Model
from sciguide.noise import normals
from sciguide.observations import Observations

MOST = 256  # samples of a trivial method
MOST_DRAWN = 64  # samples that the network draws anew
WIDTH = 2.0  # standard deviation in cells of the Gaussian that low-passes
NETWORK = "network, unguided"
MISMATCHED = "mismatched pairs"
PRIOR, KRIGED = "N(mu, C)", "N(mu, C) | obs"


class Method(NamedTuple):
    """A row of the table: its name and its fields."""

    name: str
    fields: np.ndarray


def trivial_methods(evidence: Evidence, seed: int) -> Iterator[Method]:
    """Everything that needs neither network nor prior; what needs data that are not there is left out."""
    samples, reference, training = evidence.samples, evidence.reference, evidence.training
    mask, n = evidence.layout.mask, min(len(evidence.samples), MOST)
    held = reference.fields if reference else None
    yield Method("zero field", zero_field(evidence, n))
    if (mean := mean_field(evidence)) is not None:
        # In float32 the mean of copies is the copy itself, exactly, and nothing varies.
        yield Method("data mean", np.repeat(mean[None].astype(np.float32), n, 0))
    if held is not None and len(held) > 1 and len(evidence.layout.variables) > 1:
        yield Method(MISMATCHED, mismatched(held, evidence.layout))
    yield Method("low-passed", low_passed(samples[:n], mask, evidence.grid.boundary))
    if training is not None:
        chosen = np.random.default_rng(seed).permutation(len(training))[:n]
        yield Method("training, random", np.asarray(training[np.sort(chosen)]))
        yield Method("training, nearest", np.asarray(training[nearest(samples[:n], training, evidence.weights)]))


def zero_field(evidence: Evidence, n: int) -> np.ndarray:
    """Zero in the fields that some equation may move, or in all where there is none; held-out data in the others."""
    mask, model = evidence.layout.mask, evidence.model
    moved = set(range(len(mask)))
    if model and model.equations:
        moved = {c for e in model.constraints() for c in e.moving}
    source = evidence.reference.fields if evidence.reference else evidence.samples
    out = source[np.arange(n) % len(source)].copy()
    out[:, sorted(moved)] = 0
    return np.where(mask, out, np.nan)


def mean_field(evidence: Evidence) -> np.ndarray | None:
    """(C, Y, X): of the training data, else of the model's prior, else of the reference."""
    mask, model = evidence.layout.mask, evidence.model
    if evidence.training is not None:
        return np.where(mask, np.mean(evidence.training, 0, dtype=np.float64), np.nan)
    if model:
        return physical(model, model.prior.mean[None])[0]
    return np.mean(evidence.reference.fields, 0, dtype=np.float64) if evidence.reference else None


def mismatched(fields: np.ndarray, layout: Layout) -> np.ndarray:
    """Each variable from another sample, as far apart in the record as possible: right alone, wrong together."""
    out, variables = fields.copy(), list(layout.variables)
    for channel, (name, _) in enumerate(layout.channels):
        shift = round(variables.index(name) * len(fields) / len(variables))
        out[:, channel] = np.roll(fields[:, channel], shift, 0)
    return out


def low_passed(fields: np.ndarray, mask: np.ndarray, boundary: tuple[str, str]) -> np.ndarray:
    """The fields smoothed by a Gaussian of `WIDTH` cells; land takes no part."""
    modes = ["wrap" if b == "periodic" else "nearest" for b in boundary]

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x.astype(np.float64), WIDTH, mode=modes, axes=(-2, -1))

    share = np.maximum(smooth(mask), 1e-12)
    return np.where(mask, smooth(np.where(mask, fields, 0)) / share, np.nan)


def nearest(fields: np.ndarray, training: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The index of the training sample nearest to each of the fields, (N,)."""
    scale = metrics.anomaly_std(training, weights)
    v = metrics.vectors(fields, weights, scale)
    step = max(2, metrics.CHUNK // v.shape[1])
    parts = [metrics.vectors(training[i : i + step], weights, scale) for i in range(0, len(training), step)]
    return np.concatenate([metrics.distances(v, part) for part in parts], 1).argmin(1)


def physical(model: Model, x: Tensor) -> np.ndarray:
    """Normalised fields in physical units, NaN off the mask."""
    return np.where(model.layout.mask, model.normaliser.decode(x).cpu().numpy(), np.nan)


def prior_draws(model: Model, n: int, seed: int) -> Method:
    """Draws of the prior without a network."""
    return Method(PRIOR, physical(model, model.prior.sample(model.white(seed, range(n)))))


def unguided(model: Model, options: dict, n: int) -> Method:
    """The network's own members, from the seed and steps of the guided ones that `options` describe."""
    plain, generator = Options(steps=options["steps"], batch=options["batch"]), Generator(model)
    n = min(n, MOST_DRAWN)
    with one_thread():
        parts = [
            generator.draw(range(i, i + plain.batch), options["seed"], plain, None).fields
            for i in range(0, n, plain.batch)
        ]
    return Method(NETWORK, np.concatenate(parts)[:n])


def kriged(model: Model, observations: Observations, n: int, seed: int, told: bool) -> tuple[Method, Method]:
    """Draws of the prior given the observations, and their mean: kriging, or optimal interpolation.

    A draw x of N(mu, C) becomes x - C A^T (A C A^T + s^2)^-1 (A x - y - e) with e of the observations' errors. Unless
    `told`, C and s^2 are first scaled by maximum likelihood of A mu - y.
    """
    prior, observations = model.prior, observations.to(model.device)
    far = 1e4 * max(prior.largest, 1e-30) ** 0.5  # there the error M of the Wiener filter is C to eight digits
    matrix, vectors = Kriging(prior, observations).system(far).matrix, None
    rho = observations.innovation(prior.mean[None])
    a = b = rho.new_ones(1)
    if not told:
        variance, vectors = torch.linalg.eigh(matrix)
        a, b = observation_scales(variance.clamp(min=0), rho @ vectors)
    lower = torch.linalg.cholesky(a * matrix + torch.diag(b.expand(len(matrix))))

    def conditioned(x: Tensor, error: Tensor) -> np.ndarray:
        w = torch.cholesky_solve((observations.innovation(x) - b.sqrt() * error).T, lower).T
        return physical(model, x - a * prior.apply_M(observations.scatter(w, model.shape), far))

    errors = torch.from_numpy(normals(seed, range(n), 1, (len(observations),), np.float64)).to(rho)
    draws = prior.mean + a.sqrt() * (prior.sample(model.white(seed, range(n))) - prior.mean)
    mean = conditioned(prior.mean[None], torch.zeros_like(rho))
    return Method(KRIGED, conditioned(draws, errors)), Method("kriging mean", mean)
