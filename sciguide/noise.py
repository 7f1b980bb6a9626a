"""Noise as a function of (seed, member, step, element), from the counter-based generator Philox4x32-10.

There is no state, so member 17 gets the same numbers in whatever batch, shard, order, process or ensemble size it is
drawn. One call of Philox maps a 128-bit counter and a 64-bit key to four 32-bit words, laid out as

    key      [seed's low 32 bits, seed's high 32 bits]
    counter  [block's low 32 bits, block's high 32 bits, member, step]

where elements 4 block to 4 block + 3 of the flattened (C-order) field take the four words of their block. Words
(w0, w1) give elements 0 and 1, words (w2, w3) elements 2 and 3, by the transformation of Box and Muller (1958):

    u = (w0 + 1/2) / 2^32,  v = (w1 + 1/2) / 2^32,  z0 = sqrt(-2 log u) cos(2 pi v),  z1 = sqrt(-2 log u) sin(2 pi v),

in float64, rounded at the end; |z| < 6.8. The integers are the same on every machine, the normals to an ulp or two.
Different uses of noise within one member (start, guidance draws, actions) take different `step` numbers.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC'11.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10: the words (n, 4) of the counters (n, 4) under one `key` of two 32-bit words."""
    # Products of 32-bit words need 64 bits; one contiguous array per word is what numpy vectorises.
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    for i in range(ROUNDS):
        k0, k1 = (np.uint64((k + i * w) & 0xFFFFFFFF) for k, w in zip(key, WEYL, strict=True))
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def words(seed: int, member: int, step: int, blocks: int) -> NDArray[np.uint32]:
    """The first `blocks` x 4 random words of (seed, member, step), (blocks, 4)."""
    for name, number, bits in (("seed", seed, 64), ("member", member, 32), ("step", step, 32)):
        if not 0 <= number < 2**bits:
            raise ValueError(f"{name} = {number} is not in [0, 2^{bits})")
    block = np.arange(blocks, dtype=np.uint64)
    counter = np.empty((blocks, 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 2], counter[:, 3] = block & LOW, block >> HALF, member, step
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def normal(seed: int, member: int, step: int, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray:
    """Standard normals of `shape`, usually (C, Y, X), a pure function of the arguments.

    seed: up to 64 bits; member, step: up to 32 bits; ValueError beyond. float64 is not rounded.
    That a smaller shape gives a prefix of a larger one is not promised.
    """
    size = math.prod(shape)
    unit = (words(seed, member, step, -(-size // 4)) + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * np.log(unit[:, 0::2]))
    angle = 2.0 * np.pi * unit[:, 1::2]
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return z.reshape(-1)[:size].reshape(tuple(shape)).astype(dtype)


def normals(
    seed: int, members: Sequence[int], step: int, shape: Sequence[int], dtype: DTypeLike = np.float32
) -> NDArray:
    """`normal` for several members, (len(members), *shape).

    Member by member: vectorised logarithms and cosines may round differently at another place in a longer array.
    """
    out = np.empty((len(members), *shape), dtype)
    for row, member in zip(out, members, strict=True):
        row[...] = normal(seed, int(member), step, shape, dtype)
    return out
