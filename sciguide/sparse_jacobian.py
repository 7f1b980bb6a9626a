"""J of an equation on a model as a sparse matrix, one for each member, where a factor of it is worth its price.

Its entries are dr/du_o, which the PyTorch reference evaluates at every point, times how the boundary rule makes the
point that is read, times the slopes of the channels over the scale of the residual. The pattern is found once.
"""

import numpy as np
import scipy.sparse as sparse
import torch

from sciguide.jacobian import At, Jacobian
from sciguide.kernels.program import Read
from sciguide.kernels.tensors import extend


class SparseJacobian:
    """Rows: all cells of the rows (L Y X), those that are not valid empty; columns: all points of the fields that move,
    in the order of `J.moving`. For equations on two axes."""

    def __init__(self, J: Jacobian) -> None:
        self.J, self.reference = J, J.operator.kernels.reference
        self.cells = int(np.prod(J.operator.grid.shape))
        self.shape = len(J.live) * self.cells, len(J.moving) * self.cells
        scale = np.asarray(J.operator.scale)
        self.moves = [J.operator.fields[f] for f in J.moving]
        u = torch.ones(1, len(J.operator.fields), *J.operator.grid.shape, dtype=torch.float64)
        reads = [[read for read, _ in found] for found in self.reference.partials(u, self.moves)]
        parts, count = [], 0
        for row, k in enumerate(J.live.tolist()):
            for read in reads[k]:
                E = self.reading(read).tocoo()
                column = self.moves.index(read.name) * self.cells + E.col
                parts.append((row * self.cells + E.row, column, count * self.cells + E.row, E.data / scale[k]))
                count += 1
        rows, columns, self.source, self.weight = (np.concatenate(p) for p in zip(*parts, strict=True))
        valid = J.valid.flatten().cpu().numpy()[rows]
        rows, columns, self.source, self.weight = (p[valid] for p in (rows, columns, self.source, self.weight))
        entries, self.place = np.unique(rows * self.shape[1] + columns, return_inverse=True)
        self.columns = entries % self.shape[1]
        self.starts = np.searchsorted(entries // self.shape[1], np.arange(self.shape[0] + 1))

    def reading(self, read: Read) -> sparse.csr_array:
        """What the cells read there of the points, (cells, points), the boundary rule included."""
        site, program = self.reference.site, self.reference.program
        out = sparse.eye_array(1).tocsr()
        for dim, offset in ((1, read.dj), (2, read.di)):
            n, halo = site.shape[dim], program.halo[dim]
            whole = extend(torch.eye(n, dtype=torch.float64), -2, halo, site.ghosts(dim, read.name, read.degree))
            out = sparse.kron(out, sparse.csr_array(whole[halo + offset : halo + offset + n].numpy()), format="csr")
        return out

    def at(self, at: At, member: int) -> sparse.csr_array:
        """J of one member, on the host."""
        u = at.fields[member : member + 1]
        partials = self.reference.partials(u, self.moves)
        values = torch.cat([d.flatten() for k in self.J.live for _, d in partials[k]]).cpu().numpy()
        gain = at.gain.expand(len(at.gain), *u.shape[1:])[min(member, len(at.gain) - 1), self.J.moving]
        data = np.bincount(self.place, self.weight * values[self.source], len(self.columns))
        data *= gain.flatten().cpu().numpy()[self.columns]
        return sparse.csr_array((data, self.columns, self.starts), shape=self.shape)
