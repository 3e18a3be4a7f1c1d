"""How near the distance comes to the truth, and that its interval holds the truth.

Truth is the singular values of the factors the covariances were made of, mpmath, or Jacobi in extended precision.
"""

from __future__ import annotations

import math
import warnings

import mpmath
import numpy as np
import pytest
import spectra
import tolerances as tol

import fastfid
from fastfid.distance import compare
from fastfid.errors import NumericalWarning
from fastfid.gaussian import FrechetReference
from fastfid.reference.linalg import nuclear_norm

ROUTES = spectra.ROUTES
quiet = spectra.quiet


def check_spectrum(name: str, d: int, method: str, certify: bool | None) -> None:
    f1, f2 = spectra.pair(name, d)
    want = nuclear_norm(f1.T @ f2)
    zero = np.zeros(d)
    got = quiet(zero, spectra.covariance(f1), zero, spectra.covariance(f2), method=method, certify=certify)
    tol.check(got.trace_root, want, relative=tol.TRACE_FLOAT64, absolute=1e-300, what=f"{name}, {got.method}")
    assert got.lower <= got <= got.upper
    assert (got.rank1, got.rank2) == tuple(
        min(np.linalg.matrix_rank(f, tol=math.sqrt(d * tol.EPS)), d) for f in (f1, f2)
    )


@pytest.mark.parametrize(("method", "certify"), ROUTES, ids=["auto", "certify", "svd", "newton-schulz"])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 16, 61])
@pytest.mark.parametrize("name", spectra.SPECTRA)
def test_spectra(name: str, d: int, method: str, certify: bool | None) -> None:
    check_spectrum(name, d, method, certify)


@pytest.mark.slow
@pytest.mark.parametrize("d", [512, 1021])  # 2048: bench/results/*/frechet_accuracy.json, all spectra
@pytest.mark.parametrize("name", spectra.SPECTRA)
def test_spectra_large(name: str, d: int) -> None:
    check_spectrum(name, d, "auto", None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "d"), [("logarithmic to 1e-10", 2048), ("power law", 4096)])
def test_spectra_of_full_size(name: str, d: int) -> None:
    check_spectrum(name, d, "auto", None)


@pytest.mark.parametrize("name", spectra.SPECTRA)
def test_spectra_against_mpmath(name: str) -> None:
    f1, f2 = spectra.pair(name, 6, seed=1)
    with mpmath.workdps(50):
        product = mpmath.matrix(f1.tolist()).T * mpmath.matrix(f2.tolist())
        want = float(mpmath.fsum(mpmath.svd_r(product, compute_uv=False)))
    for method, certify in ROUTES:
        got = quiet(
            np.zeros(6), spectra.covariance(f1), np.zeros(6), spectra.covariance(f2), method=method, certify=certify
        )
        tol.check(got.trace_root, want, relative=tol.TRACE_FLOAT64, absolute=1e-300, what=f"{name}, {got.method}")


def coverage(d: int, count: int, seed: int) -> dict[str, float]:
    """Random pairs through every route; counts what the intervals hold and how far the pair they speak of is.

    The witness is the pair of factors that the interval is made for: its exact distance must lie inside, and it must be
    within (d + 24)·eps of the given covariances in the spectral norm: d·eps for what counts as zero, and LAPACK's own.
    """
    rng = np.random.default_rng([seed, d])
    factors = [spectra.random_batch(count, d, rng) for _ in range(2)]
    means = rng.standard_normal((2, count, d)) * 10.0 ** rng.uniform(-20, 20, (1, count, 1))
    found, witness, far = [], [[], []], 0.0
    for k in range(count):
        sides = [FrechetReference(means[s, k], spectra.covariance(factors[s][k])) for s in range(2)]
        method, certify = ROUTES[k % len(ROUTES)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            found.append(compare(*sides, method, certify=bool(certify), rtol=1e-5))
        for s, side in enumerate(sides):
            f = np.zeros((d, d), dtype=np.longdouble)
            f[:, : side.factor.rank] = side.factor.f.numpy().astype(np.longdouble) * side.factor.root_scale
            witness[s].append(f)
            given = side.matrix.numpy().astype(np.longdouble)
            norm = np.linalg.norm(given.astype(np.float64), 2) or 1.0
            gap = np.linalg.norm((f @ f.T - given).astype(np.float64) / norm, 2)
            far = max(far, float(gap) / ((d + 24) * tol.EPS))
    f1, f2 = (np.array(side) for side in witness)
    gap = means[0].astype(np.longdouble) - means[1]
    terms = (gap**2).sum(1) + (f1**2).sum((1, 2)) + (f2**2).sum((1, 2))
    root = spectra.exact_nuclear_norms(np.einsum("bki,bkj->bij", f1, f2))
    exact = terms - 2 * root
    lower, upper, value = (np.array([getattr(r, a) for r in found]) for a in ("lower", "upper", "value"))
    half = np.maximum((upper.astype(np.longdouble) - lower) / 2, 1e-300)
    return {
        "cases": count,
        "outside": int(((exact < lower) | (exact > upper)).sum()),
        "largest error / half width": float((np.abs(exact - value) / half).max()),
        "median half width / traces": float(np.median(half / terms)),
        "pair, units of (d + 24) eps": far,
    }


def check_coverage(found: dict[str, float]) -> None:
    assert found["outside"] == 0, found
    assert found["pair, units of (d + 24) eps"] <= tol.BACKWARD, found


extended = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > tol.EPS / 1000, reason="the truth needs a long double with more bits than float64"
)


@extended
@pytest.mark.parametrize(("d", "count"), [(1, 1600), (2, 2400), (3, 2400), (5, 2400), (8, 1600)])
def test_enclosure_holds_the_truth(d: int, count: int) -> None:
    check_coverage(coverage(d, count, 0))


@extended
@pytest.mark.slow
@pytest.mark.parametrize(("d", "count"), [(4, 6000), (16, 1000), (32, 300)])
def test_enclosure_holds_the_truth_longer(d: int, count: int) -> None:
    check_coverage(coverage(d, count, 1))


@extended
@pytest.mark.parametrize("d", [3, 6])
def test_enclosure_of_samples_holds_the_truth(d: int) -> None:
    rng = np.random.default_rng(d)
    for k in range(400):
        n = rng.integers(2, d + 1, 2)
        scale = 10.0 ** rng.uniform(-3, 0, d)
        x, y = (rng.standard_normal((m, d)) * scale + 100 * rng.uniform(size=d) for m in n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumericalWarning)
            got = fastfid.frechet_moments(
                fastfid.Moments.from_features(x), fastfid.Moments.from_features(y), certify=k % 2 == 0
            )
        assert got.method == "low-rank"
        exact, factors = np.longdouble(0), []
        for side in (x, y):
            wide = side.astype(np.longdouble)
            centred = wide - wide.mean(0)
            factors.append(centred / np.sqrt(np.longdouble(len(side) - 1)))
            exact += (factors[-1] ** 2).sum()
        gap = x.astype(np.longdouble).mean(0) - y.astype(np.longdouble).mean(0)
        product = (factors[0] @ factors[1].T)[None]
        tall = product if product.shape[1] >= product.shape[2] else product.transpose(0, 2, 1)
        root = spectra.exact_nuclear_norms(tall)[0]
        # the means are what Moments holds: float64, whose rounding the mean term does not include
        held = [fastfid.Moments.from_features(side).mean.numpy().astype(np.longdouble) for side in (x, y)]
        exact += ((held[0] - held[1]) ** 2).sum() - 2 * root
        assert got.lower <= exact <= got.upper
        tol.check(float(((held[0] - held[1]) ** 2).sum()), float((gap**2).sum()), relative=1e-9)


@pytest.mark.parametrize(("power1", "power2"), [(150, 150), (-150, -150), (150, -150), (-150, 150)])
@pytest.mark.parametrize("name", ["power law", "samples n<d, both", "logarithmic to 1e-10"])
def test_scaled_to_the_ends_of_float64(name: str, power1: int, power2: int) -> None:
    f1, f2 = spectra.pair(name, 24)
    want = nuclear_norm(f1.T @ f2) * 10.0 ** ((power1 + power2) / 2)
    zero = np.zeros(24)
    sigmas = spectra.covariance(f1) * 10.0**power1, spectra.covariance(f2) * 10.0**power2
    for method, certify in ROUTES:
        got = quiet(zero, sigmas[0], zero, sigmas[1], method=method, certify=certify)
        tol.check(got.trace_root, want, relative=tol.TRACE_FLOAT64)
        assert math.isfinite(got.lower)
        assert got.lower <= got <= got.upper
