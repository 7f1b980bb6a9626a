"""The kriging step: the linear-Gaussian update of the clean estimate by point observations.

    x0 <- x0 - M A^T (A M A^T + s^2)^-1 (A x0 - y),

M the covariance of the Wiener filter's error at this noise level. With the exact prior x0 becomes E[x0 | x_sigma, y]
exactly. Rows are divided by their told errors, so s^2 = 1; B = A M A^T is formed once per noise level in float64, and
shared by all members. Up to 1024 rows it is eigendecomposed, B = Q diag(l) Q^T, so that each member's own scales cost
two matrix-vector products; beyond that one Cholesky factor serves all members with common scales, whose likelihood is
that of evenly chosen rows.

Where the data are not Gaussian M is wrong in place: a variance network (`sciguide/variance.py`) turns it into E M E,
E diagonal and each member's own, and B is then factorised for each.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sciguide.errors import InputError
from sciguide.likelihood import observation_scales
from sciguide.observations import Observations
from sciguide.prior import Prior

MOST_EIGEN, MOST_ROWS = 1024, 4096
QUARTERS = 4  # of the eigenvalues of A M A^T, in which s^2 can be told apart
MOST_KEPT = 2**25  # numbers of the rows' modes that are kept


class System(NamedTuple):
    """A M A^T at one noise level, (m, m), and the eigenvalues (k,), ascending, and eigenvectors (k, k) of every
    `every`-th row and column of it: of all where there are at most 1024."""

    matrix: Tensor
    eigenvalues: Tensor
    vectors: Tensor
    every: int


class Kriging:
    """The update of members' estimates by one set of `observations`.

    `scales`: "told" takes M and the errors as they are told; "ml" scales both, per member and noise level, by maximum
    likelihood of the innovations. `covariance(v, sigma)`: M v, of the prior where not given; beside an equation that
    the prior does not know, M conditioned on it (`EquationStep.conditional`). `ratio(x0, sigma)`: the variances of
    members' errors over those of M, (B, C, Y, X). Raises InputError above 4096 points.
    """

    name, bands, octaves, iterative = "observations", QUARTERS, 1, False
    feature_names = ("log innovation ratio", *(f"log innovation ratio, quarter {q}" for q in range(1, QUARTERS + 1)))

    def __init__(
        self,
        prior: Prior,
        observations: Observations,
        scales: Literal["told", "ml"] = "ml",
        covariance: Callable[[Tensor, float], Tensor] | None = None,
        ratio: Callable[[Tensor, float], Tensor] | None = None,
    ) -> None:
        if len(observations) > MOST_ROWS:
            raise InputError(f"{len(observations)} observations: at most {MOST_ROWS} points; thin or average them")
        self.prior, self.observations = prior, observations.to(prior.mean.device)
        self.scales, self.ratio = scales, ratio
        self.covariance = covariance or prior.apply_M
        self.modes = None
        if covariance is None and len(observations) * prior.variances.numel() <= MOST_KEPT:
            self.modes = torch.cat([prior.to_modes(rows).flatten(1) for rows in self._rows()])
        self.system = lru_cache(maxsize=64)(self._system)

    def _system(self, sigma: float) -> System:
        matrix = self._from_modes(sigma) if self.modes is not None else self._from_columns(sigma)
        matrix, every = (matrix + matrix.T) / 2, -(-len(matrix) // MOST_EIGEN)
        eigenvalues, vectors = torch.linalg.eigh(matrix[::every, ::every])
        return System(matrix, eigenvalues.clamp(min=0), vectors, every)

    def _from_modes(self, sigma: float) -> Tensor:
        """A M A^T from the modes of the rows, which are the same at every noise level (Parseval)."""
        scaled = self.modes * self.prior.error_variances(sigma)[0].flatten()
        return (scaled @ self.modes.mH).real

    def _from_columns(self, sigma: float) -> Tensor:
        parts = [self.observations.predict(self.covariance(rows, sigma)) for rows in self._rows()]
        return torch.cat(parts)

    def _rows(self) -> Iterator[Tensor]:
        """A^T S^-1, some columns at a time, (k, C, Y, X)."""
        eye = torch.eye(len(self.observations), dtype=torch.float64, device=self.prior.mean.device)
        for part in eye.split(64):
            yield self.observations.scatter(part, tuple(self.prior.mask.shape))

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """The state at the first noise level given the observations: a draw of the prior, its mean moved to the
        conditional mean. Starting from the unconditional mean costs up to a third of a posterior standard deviation
        in the largest modes, since sigma_0 is only three times theirs."""
        mean = self.prior.mean[None]
        return self.prior.sample(noise, sigma) - self._step(mean, 1e4 * sigma, self.system(1e4 * sigma))

    def innovation(self, x0: Tensor, sigma: float) -> Tensor:
        """(A x0 - y) / s of the rows whose eigenbasis is known, in it, (B, k)."""
        system = self.system(sigma)
        return self.observations.innovation(x0)[:, :: system.every] @ system.vectors

    def acts(self, index: int, last: int) -> bool:
        """At every noise level, and not again on the finished field."""
        return index < last

    def features(self, x0: Tensor, sigma: float) -> Tensor:
        """What a policy sees, (B, 5): log of the innovations' energy over their predicted variance, over all rows and
        per quarter of the eigenvalues of A M A^T."""
        ratio = self.innovation(x0, sigma).square() / (self.system(sigma).eigenvalues + 1)
        quarters = [q.mean(1) for q in ratio.tensor_split(QUARTERS, dim=1)]
        return torch.stack([ratio.mean(1), *quarters], 1).clamp(1e-6, 1e6).log()

    def correct(self, x0: Tensor, sigma: float, log_s2: Tensor | None = None, tilt: Tensor | None = None) -> Tensor:
        """The step. `log_s2` (B, 1) or (B, 4) multiplies s^2, all of it or by quarters of the eigenvalues, by its
        exponential; `tilt` (B, C) turns M into E M E with E = diag(exp(tilt / 2)) per channel; None is the formula
        itself."""
        system = self.system(sigma)
        if self.ratio is None:
            return x0 - self._step(x0, sigma, system, log_s2, tilt)
        e = self.ratio(x0, sigma).sqrt()
        rows = self.observations.interpolate(e)
        return x0 - e * self._step(x0, sigma, _weighted(system, rows), log_s2, tilt, rows)

    def _step(
        self,
        x0: Tensor,
        sigma: float,
        system: System,
        log_s2: Tensor | None = None,
        tilt: Tensor | None = None,
        rows: Tensor | float = 1.0,
    ) -> Tensor:
        """M A^T diag(rows) (B + s^2)^-1 (A x0 - y) with the B of a system, shared or each member's own."""
        r, shape = self.observations.innovation(x0), tuple(x0.shape[1:])
        rho = (r[:, None, :: system.every] @ system.vectors)[:, 0]
        noise = torch.ones_like(rho) if log_s2 is None else _by_quarters(log_s2, rho.shape[1]).exp()
        if self.scales == "ml":
            a, b = observation_scales(system.eigenvalues, rho)
            noise = noise * (b / a)[:, None]
        noise = torch.maximum(noise, 1e-8 * system.eigenvalues.mean(-1, keepdim=True))
        if tilt is not None and bool((tilt != 0).any()):
            e = (tilt / 2).exp()
            tilted = e[:, self.observations.channel]
            weights = rows * tilted * self._tilted(system, r, noise, tilted)
            return e[..., None, None] * self.covariance(self.observations.scatter(weights, shape), sigma)
        if system.every == 1:
            weights = ((rho / (system.eigenvalues + noise))[:, None] @ system.vectors.mT)[:, 0]
        else:
            common = noise.log().mean().exp() * torch.eye(r.shape[1]).to(r)
            weights = torch.cholesky_solve(r[..., None], torch.linalg.cholesky(system.matrix + common))[..., 0]
        return self.covariance(self.observations.scatter(rows * weights, shape), sigma)

    @staticmethod
    def _tilted(system: System, r: Tensor, noise: Tensor, tilted: Tensor) -> Tensor:
        """(E B E + s^2)^-1 r with E = diag(tilted), (B, m); NaN for members where that cannot be solved."""
        matrix = tilted[:, :, None] * system.matrix * tilted[:, None]
        noise = torch.maximum(noise, 1e-8 * matrix.diagonal(dim1=1, dim2=2).mean(1, keepdim=True))
        if system.every == 1:
            told = (system.vectors * noise[:, None]) @ system.vectors.mT
        else:
            told = noise.log().mean(1).exp()[:, None, None] * torch.eye(r.shape[1]).to(r)
        lower, failed = torch.linalg.cholesky_ex(matrix + told)
        return torch.where(failed[:, None] > 0, torch.nan, torch.cholesky_solve(r[..., None], lower)[..., 0])


def _weighted(system: System, rows: Tensor) -> System:
    """Of E M E, E diagonal and `rows` (B, m) its values where the observations are, between grid points interpolated:
    matrix, eigenvalues and eigenvectors of each member."""
    matrix = rows[:, :, None] * system.matrix * rows[:, None]
    eigenvalues, vectors = torch.linalg.eigh(matrix[:, :: system.every, :: system.every])
    return System(matrix, eigenvalues.clamp(min=0), vectors, system.every)


def _by_quarters(log_s2: Tensor, count: int) -> Tensor:
    """(B, 1) or (B, 4) -> (B, count): one for all, or a quarter of them each."""
    if log_s2.shape[1] == 1:
        return log_s2.expand(-1, count)
    parts = torch.arange(count).tensor_split(QUARTERS)
    return torch.cat([log_s2[:, q : q + 1].expand(-1, len(part)) for q, part in enumerate(parts)], 1)
