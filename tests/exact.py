"""Exact distances and nuclear norms for matrices as float64 holds them; nothing here is shared with the product.

Small d: mpmath's symmetric eigenvalues with 50 digits, or a closed form in rationals for d ≤ 2. Large d: constructions
that are exact in binary, whose makers assert that they are.
"""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np

Array = np.ndarray

DIGITS = 50


def _psd(matrix: Array) -> tuple[mpmath.matrix, mpmath.matrix]:
    """(A₊, A₊^½) of a symmetric float64 matrix, to DIGITS digits."""
    values, vectors = mpmath.eigsy(mpmath.matrix(matrix.tolist()))
    values = [max(v, mpmath.mpf(0)) for v in values]
    d = len(values)
    made = []
    for diagonal in (values, [mpmath.sqrt(v) for v in values]):
        half = vectors.copy()
        for i in range(d):
            for j in range(d):
                half[i, j] *= diagonal[j]
        made.append(half * vectors.T)
    return made[0], made[1]


def distance(mu1: Array, a: Array, mu2: Array, b: Array) -> mpmath.mpf:
    """The exact distance of the nearest positive semi-definite matrices to a and b."""
    with mpmath.workdps(DIGITS):
        gap = mpmath.fsum((mpmath.mpf(float(x)) - mpmath.mpf(float(y))) ** 2 for x, y in zip(mu1, mu2, strict=True))
        if len(a) <= 2:
            return gap + _closed(a, b)
        first, root = _psd(a)
        second, _ = _psd(b)
        inner = root * second * root
        values = mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True)
        trace = mpmath.fsum(mpmath.sqrt(max(v, mpmath.mpf(0))) for v in values)
        traces = mpmath.fsum(m[i, i] for m in (first, second) for i in range(len(a)))
        return gap + traces - 2 * trace


def _closed(a: Array, b: Array) -> mpmath.mpf:
    """tr A + tr B − 2 √(tr AB + 2 √(det A det B)) for d ≤ 2, in rationals up to the roots."""

    def rational(m: Array) -> list[list[Fraction]]:
        return [[Fraction(float(x)) for x in row] for row in m]

    def number(x: Fraction) -> mpmath.mpf:
        return mpmath.mpf(x.numerator) / x.denominator

    sides = []
    for m in (a, b):
        if len(m) == 1:
            sides.append([[max(Fraction(float(m[0, 0])), Fraction(0)), Fraction(0)], [Fraction(0), Fraction(0)]])
            continue
        r = rational(m)
        det, trace = r[0][0] * r[1][1] - r[0][1] ** 2, r[0][0] + r[1][1]
        if det < 0:  # one eigenvalue below zero: the other's projection, irrational, to 2 · DIGITS digits
            with mpmath.workdps(2 * DIGITS):
                spread = mpmath.sqrt(number((r[0][0] - r[1][1]) ** 2 + 4 * r[0][1] ** 2))
                low = (number(trace) - spread) / 2
                scale = (number(trace) + spread) / 2 / spread
                entries = [[number(r[i][j]) - (low if i == j else 0) for j in range(2)] for i in range(2)]
                sides.append([[_fraction(scale * e) for e in row] for row in entries])
        elif trace < 0:
            sides.append([[Fraction(0)] * 2] * 2)
        else:
            sides.append(r)
    p, q = sides
    inner = sum(p[i][j] * q[j][i] for i in range(2) for j in range(2))
    dets = [max(m[0][0] * m[1][1] - m[0][1] ** 2, Fraction(0)) for m in (p, q)]
    root = mpmath.sqrt(max(number(inner) + 2 * mpmath.sqrt(number(dets[0] * dets[1])), mpmath.mpf(0)))
    return number(p[0][0] + p[1][1] + q[0][0] + q[1][1]) - 2 * root


def _fraction(x: mpmath.mpf) -> Fraction:
    sign, mantissa, exponent, _ = x._mpf_
    return Fraction(int(mantissa)) * (-1) ** sign * (Fraction(2) ** int(exponent))


def hadamard(d: int) -> Array:
    """±1, orthogonal rows; d a power of two."""
    h = np.ones((1, 1))
    while len(h) < d:
        h = np.block([[h, h], [h, -h]])
    return h


def of_spectra(first: Array, second: Array) -> tuple[Array, Array, mpmath.mpf]:
    """(A, B, exact distance) with A = H diag(first) Hᵀ / d: entries exact in float64, spectra powers of four or 0."""
    d = len(first)
    h = hadamard(d)
    made = []
    for values in (first, second):
        inverse = [math.log2(v) for v in values if v > 0]
        assert all(v == 2.0 ** round(v_log) for v, v_log in zip(values[values > 0], inverse, strict=True))
        assert not inverse or max(inverse) - min(inverse) + 2 * math.log2(d) <= 52, "the entries would be rounded"
        made.append((h * values) @ h.T / d)
    with mpmath.workdps(DIGITS):
        total = mpmath.fsum(
            (mpmath.sqrt(mpmath.mpf(x)) - mpmath.sqrt(mpmath.mpf(y))) ** 2 for x, y in zip(first, second, strict=True)
        )
    return made[0], made[1], total


def of_blocks(blocks1: Array, blocks2: Array, order: Array) -> tuple[Array, Array, mpmath.mpf]:
    """(A, B, exact distance) of block-diagonal matrices [n, 2, 2], rows and columns reordered: nothing rounds."""
    n = len(blocks1)
    made = []
    for blocks in (blocks1, blocks2):
        whole = np.zeros((2 * n, 2 * n))
        for k, block in enumerate(blocks):
            whole[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = block
        made.append(whole[np.ix_(order, order)])
    with mpmath.workdps(DIGITS):
        total = mpmath.fsum(_closed(x, y) for x, y in zip(blocks1, blocks2, strict=True))
    return made[0], made[1], total


def nuclear_of_two_columns(m: Array) -> mpmath.mpf:
    """‖m‖_* of integers [n, 2] or [n, 1]: √(tr G + 2 √det G) of the Gram matrix, which is exact in integers."""
    whole = [[int(x) for x in row] for row in m]
    assert all(float(x) == y for row, given in zip(whole, m, strict=True) for x, y in zip(row, given, strict=True))
    gram = [[sum(row[i] * row[j] for row in whole) for j in range(m.shape[1])] for i in range(m.shape[1])]
    with mpmath.workdps(DIGITS):
        if m.shape[1] == 1:
            return mpmath.sqrt(gram[0][0])
        det = gram[0][0] * gram[1][1] - gram[0][1] ** 2
        return mpmath.sqrt(gram[0][0] + gram[1][1] + 2 * mpmath.sqrt(det))


# --- random matrices, as they come: graded, near-equal, rank-deficient, float32-born, indefinite by rounding ----------


def _one(kind: str, d: int, rng: np.random.Generator) -> Array:
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    if kind == "graded":
        f = q * 10.0 ** -(rng.uniform(0, 7) * rng.uniform(0, 1, d))
    elif kind == "scaled":
        f = q * 10.0 ** -rng.uniform(0, 4, (d, 1))
    elif kind == "deficient":
        f = q[:, : int(rng.integers(0, d)) + 1] * 10.0 ** -rng.uniform(0, 3)
        f = f[:, : max(1, f.shape[1] - 1)]
    elif kind == "integers":
        f = rng.integers(-3, 4, (d, d)).astype(float)
    elif kind == "diagonal":
        return np.diag(10.0 ** -rng.uniform(0, 20, d) * (rng.uniform(size=d) > 0.1))
    else:
        f = q * 10.0 ** -(rng.uniform(0, 3) * rng.uniform(0, 1, d))
    sigma = f @ f.T
    sigma = np.tril(sigma) + np.tril(sigma, -1).T
    return sigma.astype(np.float32).astype(np.float64) if kind == "float32" else sigma


KINDS = ("plain", "graded", "scaled", "deficient", "integers", "diagonal", "float32")


def random_pair(d: int, rng: np.random.Generator) -> tuple[str, Array, Array]:
    """(kinds, A, B), both symmetric; a fifth of the pairs nearly equal."""
    kinds = rng.choice(KINDS, 2)
    a = _one(kinds[0], d, rng) * 10.0 ** rng.choice([0, 0, rng.uniform(-20, 20)])
    if rng.uniform() < 0.2:
        noise = rng.standard_normal((d, d)) * 10.0 ** -rng.uniform(1, 16)
        b = a * (1.0 + noise + noise.T) if rng.uniform() < 0.5 else a * (1.0 + 10.0 ** -rng.uniform(1, 16))
        b = (b + b.T) / 2
        if np.linalg.eigvalsh(b)[0] < -1e-7 * np.linalg.eigvalsh(b)[-1]:
            b = a * 1.25
        return f"near {kinds[0]}", a, b
    b = _one(kinds[1], d, rng)
    return f"{kinds[0]}, {kinds[1]}", a, b * 10.0 ** rng.choice([0, 0, rng.uniform(-20, 20)])
