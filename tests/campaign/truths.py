"""Matrices whose distances, roots and norms are known exactly: permuted blocks of at most two rows, by mpmath.

Nothing here is shared with the product: a trace of a root or a nuclear norm of a direct sum is the sum over its blocks,
and those of 1×1, 2×2, k×1 and 1×k blocks have closed forms, taken with 700 digits from the floats as they stand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mpmath
import numpy as np

Array = np.ndarray[Any, Any]
MP = mpmath.mp.clone()
MP.dps = 700  # float64 spans 632 decades, and terms of both ends meet in one sum


class Pair(NamedTuple):
    """Two Gaussians and their exact distance."""

    mu1: Array
    sigma1: Array
    mu2: Array
    sigma2: Array
    root: Any
    distance: Any


def _block(rng: np.random.Generator, size: int, scale: float) -> Array:
    """A covariance block: [1, 1], or [2, 2] whose determinant is positive, or zero exactly."""
    kind = rng.integers(8)
    if size == 1:
        return np.array([[0.0 if kind == 0 else float(rng.integers(1, 9)) if kind < 3 else rng.uniform(0, 1)]]) * scale
    if kind == 0:
        p, q = (float(v) for v in rng.integers(-5, 6, 2))
        return np.array([[p * p, p * q], [p * q, q * q]]) * scale
    a, c = rng.uniform(0.01, 1, 2) * (10.0 ** rng.integers(-6, 1, 2) if kind < 4 else 1.0)
    rho = rng.uniform(-1, 1) if kind < 6 else np.sign(rng.normal()) * (1 - 10.0 ** -rng.integers(1, 9))
    b = 0.999999 * rho * np.sqrt(a * c) if kind < 6 else rho * np.sqrt(a * c)
    return np.array([[a, b], [b, c]]) * scale


def _det(m: Array) -> Any:
    a, b, c, d = (MP.mpf(float(v)) for v in m.ravel())
    return a * d - b * c


def _root_of(x: Array, y: Array) -> Any:
    """tr (XY)^½ of two blocks."""
    if len(x) == 1:
        return MP.sqrt(MP.mpf(float(x[0, 0])) * MP.mpf(float(y[0, 0])))
    trace = sum(MP.mpf(float(x[i, j])) * MP.mpf(float(y[j, i])) for i in range(2) for j in range(2))
    return MP.sqrt(trace + 2 * MP.sqrt(_det(x) * _det(y)))


def pair(rng: np.random.Generator, most: int = 8, exponent: int = 20) -> Pair:
    """Covariances of up to ``most`` rows of sizes 2^±exponent; singular, graded, equal and near-equal ones, too."""
    blocks = [2 if rng.integers(2) else 1 for _ in range(int(rng.integers(1, max(most // 2, 1) + 1)))]
    d = sum(blocks)
    scale = 2.0 ** int(rng.integers(-exponent, exponent + 1))
    other = scale if rng.integers(4) else scale * 2.0 ** int(rng.integers(-12, 13))
    sigma1, sigma2, root, at = np.zeros((d, d)), np.zeros((d, d)), MP.mpf(0), 0
    near = int(rng.integers(6))
    for size in blocks:
        here = slice(at, at + size)
        x = _block(rng, size, scale)
        y = x * (1.0 + 2.0 ** -int(rng.integers(1, 50))) if near == 0 else x if near == 1 else _block(rng, size, other)
        if size == 2:  # rounding may have left the smallest eigenvalue below zero: then the diagonal alone
            x, y = (m if _det(m) >= 0 else np.diag(np.diag(m)) for m in (x, y))
        sigma1[here, here], sigma2[here, here] = x, y
        root += _root_of(x, y)
        at += size
    order = rng.permutation(d)
    sigma1, sigma2 = sigma1[np.ix_(order, order)], sigma2[np.ix_(order, order)]
    spread = np.sqrt(scale)
    mu1 = rng.normal(0, spread, d) * (10.0 ** rng.integers(0, 4))
    mu2 = mu1.copy() if rng.integers(3) == 0 else mu1 + rng.normal(0, spread, d)
    gap = sum(((MP.mpf(float(a)) - MP.mpf(float(b))) ** 2 for a, b in zip(mu1, mu2, strict=True)), MP.mpf(0))
    traces = sum((MP.mpf(float(v)) for v in (*np.diag(sigma1), *np.diag(sigma2))), MP.mpf(0))
    return Pair(mu1, sigma1, mu2, sigma2, root, gap + traces - 2 * root)


def matrix(rng: np.random.Generator, most: int = 4, exponent: int = 20) -> tuple[Array, Any]:
    """[p, q], of any shape from tall to wide, and its exact nuclear norm."""
    scale = 2.0 ** int(rng.integers(-exponent, exponent + 1))
    parts, norm = [], MP.mpf(0)
    for _ in range(int(rng.integers(1, most + 1))):
        p, q = [(1, 1), (2, 2), (int(rng.integers(1, 9)), 1), (1, int(rng.integers(1, 9)))][int(rng.integers(4))]
        part = np.full((p, q), rng.normal()) if rng.integers(3) == 0 else rng.normal(size=(p, q))
        part = np.zeros((p, q)) if rng.integers(8) == 0 else part * scale * 10.0 ** -int(rng.integers(0, 7))
        parts.append(part)
        square = sum((MP.mpf(float(v)) ** 2 for v in part.ravel()), MP.mpf(0))
        norm += MP.sqrt(square + 2 * abs(_det(part))) if p == q == 2 else MP.sqrt(square)
    m = np.zeros((sum(len(part) for part in parts), sum(part.shape[1] for part in parts)))
    p = q = 0
    for part in parts:
        m[p : p + part.shape[0], q : q + part.shape[1]] = part
        p, q = p + part.shape[0], q + part.shape[1]
    return m[rng.permutation(m.shape[0])][:, rng.permutation(m.shape[1])], norm


def covariance(rng: np.random.Generator, d: int, rank: int | None = None) -> Array:
    """An ordinary random covariance [d, d]."""
    x = rng.normal(size=(d, rank or 2 * d))
    s = x @ x.T / x.shape[1]
    return (s + s.T) / 2
