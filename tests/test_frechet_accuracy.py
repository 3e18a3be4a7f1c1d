"""How near the distance comes to the truth: the singular values of the factors the covariances were made of, mpmath.

That intervals hold the exact distance of the matrices given: tests/test_frechet_bounds.py.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import spectra
import tolerances as tol

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
