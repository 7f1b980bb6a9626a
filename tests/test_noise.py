"""Noise: known-answer vectors of the generator, the distribution, and independence of everything but its arguments."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kstest

from sciguide.noise import normal, normals, philox, words

# Counter, key and result from the file kat_vectors of Random123, "philox4x32 10".
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

# normal(0, 0, 0, (4,)). An ensemble made years ago must be reproducible: a promise, not a measurement.
FIRST = [0.9911376799303855, -0.9246625876655352, -0.6176089594591907, -0.48206858748717946]


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(counter, key, answer):
    counters = np.array([hexes(KNOWN[0][0]), hexes(counter)], np.uint32)
    assert philox(counters, tuple(hexes(key)))[1].tolist() == hexes(answer)


def test_layout_of_key_and_counter():
    seed, member, step = 0x299F31D0A4093822, 0x13198A2E, 0x03707344
    got = words(seed, member, step, 3)
    expected = philox(np.array([[b, 0, member, step] for b in range(3)], np.uint32), (0xA4093822, 0x299F31D0))
    assert np.array_equal(got, expected)


def test_box_muller_by_hand():
    z = normal(5, 6, 7, (7,), np.float64)
    w = (words(5, 6, 7, 2).astype(np.float64) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(w[:, ::2])), 2 * np.pi * w[:, 1::2]
    by_hand = [f(angle[b, p]) * radius[b, p] for b in range(2) for p in range(2) for f in (np.cos, np.sin)]
    assert np.allclose(z, by_hand[:7], rtol=1e-15)
    assert np.array_equal(normal(5, 6, 7, (7,)), z.astype(np.float32))


def test_moments_and_distribution():
    z = normal(0, 0, 0, (4, 256, 250), np.float64).ravel()
    n = z.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - moment) < 4 * np.sqrt(variance / n), power
    assert kstest(z, "norm").pvalue > 0.01
    assert np.abs(z).max() < 6.8


@pytest.mark.parametrize("axis", ["seed", "seed_high", "member", "step", "neighbour"])
def test_independence(axis):
    base = {"seed": 1, "member": 2, "step": 3}
    if axis == "neighbour":
        z = normal(**base, shape=(64, 64), dtype=np.float64)
        pairs = [(z[:, 1:], z[:, :-1]), (z[1:], z[:-1]), (z[:, 4:], z[:, :-4])]
    else:
        change = {"seed": 1 << 32} if axis == "seed_high" else {axis: 1}
        fields = [
            normal(**{k: v + i * change.get(k, 0) for k, v in base.items()}, shape=(64, 64), dtype=np.float64)
            for i in range(5)
        ]
        pairs = list(itertools.combinations(fields, 2))
    for a, b in pairs:
        # Squares as well: Box-Muller pairs share their radius, which a plain correlation would not see if reused.
        for f in (lambda z: z, lambda z: z**2):
            assert abs(np.corrcoef(f(a).ravel(), f(b).ravel())[0, 1]) < 4.5 / 64


@pytest.mark.parametrize("shape", [(2, 16, 17), (1, 1, 1), (3, 5)])
def test_a_member_does_not_depend_on_its_batch(shape):
    members = [17, 3, 40, 0, 8, 2**32 - 1, 5]
    alone = {m: normal(9, m, 4, shape) for m in members}
    for batch in (1, 2, 3, 7):
        for order in (members, members[::-1]):
            for i in range(0, len(order), batch):
                part = order[i : i + batch]
                got = normals(9, part, 4, shape)
                assert got.shape == (len(part), *shape) and got.dtype == np.float32
                assert all(np.array_equal(row, alone[m]) for row, m in zip(got, part, strict=True))


def test_another_process_draws_the_same_bytes():
    code = "from sciguide.noise import normal; print(normal(2**63, 7, 1, (2, 9, 11)).tobytes().hex())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert out == normal(2**63, 7, 1, (2, 9, 11)).tobytes().hex()


@pytest.mark.parametrize(
    "arguments, name", [((-1, 0, 0), "seed"), ((2**64, 0, 0), "seed"), ((0, 2**32, 0), "member"), ((0, 0, -1), "step")]
)
def test_numbers_out_of_range_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        normal(*arguments, (2, 2))


def test_the_first_numbers_never_change():
    assert normal(0, 0, 0, (4,), np.float64).tolist() == pytest.approx(FIRST, rel=1e-14)
