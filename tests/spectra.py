"""Pairs of covariances with known factors, over the spectra that break square roots, and their exact traces.

``pair(name, d)`` gives F₁, F₂ in float64; the covariances are F Fᵀ as float64 rounds it, the exact trace of their root
is the nuclear norm of F₁ᵀF₂, for which ``exact_nuclear_norms`` runs one-sided Jacobi in extended precision.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

import fastfid
from fastfid.errors import NumericalWarning

Array = np.ndarray

ROUTES = [("auto", None), ("auto", True), ("svd", None), ("newton-schulz", None)]
"""(method, certify) of every way to a distance."""


def quiet(*args: object, **options: object) -> fastfid.FrechetResult:
    """The distance, where rounding may leave a value below zero and the warning is not the point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        return fastfid.frechet(*args, **options)


def orthogonal(d: int, rng: np.random.Generator) -> Array:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def _with(values: Array, rng: np.random.Generator) -> Array:
    return orthogonal(len(values), rng) * np.sqrt(values)


def _two(make: Callable[[int], Array]) -> Callable[[int, np.random.Generator], tuple[Array, Array]]:
    return lambda d, rng: (_with(make(d), rng), _with(make(d)[::-1].copy(), rng))


def _samples(n: int, d: int, rng: np.random.Generator) -> Array:
    x = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.75
    return (x - x.mean(axis=0)).T / np.sqrt(max(n - 1, 1))


def _near(d: int, rng: np.random.Generator) -> tuple[Array, Array]:
    f = _with(np.arange(1.0, d + 1) ** -1, rng)
    change = np.eye(d) + 2e-3 * rng.standard_normal((d, d)) / np.sqrt(d)
    return f, change @ f


SPECTRA: dict[str, Callable[[int, np.random.Generator], tuple[Array, Array]]] = {
    "identity": lambda d, rng: (np.eye(d), 2.0 * np.eye(d)),
    "power law": _two(lambda d: np.arange(1.0, d + 1) ** -1.5),
    "logarithmic to 1e-5": _two(lambda d: np.logspace(0, -5, d)),
    "logarithmic to 1e-10": _two(lambda d: np.logspace(0, -10, d)),
    "logarithmic to 1e-16": _two(lambda d: np.logspace(0, -16, d)),
    "clustered": _two(lambda d: np.r_[1.0, np.full(d - 1, 1e-3)]),
    "two blocks 1e-4": _two(lambda d: np.r_[np.ones(d - d // 2), np.full(d // 2, 1e-4)]),
    "two blocks 1e-8": _two(lambda d: np.r_[np.ones(d - d // 2), np.full(d // 2, 1e-8)]),
    "rank 1": lambda d, rng: (rng.standard_normal((d, 1)), _with(np.arange(1.0, d + 1) ** -1, rng)),
    "samples n<d, one side": lambda d, rng: (_samples(d // 3 + 2, d, rng), _with(np.arange(1.0, d + 1) ** -1, rng)),
    "samples n<d, both": lambda d, rng: (_samples(d // 3 + 2, d, rng), _samples(d // 2 + 2, d, rng)),
    "zero": lambda d, rng: (np.zeros((d, 1)), _with(np.arange(1.0, d + 1) ** -1, rng)),
    "identical": lambda d, rng: (lambda f: (f, f.copy()))(_with(np.arange(1.0, d + 1) ** -1, rng)),
    "nearly identical": _near,
}


def pair(name: str, d: int, seed: int = 0) -> tuple[Array, Array]:
    return SPECTRA[name](d, np.random.default_rng([seed, d, list(SPECTRA).index(name)]))


def covariance(f: Array) -> Array:
    sigma = f @ f.T
    return np.tril(sigma) + np.tril(sigma, -1).T


def random_batch(count: int, d: int, rng: np.random.Generator) -> Array:
    """[count, d, d] factors with eigenvalues spread over up to 12 decades, some of them zero, and random scales."""
    q, _ = np.linalg.qr(rng.standard_normal((count, d, d)))
    decades = rng.uniform(0, 6, (count, 1)) * rng.uniform(0, 1, (count, d))
    values = 10.0**-decades * (rng.uniform(size=(count, d)) > 0.15)
    return q * values[:, None, :] * 10.0 ** rng.uniform(-20, 20, (count, 1, 1))


def exact_nuclear_norms(m: Array) -> Array:
    """[B] sums of singular values of m [B, p, q] (q small): one-sided Jacobi in extended precision.

    80-bit long doubles carry 11 bits more than float64, so their rounding is 2000 times below what is tested. Columns
    are taken in the order of their length, and sweeps go on until no pair is further from orthogonal than rounding.
    """
    a = np.array(m, dtype=np.longdouble)
    q = a.shape[2]
    tiny = 4 * np.finfo(np.longdouble).eps
    floor = tiny**2 * (a * a).sum((1, 2))
    for _ in range(30):
        turned = False
        order = np.argsort(-(a * a).sum(1), axis=1)
        a = np.take_along_axis(a, order[:, None, :], axis=2)
        for i in range(q - 1):
            for j in range(i + 1, q):
                x, y = a[:, :, i], a[:, :, j]
                alpha, beta, gamma = (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)
                rotate = (np.abs(gamma) > tiny * np.sqrt(alpha * beta)) & (np.minimum(alpha, beta) > floor)
                turned = turned or bool(rotate.any())
                zeta = np.where(rotate, (beta - alpha) / np.where(rotate, 2 * gamma, 1), 0)
                t = np.where(zeta >= 0, 1, -1) / (np.abs(zeta) + np.sqrt(1 + zeta * zeta))
                c = np.where(rotate, 1 / np.sqrt(1 + t * t), 1)[:, None]
                s = np.where(rotate, t, 0)[:, None] * c
                a[:, :, i], a[:, :, j] = c * x - s * y, s * x + c * y
        if not turned:
            break
    return np.sqrt((a * a).sum(1)).sum(1)
