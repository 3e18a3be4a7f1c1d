"""Intervals hold the exact distance of the matrices given, and are not wider than they need be. Truths: ``exact``.

A slice of what tests/measure_frechet.py runs; its counts are in bench/results/*/frechet_bounds.json.
"""

from __future__ import annotations

import math
import warnings

import exact
import mpmath
import numpy as np
import pytest
import torch

import fastfid
from fastfid.errors import NumericalWarning

Rng = np.random.Generator

ASKED = ({}, {"certify": True}, {"method": "eigvalsh"}, {"method": "newton-schulz"}, {"method": "svd"})


def interval(*given: np.ndarray, **asked: object) -> fastfid.FrechetResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        return fastfid.frechet(*given, **asked)


def holds(got: fastfid.FrechetResult, want: mpmath.mpf) -> None:
    assert got.lower <= want <= got.upper, f"{mpmath.nstr(want, 20)} outside {got!r}, {got.proof}"


@pytest.mark.parametrize(("d", "count"), [(1, 60), (2, 150), (3, 60), (4, 40), (6, 10), (9, 3)])
def test_random_pairs(d: int, count: int) -> None:
    rng = np.random.default_rng([8, d])
    for k in range(count):
        kind, a, b = exact.random_pair(d, rng)
        mu = rng.standard_normal((2, d)) * 10.0 ** rng.choice([-30, 0])
        asked = ASKED[k % len(ASKED)]
        got = interval(mu[0], a, mu[1], b, **asked)
        holds(got, exact.distance(mu[0], a, mu[1], b))
        assert got.proof == ("probable" if got.method == "eigvalsh" else got.proof), kind
        if asked != {"method": "eigvalsh"}:
            assert got.proof == "proven", kind


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_failed_once(asked: dict[str, object]) -> None:
    a, b = np.diag([1.0, 4e-16]), np.eye(2)  # the truncated eigenvalue moved the distance by 4e-8
    got = interval(np.zeros(2), a, np.zeros(2), b, **asked)
    holds(got, exact.distance(np.zeros(2), a, np.zeros(2), b))
    assert got.upper - got.lower < 1e-6
    rng = np.random.default_rng(10)
    for _ in range(6):  # condition 1e10 to 1e12: one of six was outside
        sides = []
        for _ in range(2):
            q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
            f = q * np.sqrt(np.geomspace(1, 10.0 ** -rng.uniform(10, 12), 4))
            sides.append(np.tril(f @ f.T) + np.tril(f @ f.T, -1).T)
        given = np.zeros(4), sides[0], np.zeros(4), sides[1]
        holds(interval(*given, **asked), exact.distance(*given))


def spectra_of(kind: str, d: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    span = (52 - 2 * round(math.log2(d))) // 2 - (kind == "near")
    first = 4.0 ** -rng.integers(0, span + 1, d)
    second = 4.0 ** -rng.integers(0, span + 1, d)
    if kind == "deficient":
        first, second = first * (rng.uniform(size=d) > 0.3), second * (rng.uniform(size=d) > 0.3)
    if kind == "near":
        second = first.copy()
        second[np.argmax(first)] *= 4
    return first, second


@pytest.mark.parametrize("asked", [*ASKED, {"method": "eigh"}], ids=str)
@pytest.mark.parametrize("kind", ["graded", "deficient", "near"])
def test_hadamard(kind: str, asked: dict[str, object], rng: Rng) -> None:
    for d in (16, 64, 256):
        first, second = spectra_of(kind, d, rng)
        a, b, want = exact.of_spectra(first, second)
        got = interval(np.zeros(d), a, np.zeros(d), b, **asked)
        holds(got, want)
        assert got.upper - got.lower <= 1e-3 * float(want)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_blocks(asked: dict[str, object], rng: Rng) -> None:
    for d in (10, 100):
        f = rng.integers(-9, 10, (2, d // 2, 2, 2)).astype(float)
        blocks = f @ f.transpose(0, 1, 3, 2)
        a, b, want = exact.of_blocks(blocks[0], blocks[1], rng.permutation(d))
        holds(interval(np.zeros(d), a, np.zeros(d), b, **asked), want)


def test_a_well_conditioned_interval_is_narrow(rng: Rng) -> None:
    """From above: a factor of 100 over what float64 gives at all, and the near-equal pair that was 1e0 wide."""
    d = 64
    first = 4.0 ** -rng.integers(0, 3, d)
    second = np.roll(first, 1)
    a, b, want = exact.of_spectra(first, second)
    limits = {"certify": 1e-12, "svd": 1e-12, "newton-schulz": 2e-11, "auto": 1e-10}
    for name, limit in limits.items():
        asked = {"certify": True} if name == "certify" else {"method": name}
        got = interval(np.zeros(d), a, np.zeros(d), b, **asked)
        holds(got, want)
        assert got.upper - got.lower <= limit * got.trace_root, name
    near, _, _ = exact.of_spectra(first * 4.0**0, first)
    got = interval(np.zeros(d), near, np.zeros(d), near * (1 + 2.0**-14))
    want = float(first.sum()) * (math.sqrt(1 + 2.0**-14) - 1) ** 2
    assert got.lower <= want <= got.upper
    assert got.upper - got.lower <= 1e-3 * want
    assert got.proof == "proven", "the tight route was taken"
    assert any("handed over to proven svd" in note for note in got.notes)


def test_what_no_route_reaches_comes_with_a_warning() -> None:
    f = np.random.default_rng(3).standard_normal((40, 12))
    sigma = f @ f.T
    sigma = np.tril(sigma) + np.tril(sigma, -1).T
    other = sigma.copy()
    other[0, 0] *= 1 + 1e-9
    with pytest.warns(NumericalWarning, match="no route gives a narrower one"):
        got = fastfid.frechet(np.zeros(40), sigma, np.zeros(40), other)
    assert got.method == "svd"
    assert got.upper <= 1e-5 * got.trace_root


def test_result_says_what_it_covers() -> None:
    got = fastfid.frechet(np.zeros(40), np.eye(40), np.ones(40), 2 * np.eye(40))
    assert (got.proof, got.method) == ("probable", "eigvalsh")
    assert got.to_dict()["covers"] == "the d×d arithmetic on the means and covariances (or samples) given"
    assert fastfid.frechet(np.zeros(40), np.eye(40), np.ones(40), 2 * np.eye(40), certify=True).proof == "proven"


def test_what_was_removed_is_in_the_result() -> None:
    a = np.diag([1.0, 1.0, -(2.0**-20)])
    with pytest.warns(NumericalWarning, match="negative eigenvalues"):
        got = fastfid.frechet(np.zeros(3), a, np.zeros(3), np.eye(3))
    assert got.removed1 == pytest.approx(-(2.0**-20), rel=1e-12)
    assert got.removed2 == 0.0
    holds(got, exact.distance(np.zeros(3), a, np.zeros(3), np.eye(3)))
    assert got.upper - got.lower < 4e-9


@pytest.mark.parametrize("n", [2, 3, 7])
def test_samples(n: int) -> None:
    """The exact covariance of the samples, in rationals; constant columns, large means."""
    rng = np.random.default_rng(n)
    for k in range(12):
        d = int(rng.integers(n, 9))
        sets = []
        for _ in range(2):
            x = rng.integers(-99, 100, (n, d)) * 0.1 + rng.choice([0.0, 1e5])
            x[:, 0] = x[0, 0]
            sets.append(x)
        moments = [fastfid.Moments.from_features(x) for x in sets]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            got = fastfid.frechet_moments(*moments, certify=k % 2 == 0)
        assert (got.method, got.proof) == ("low-rank", "proven")
        with mpmath.workdps(exact.DIGITS):
            centred = []
            for x in sets:
                whole = mpmath.matrix(x.tolist())
                mean = [mpmath.fsum(whole[i, j] for i in range(n)) / n for j in range(d)]
                centred.append(mpmath.matrix(n, d))
                for i in range(n):
                    for j in range(d):
                        centred[-1][i, j] = (whole[i, j] - mean[j]) / mpmath.sqrt(n - 1)
            root = mpmath.fsum(mpmath.svd_r(centred[0] * centred[1].T, compute_uv=False))
            traces = mpmath.fsum(v * v for c in centred for v in c)
            gap = mpmath.fsum(
                (mpmath.mpf(float(x)) - mpmath.mpf(float(y))) ** 2
                for x, y in zip(*(m.mean for m in moments), strict=True)
            )
            holds(got, gap + traces - 2 * root)


def test_two_sets_of_two_samples_in_2048_dimensions() -> None:
    """One column of a constant: the products round to the same side, 2048 times."""
    for value, d, method in [(0.1, 2048, "low-rank"), (0.7, 2048, "auto"), (1 / 3, 256, "newton-schulz")]:
        x, y = np.zeros((2, d)), np.zeros((2, d))
        x[1], y[1] = value, np.where(np.arange(d) % 2, value, -2 * value)
        moments = [fastfid.Moments.from_features(s) for s in (x, y)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            got = fastfid.frechet_moments(*moments, method=method)
        v, w = (mpmath.mpf(float(s[1, 0])) for s in (x, y))
        u = mpmath.mpf(float(y[1, 1]))
        with mpmath.workdps(exact.DIGITS):  # rank one each: |x·y|/2, |x|²/2, |y|²/2 of the differences
            half = d // 2
            dot, one, two = half * v * (u + w), d * v * v, half * (u * u + w * w)
            gap = mpmath.fsum(
                (mpmath.mpf(float(p)) - mpmath.mpf(float(q))) ** 2
                for p, q in zip(*(m.mean for m in moments), strict=True)
            )
            want = gap + one / 2 + two / 2 - abs(dot)
        holds(got, want)
        assert got.upper - got.lower <= (1e-4 if method == "newton-schulz" else 1e-12) * float(want)


@pytest.mark.parametrize("method", ["svd", "newton-schulz"])
def test_nuclear_norm_of_constant_and_few_valued_columns(method: str, rng: Rng) -> None:
    for n, k, seed in [(2048, 1, 0), (2048, 2, 1), (777, 2, 2), (1, 1, 3), (64, 1, 4)]:
        values = rng.integers(-(2**26), 2**26, 2 + seed)
        m = rng.choice(values, (n, k)).astype(float) if k == 2 else np.full((n, k), float(values[0]))
        want = exact.nuclear_of_two_columns(m)
        for given in (m, m.T):  # tall and wide
            value, lower, upper = fastfid.nuclear_norm(given * 2.0**-20, method=method, bounds=True)
            want_here = want * mpmath.mpf(2) ** -20
            assert lower <= want_here <= upper
            assert upper - lower <= 2e-10 * value
            assert lower <= value <= upper


def test_nuclear_norm_of_hadamard(rng: Rng) -> None:
    for d, q in [(64, 64), (64, 256), (256, 16)]:
        h, g = exact.hadamard(d), exact.hadamard(q)
        k = min(d, q)
        values = 2.0 ** -rng.integers(0, 20, k) * (rng.uniform(size=k) > 0.2)
        m = (h[:, :k] * values) @ g[:k]  # singular values: values · √(d q)
        with mpmath.workdps(exact.DIGITS):
            want = mpmath.fsum(mpmath.mpf(v) for v in values) * mpmath.sqrt(d * q)
        for method in ("svd", "newton-schulz"):
            value, lower, upper = fastfid.nuclear_norm(torch.from_numpy(m), method=method, bounds=True)
            assert float(lower) <= want <= float(upper)
            assert float(upper - lower) <= 1e-9 * float(value)
