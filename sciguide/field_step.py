"""The kriging step in the space of what moves, for an equation that determines it.

    dx = (J^T S^-1 J + V^-1)^-1 J^T S^-1 r  =  V J^T (J V J^T + S)^-1 r

Where residuals are at least as many as points that move, the left form is the better one: J V J^T has directions in
which only S is left, and a system of rows is as ill-conditioned as S is small; the left form becomes the least squares
of the equation, each residual over its s^2, which is what S -> 0 (a hard projection) means there.

J is each member's own. J^T S^-1 J is sparse: a factor of it, of 64 x 64 points in 12 ms, is the preconditioner of
conjugate gradients in float64 that add V^-1, a few iterations where the equation says more of the field than the prior
does. S with a size for each octave is exact too, and preconditioned at the mean size of its residual. A constant that
no row sees stays as it is.

SciPy's sparse matrices and factors are the host's. Of a model on a GPU the values of J go there once a step, and every
iteration sends one field there for the products with J and one for the solve, and has them back; V^-1, the rows and
the iteration itself stay on the GPU.
"""

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from sciguide.equation_metric import Metric
from sciguide.jacobian import At, Jacobian
from sciguide.octaves import Octaves
from sciguide.solver import Solved, conjugate_gradients
from sciguide.sparse_jacobian import SparseJacobian

HARD = 1e-8  # of s^2: what a hard projection leaves of it
ROUNDING = 1e-14  # of the largest entry: added to a diagonal that would be singular, as a constant makes it
UNSEEN = 1e-9  # of what rows see of a rough field


class FieldStep:
    """Solves for the step of an equation whose rows are at least as many as the points that move. `told` (L,): the
    mean square of each residual on the data."""

    def __init__(self, J: Jacobian, metric: Metric, waves: Octaves, told: Tensor) -> None:
        self.J, self.metric, self.waves = J, metric, waves
        self.matrix = SparseJacobian(J)
        known = told[told > 0]
        self.told = torch.where(told > 0, told, known.mean() if len(known) else 1.0)
        self.seen = torch.tensor([self._sees_constant(f) for f in J.moving], device=told.device)[:, None, None]

    def _sees_constant(self, f: int) -> bool:
        rough = torch.randn(self.J.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rough = rough.to(self.told)
        v = rough.new_zeros(2, *self.J.shape)
        v[:, self.J.channels.of[f]] = torch.stack([torch.ones_like(rough), rough])[:, self.J.channels.of[f]]
        constant, other = self.J.forward(v).flatten(1).norm(dim=1)
        return bool(constant > UNSEEN * other)

    def solve(
        self, r: Tensor, sigma: float, field: Tensor, s2: Tensor, at: At, iterations: int | Tensor, tolerance: float
    ) -> Solved:
        """The step as the image, for rows r (B, L, Y, X), scales `field` (B, F) of V and `s2` (B, L, bands), with at
        most so many `iterations`, one number or (B,); the weights are S^-1 (r - J dx)."""
        s2 = torch.where(s2 > 0, s2, HARD * self.told[:, None])
        steps = r.new_zeros(len(r), *self.J.shape)
        most, taken, left = torch.as_tensor(iterations).expand(len(r)).tolist(), [], []
        for b in range(len(r)):
            solved = self._member(r[b : b + 1], sigma, field[b : b + 1], s2[b : b + 1], at, b, most[b], tolerance)
            for f, found in zip(self.J.moving, solved.weights[0], strict=True):
                steps[b, self.J.channels.of[f]] = found
            taken.append(solved.iterations)
            left.append(solved.left)
        weights = self._over(r - self.J.forward(steps, at), s2)
        return Solved(weights, steps, torch.cat(taken), torch.cat(left))

    def _member(
        self, r: Tensor, sigma: float, field: Tensor, s2: Tensor, at: At, b: int, most: int, tolerance: float
    ) -> Solved:
        J = self.matrix.at(at, b)
        mean = _host(s2[0].log().mean(-1).exp())  # of the octaves
        over = np.repeat(1 / mean, self.matrix.cells)
        normal = (J.T @ sparse.diags_array(over) @ J).tocsc()
        factor = _factor(normal)
        alike = bool((s2 == s2[..., :1]).all())
        shape = 1, len(self.J.moving), *r.shape[-2:]

        def back(found: NDArray) -> Tensor:
            return torch.from_numpy(found).to(r.device)

        def kept(w: Tensor) -> Tensor:
            return torch.where(self.seen, w, w - w.mean((-2, -1), keepdim=True))

        def through(w: Tensor) -> Tensor:
            if alike:
                return back(normal @ _host(w)).reshape(shape)
            rows = back(J @ _host(w)).reshape(r.shape)
            return back(J.T @ _host(self._over(rows, s2))).reshape(shape)

        def system(w: Tensor) -> tuple[Tensor, Tensor]:
            return kept(through(w)) + self.metric.inverse(w, sigma, field), w

        def precondition(w: Tensor) -> Tensor:
            return kept(back(factor.solve(_host(w))).reshape(shape))

        slope = back(J.T @ _host(self._over(r, s2))).reshape(shape)
        return conjugate_gradients(system, precondition, kept(slope), most, tolerance)

    def _over(self, w: Tensor, s2: Tensor) -> Tensor:
        """S^-1 w for rows w (B, L, Y, X)."""
        if bool((s2 == s2[..., :1]).all()):
            return w / s2[..., :1, None]
        return self.waves.inverse(self.waves.transform(w) / s2[..., self.waves.band], w)


def _host(w: Tensor) -> NDArray:
    return w.flatten().cpu().numpy()


def _factor(normal: sparse.csc_array) -> SuperLU:
    """Of a symmetric matrix, definite but for what it does not see."""
    shift = ROUNDING * float(abs(normal.diagonal()).max())
    whole = (normal + shift * sparse.eye_array(normal.shape[0])).tocsc()
    return splu(whole, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
