"""Finite input of any size ends in a right value or a ValueError: graded, extreme, denormal, signed-zero matrices.

Two oracles that share nothing with the product: scaling by a power of two, which is exact, and mpmath.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

import fastfid

Array = np.ndarray[Any, Any]
SEEDS = 60

pytestmark = pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")


def extreme(rng: np.random.Generator, *shape: int) -> Array:
    """Entries of every size float64 has, zeros of both signs and denormals among them."""
    kind = rng.integers(0, 5)
    reach = (10, 150, 300, 307, 1)[kind]
    a = rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-reach, reach, shape)
    spots = rng.random(shape)
    a = np.where(spots < 0.2, rng.choice([0.0, -0.0, 5e-324, -1e-310, 2.0**-1022], shape), a)
    a = np.where(spots > 0.97, rng.choice([-1e300, 1.7976931348623157e308, -1.7e308], shape), a)
    return np.asarray(a)


def extreme_covariance(rng: np.random.Generator, d: int) -> Array:
    """D C D with C of small integers, semi-definite, and D graded; now and then no covariance at all."""
    c = rng.integers(-2, 3, (d, max(1, int(rng.integers(1, d + 2))))).astype(float)
    reach = int(rng.choice([3, 80, 250, 500]))
    grade = 2.0 ** rng.integers(-reach, reach + 1, d).astype(float)
    with np.errstate(all="ignore"):
        sigma = (c @ c.T) * grade[:, None] * grade
    sigma = np.where(np.isfinite(sigma), sigma, 0.0)
    sigma = np.tril(sigma) + np.tril(sigma, -1).T
    if rng.random() < 0.15:
        sigma[0, -1] = sigma[-1, 0] = rng.choice([-1e300, 1e300, 5e-324])
    return np.asarray(sigma)


def finite(value: Any) -> bool:
    """Whether a result is; an upper bound may be infinite."""
    parts = value[:2] if isinstance(value, tuple) else (value,)
    return all(bool(torch.isfinite(torch.as_tensor(part, dtype=torch.float64)).all()) for part in parts)


def moments_cov(x: Array) -> Any:
    moments = fastfid.Moments.from_features(x)
    return moments.mean, moments.cov()


def loss(x: Array, mu: Array, sigma: Array) -> Any:
    features = torch.from_numpy(x).requires_grad_()
    made = fastfid.frechet_loss(features, (mu, sigma))
    made.backward()
    return made.detach(), features.grad


def calls(rng: np.random.Generator, d: int) -> dict[str, Callable[[], Any]]:
    a, wide = extreme(rng, d, d), extreme(rng, d, int(rng.integers(1, 2 * d + 1)))
    s1, s2, mu1, mu2 = extreme_covariance(rng, d), extreme_covariance(rng, d), extreme(rng, d), extreme(rng, d)
    rows, more = extreme(rng, d + 3, d), extreme(rng, max(2, d - 1), d)
    symmetric = np.tril(a) + np.tril(a, -1).T
    return {
        "sqrtm": lambda: fastfid.sqrtm(a),
        "sqrtm symmetric": lambda: fastfid.sqrtm(symmetric),
        "sqrtm psd": lambda: fastfid.sqrtm(s1),
        "sqrtm product": lambda: fastfid.sqrtm(s1, s2),
        "trace": lambda: fastfid.trace_sqrtm_product(s1, s2),
        "trace bounds": lambda: fastfid.trace_sqrtm_product(s1, s2, bounds=True),
        "frechet": lambda: fastfid.frechet_distance(mu1, s1, mu2, s2),
        "frechet svd": lambda: fastfid.frechet(mu1 * 0, s1, mu2 * 0, s2, method="svd"),
        "frechet iterated": lambda: fastfid.frechet(mu1 * 0, s1, mu2 * 0, s2, method="newton-schulz"),
        "nuclear": lambda: fastfid.nuclear_norm(wide, bounds=True),
        "nuclear iterated": lambda: fastfid.nuclear_norm(wide, method="newton-schulz"),
        "polar": lambda: fastfid.polar(wide)[:2],
        "polar iterated": lambda: fastfid.polar(wide, method="newton-schulz")[:2],
        "moments": lambda: moments_cov(rows),
        "few": lambda: moments_cov(more),
        "frechet of samples": lambda: fastfid.frechet_moments(
            fastfid.Moments.from_features(more), fastfid.Moments.from_features(rows)
        ),
        "frechet of few": lambda: fastfid.frechet_moments(
            fastfid.Moments.from_features(more), fastfid.Moments.from_features(more[::-1] * -1.0)
        ),
        "loss": lambda: loss(rows, mu1, s1),
    }


@pytest.mark.parametrize("name", list(calls(np.random.default_rng(0), 2)))
def test_finite_or_a_value_error(name: str) -> None:
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        call = calls(rng, int(rng.integers(1, 41 if seed % 6 == 0 else 7)))[name]
        try:
            made = call()
        except ValueError:
            continue
        assert finite(made), (name, seed)


@pytest.mark.parametrize("shift", [-490, -261, -8, 8, 261, 490])
@pytest.mark.parametrize("d", [1, 2, 7])
def test_a_power_of_two_goes_through(d: int, shift: int, rng: np.random.Generator) -> None:
    """f(4ᵏΣ) = 4ᵏ f(Σ) for the distance and the trace, 2ᵏ for the root, to a solver's rounding."""

    def same(got: Any, want: Any) -> None:
        got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
        assert np.abs(got - want).max() <= 1e-12 * np.abs(want).max()

    for rank in {1, d, 2 * d}:
        f, g = rng.standard_normal((d, rank)), rng.standard_normal((d, d))
        s1, s2, mu = f @ f.T, g @ g.T, rng.standard_normal(d)
        general = np.eye(d) * 4 + rng.standard_normal((d, d)) / (3 * d)
        root, whole = 2.0**shift, 4.0**shift
        for sigma in (s1, s2, general):
            same(fastfid.sqrtm(sigma * whole), fastfid.sqrtm(sigma) * root)
        same(fastfid.sqrtm(s1 * whole, s2), fastfid.sqrtm(s1, s2) * root)
        big = [fastfid.frechet(mu * root, s1 * whole, -mu * root, s2 * whole, certify=c) for c in (False, True)]
        one = [fastfid.frechet(mu, s1, -mu, s2, certify=c) for c in (False, True)]
        for scaled, plain in zip(big, one, strict=True):
            traces = plain.trace_term + 2 * plain.trace_root
            for got, want in ((scaled.value, plain.value), (scaled.lower, plain.lower), (scaled.upper, plain.upper)):
                assert abs(got / whole - want) <= 1e-9 * traces
        same(fastfid.trace_sqrtm_product(s1 * whole, s2), fastfid.trace_sqrtm_product(s1, s2) * root)
        same(fastfid.nuclear_norm(g * root), fastfid.nuclear_norm(g) * root)
        same(fastfid.polar(g * root).u, fastfid.polar(g).u)
        same(fastfid.polar(g * root).h, fastfid.polar(g).h * root)
        for x in (rng.standard_normal((2 * d + 2, d)), rng.standard_normal((max(2, d - 2), d))):
            many, few = fastfid.Moments.from_features(x * root), fastfid.Moments.from_features(x)
            same(many.cov(), few.cov() * whole)
            same(many.mean, few.mean * root)
            scaled_loss, plain_loss = loss(x * root, mu * root, s2 * whole), loss(x, mu, s2)
            same(scaled_loss[0], plain_loss[0] * whole)
            same(scaled_loss[1], plain_loss[1] * root)


def exact_distance(s1: Array, s2: Array) -> tuple[Any, Any]:
    """(distance, tr Σ₁ + tr Σ₂) of two covariances with equal means, by mpmath at 2000 bits."""
    with mpmath.workprec(2000):
        a, b = mpmath.matrix(s1.tolist()), mpmath.matrix(s2.tolist())
        values, vectors = mpmath.eigsy(a)
        half = vectors * mpmath.diag([mpmath.sqrt(max(v, mpmath.mpf(0))) for v in values]) * vectors.T
        inner = half * b * half
        roots = mpmath.eigsy((inner + inner.T) / 2, eigvals_only=True)
        traces = sum(a[i, i] + b[i, i] for i in range(len(s1)))
        return traces - 2 * sum(mpmath.sqrt(max(v, mpmath.mpf(0))) for v in roots), traces


def test_graded_covariances_against_mpmath() -> None:
    """D C D with D of powers of two and C of small integers, exact in binary."""
    tried = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        d, reach = int(rng.integers(1, 4)), int(rng.choice([5, 60, 250]))
        pair = []
        for _ in range(2):
            c = rng.integers(-2, 3, (d, d)).astype(float)
            grade = 2.0 ** rng.integers(-reach, reach + 1, d).astype(float)
            pair.append((c @ c.T) * grade[:, None] * grade)
        exact, traces = exact_distance(*pair)
        zero = np.zeros(d)
        got = fastfid.frechet(zero, pair[0], zero, pair[1], certify=True)
        assert abs(exact - mpmath.mpf(got.value)) <= 1e-6 * traces, seed
        tried += 1
    assert tried == 40


@pytest.mark.parametrize(
    ("sigma", "root"),
    [
        ([[1.0, 0.0], [0.0, 1e-160]], [[1.0, 0.0], [0.0, 1e-80]]),
        ([[4.0, 1e-160], [0.0, 1.0]], [[2.0, 1e-160 / 3], [0.0, 1.0]]),
        ([[5e-324]], [[math.sqrt(5e-324)]]),
        ([[1.7976931348623157e308, 0.0], [0.0, 0.0]], [[math.sqrt(1.7976931348623157e308), 0.0], [0.0, 0.0]]),
        ([[0.0, -0.0], [-0.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]),
    ],
)
def test_roots_by_hand(sigma: list[list[float]], root: list[list[float]]) -> None:
    np.testing.assert_allclose(fastfid.sqrtm(np.array(sigma)), root, rtol=1e-14, atol=0)


def test_one_huge_entry() -> None:
    """Its unscaled norm overflowed, and LAPACK wrote beyond its memory."""
    for d in (2, 3, 8, 40):
        a = np.eye(d) + np.arange(d * d).reshape(d, d) / d**2
        a[0, d - 1] = -1e300
        try:
            x = fastfid.sqrtm(a) / 2.0**498
        except ValueError as error:
            assert "no principal square root" in str(error)  # noqa: PT017
        else:
            assert np.linalg.norm(x @ x - a / 2.0**996) <= 1e-6 * np.linalg.norm(a / 2.0**996)
        b = np.eye(d)
        b[0, 1] = b[1, 0] = -1e300
        for call in (fastfid.sqrtm, lambda s: fastfid.sqrtm(s, np.eye(len(s)))):
            with pytest.raises(ValueError, match="positive semi-definite"):
                call(b)


@pytest.mark.parametrize("value", [1e200, 1.7e308])
def test_what_overflows_is_said(value: float) -> None:
    zero, one, sigma = np.zeros(2), np.full(2, value), np.diag([1.7e308, 1.7e308])
    for call in (
        lambda: fastfid.frechet_distance(one, np.eye(2), -one, np.eye(2)),
        lambda: fastfid.frechet_distance(zero, sigma, zero, np.eye(2)),
        lambda: fastfid.trace_sqrtm_product(sigma, sigma),
        lambda: fastfid.nuclear_norm(sigma),
        lambda: fastfid.polar(np.full((4, 4), 1.7e308)),
        lambda: fastfid.sqrtm(np.diag([1e30, 1.0]).astype(np.float32), np.full((2, 2), 1e38, np.float32) * 1.0),
        lambda: fastfid.Moments.from_features(np.array([[value, 1.0], [-value, 2.0], [0.0, 0.0]])).cov(),
        lambda: fastfid.Moments.from_features(np.array([[value, 1.0, 1.0], [-value, 2.0, 1.0]])).cov(),
        lambda: loss(np.array([[value, 1.0], [-value, 2.0], [0.0, 0.0]]), zero, np.eye(2)),
    ):
        try:
            assert finite(call())
        except ValueError as error:
            assert "overflow" in str(error)  # noqa: PT017


def test_no_warning_of_numpy_or_torch_on_the_way() -> None:
    """With every floating-point event an error: what overflows inside is looked at, not left to the caller."""
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for name in calls(np.random.default_rng(0), 2):
            for seed in range(12):
                rng = np.random.default_rng(seed)
                with np.errstate(all="ignore"):
                    call = calls(rng, 3)[name]
                try:
                    call()
                except ValueError:
                    continue
