"""Factors, enclosures and the constants they rest on."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import spectra
import tolerances as tol
import torch

from fastfid.errors import NotPSDError
from fastfid.linalg import enclosure, halves
from fastfid.linalg.factors import _smallest_eigenvalue, factor, factor_of_rows, scaled
from fastfid.runtime.matrices import covariance

Rng = np.random.Generator


@pytest.mark.parametrize("d", [1, 2, 5, 33, 120])
@pytest.mark.parametrize("name", spectra.SPECTRA)
def test_factor_backward_error(name: str, d: int) -> None:
    for f in spectra.pair(name, d):
        sigma = torch.from_numpy(spectra.covariance(f))
        made = factor(sigma, "sigma")
        back = made.f @ made.f.T * made.root_scale**2
        norm = float(torch.linalg.matrix_norm(sigma, 2)) or 1.0
        ratio = float(torch.linalg.matrix_norm(back - sigma, 2)) / (norm * (d + 24) * tol.EPS)
        assert ratio <= tol.BACKWARD
        left_out = d * d * tol.EPS * norm / made.root_scale**2
        assert abs(made.trace - float(made.f.square().sum())) <= made.trace_rounding + left_out
        assert made.note is None


@pytest.mark.parametrize(("d", "rank"), [(64, 64), (64, 63), (64, 10), (200, 120), (5, 0)])
def test_rank_is_revealed(d: int, rank: int, rng: Rng) -> None:
    f = rng.standard_normal((d, rank))
    assert factor(torch.from_numpy(spectra.covariance(f)), "sigma").rank == rank


def test_singular_matrices_on_which_cholesky_happens_to_succeed_are_still_truncated() -> None:
    through = 0
    for seed in range(60):
        f = np.random.default_rng(seed).standard_normal((6, 5))
        sigma = torch.from_numpy(spectra.covariance(f))
        through += int(torch.linalg.cholesky_ex(sigma).info) == 0
        assert factor(sigma, "sigma").rank == 5
    assert through > 0


@pytest.mark.parametrize("d", [2, 5, 40, 300])
def test_estimate_of_the_smallest_eigenvalue(d: int, rng: Rng) -> None:
    for values in (
        np.arange(1.0, d + 1) ** -2,
        np.r_[np.ones(d - 1), 1e-10],
        np.r_[np.ones(d - d // 2), np.full(d // 2, 1e-10)],
        np.logspace(0, -10, d),
        np.linspace(1, 1e-10, d),
    ):
        sigma = torch.from_numpy(spectra.covariance(spectra.orthogonal(d, rng) * np.sqrt(values)))
        got, trace = _smallest_eigenvalue(torch.linalg.cholesky(sigma))
        true = float(torch.linalg.inv(sigma).trace())
        assert true / 60 <= trace <= 60 * true  # an estimate from four vectors, used for probable bounds only
        want = float(torch.linalg.eigvalsh(sigma)[0])
        assert want * (1 - 1e-5) <= got <= 2 * want


@pytest.mark.parametrize("power", [-300, -150, -7, 0, 9, 150, 300])
def test_scaling_is_exact(power: int, rng: Rng) -> None:
    sigma = torch.from_numpy(spectra.covariance(rng.standard_normal((4, 4)))) * 10.0**power
    small, root = scaled(sigma)
    assert 0.25 <= float(small.abs().max()) <= 4.0
    assert math.frexp(root)[0] == 0.5
    assert torch.equal(small * root * root, sigma)


def test_indefinite_matrices_are_named() -> None:
    with pytest.raises(NotPSDError, match="sigma2: not positive semi-definite: eigenvalues from -1"):
        factor(torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)), "sigma2")


@pytest.mark.parametrize(("n", "d"), [(2, 5), (5, 5), (40, 90), (90, 40)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_factor_of_rows(n: int, d: int, ddof: int, rng: Rng) -> None:
    x = rng.standard_normal((n, d)) + 1000.0
    made = factor_of_rows(torch.from_numpy(x), n - ddof)
    assert made.f.shape == (d, n - 1)
    got = (made.f @ made.f.T * made.root_scale**2).numpy()
    tol.check(got, np.cov(x.T, ddof=ddof).reshape(d, d), relative=1e-12)
    assert abs(made.trace - float(made.f.square().sum())) <= made.trace_rounding


@pytest.mark.parametrize("k", [1, 2, 127, 128, 129, 1024, 8192])
@pytest.mark.parametrize("values", ["constant", "few", "normal"])
def test_product_is_within_its_gamma(k: int, values: str, rng: Rng) -> None:
    """Systematic rounding is the hard case: a constant column rounds to the same side every time."""
    worst = 0.0
    for _ in range(5):
        a, b = (_column(values, k, rng) for _ in range(2))
        exact = math.fsum(_exact_products(a, b))
        got = float(enclosure.product(torch.from_numpy(a)[None], torch.from_numpy(b)[:, None]))
        worst = max(worst, abs(got - exact) / float(np.abs(a) @ np.abs(b)))
    assert worst <= enclosure.product_gamma(k) + 1.1 * enclosure.UNIT  # the truth is rounded once
    assert enclosure.product_gamma(k) <= (130 + k / 128) * enclosure.UNIT * (1 + 1e-9)
    assert enclosure.product_gamma(k) >= min(k, 128) * enclosure.UNIT


def _column(values: str, k: int, rng: Rng) -> np.ndarray:
    if values == "constant":
        return np.full(k, rng.uniform(0.5, 1))
    return rng.choice(rng.uniform(0.5, 1, 3), k) if values == "few" else rng.standard_normal(k)


def _exact_products(a: np.ndarray, b: np.ndarray) -> list[float]:
    """aᵢbᵢ as two floats each, without error (Veltkamp and Dekker)."""
    out = []
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        p = x * y
        halves = []
        for v in (x, y):
            c = 134217729.0 * v
            high = c - (c - v)
            halves.append((high, v - high))
        (xh, xl), (yh, yl) = halves
        out += [p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl]
    return out


@pytest.mark.parametrize("p", [1, 2, 3, 7, 64, 1000, 4095])
def test_column_sums_are_within_their_gamma(p: int, rng: Rng) -> None:
    for x in (np.full((p, 2), 0.1), rng.standard_normal((p, 2))):
        got = enclosure.column_sums(torch.from_numpy(x)).numpy()
        for k in range(2):
            error = abs(got[k] - math.fsum(x[:, k].tolist()))
            assert error <= enclosure.sum_gamma(p) * math.fsum(np.abs(x[:, k]).tolist())
    assert enclosure.sum_gamma(p) <= (2 * math.log2(p) + 5) * enclosure.UNIT


@pytest.mark.parametrize(("d", "k"), [(1, 1), (5, 3), (40, 40), (7, 300), (130, 2)])
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("kind", ["plain", "signed", "triangular"])
def test_gram_gap_is_the_gap(
    d: int, k: int, kind: str, blocked: bool, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integers of 30 bits: F S Fᵀ is exact in Python and needs 60 bits or so; the gap to its rounding is measured."""
    if blocked:
        monkeypatch.setattr(halves, "_BLOCKED", 1)
    signed, triangular = kind == "signed", kind == "triangular"
    k = d if triangular else k
    whole = rng.integers(-(2**30), 2**30, (d, k))
    whole = np.tril(whole) if triangular else whole
    signs = np.where(rng.uniform(size=k) < 0.3, -1, 1) if signed else np.ones(k, int)
    exact = (whole.astype(object) * signs) @ whole.T.astype(object)
    rounded = np.array([[float(v) for v in row] for row in exact])
    gap = np.array(
        [
            [float(int(r) - v) for r, v in zip(given, row, strict=True)]
            for given, row in zip(rounded, exact, strict=True)
        ]
    )
    f = torch.from_numpy(whole * 2.0**-30)
    for powers in (0, 3):
        signs_given = torch.from_numpy(signs * 1.0) if signed else None
        target = torch.from_numpy(rounded * 2.0**-60)
        frobenius, spectral = enclosure.gram_gap(target, f, signs_given, triangular=triangular, powers=powers)
        true_frobenius, true_spectral = np.linalg.norm(gap) * 2.0**-60, np.linalg.norm(gap, 2) * 2.0**-60
        size = float(f.square().sum())
        assert true_frobenius * (1 - 1e-9) <= frobenius <= true_frobenius * 1.001 + 1e-19 * size
        assert (
            true_spectral * (1 - 1e-9)
            <= spectral
            <= true_spectral * (1.9 if powers else math.sqrt(d) * 1.01) + 1e-19 * size
        )
    assert enclosure.gram_gap(torch.eye(3, dtype=torch.float64), torch.zeros(3, 0, dtype=torch.float64))[
        0
    ] >= math.sqrt(3)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 40), (3, 3), (8, 20), (30, 30)])
def test_from_vectors_holds_for_any_vectors(p: int, q: int, rng: Rng) -> None:
    """Vectors that are off by t cost t² on both sides, no more and, t large against rounding, no less than nothing."""
    for k in range(4 if p < 30 else 2):
        m = rng.standard_normal((p, q)) * 10.0 ** -rng.uniform(0, 3, (p, 1))
        with mpmath.workdps(40):
            want = mpmath.fsum(mpmath.svd_r(mpmath.matrix(m.tolist()), compute_uv=False))
        u = np.linalg.svd(m, full_matrices=False)[0]
        tilt = [0.0, 1e-9, 1e-5, 1e-2][k % 4]
        v = u + tilt * rng.standard_normal((p, p)) / p
        got = enclosure.from_vectors(torch.from_numpy(m), torch.from_numpy(v), 0.0)
        assert got.lower <= want <= got.upper
        if tilt <= 1e-5:
            spread = np.linalg.cond(m)
            assert got.width <= (3e-14 * p + 40 * (tilt * spread) ** 2) * got.value
    rounding = 1e-3
    got = enclosure.from_vectors(torch.from_numpy(m), torch.from_numpy(u), rounding)
    assert got.upper - want >= rounding * math.sqrt(p) * (1 - 1e-6)
    assert want - got.lower >= min(rounding * math.sqrt(p) * (1 - 1e-6), float(want))
    useless = enclosure.from_vectors(torch.from_numpy(m), torch.full((p, p), 3.0, dtype=torch.float64), 0.0)
    assert (useless.lower, useless.upper) == (0.0, math.inf)


@pytest.mark.parametrize("name", spectra.SPECTRA)
@pytest.mark.parametrize("d", [1, 4, 9])
def test_proven_factors_are_as_near_as_they_say(name: str, d: int) -> None:
    """−below ⪯ Σ₊ − F Fᵀ ⪯ above, tr Σ₊ and the inverse, in 50 digits; and not 1e3 times wider than float64 gives."""
    for f in spectra.pair(name, d):
        sigma = spectra.covariance(f)
        made = factor(torch.from_numpy(sigma), "sigma", proven=True)
        with mpmath.workdps(50):
            values, vectors = mpmath.eigsy(mpmath.matrix(sigma.tolist()))
            clipped = [max(v, mpmath.mpf(0)) for v in values]
            scale = mpmath.mpf(made.root_scale) ** 2
            factor_ = mpmath.matrix(made.f.tolist()) if made.rank else mpmath.zeros(d, 1)
            gap = vectors * mpmath.diag(clipped) * vectors.T / scale - factor_ * factor_.T
            ends = mpmath.eigsy((gap + gap.T) / 2, eigvals_only=True)
            assert -made.below <= min(ends)
            assert max(ends) <= made.above
            size = float(max(clipped) / scale)
            assert max(made.below, made.above) <= (d + 300) * tol.EPS * size + 1e-140
            assert abs(mpmath.fsum(clipped) / scale - made.trace) <= made.trace_rounding
            assert made.trace_rounding <= 300 * d * tol.EPS * made.trace + 1e-140
            if math.isfinite(made.inverse):
                inverse = (factor_ * factor_.T) ** -1
                true = mpmath.fsum(inverse[i, i] for i in range(d))
                assert true <= made.inverse <= true * 1.01
                for i in range(d):
                    assert inverse[i, i] <= float(made.inverse_diagonal[i]) <= inverse[i, i] * 1.01


def test_gram_enclosure_holds_for_every_perturbation_it_allows(rng: Rng) -> None:
    for _ in range(300):
        k = int(rng.integers(1, 12))
        exact = np.sort(10.0 ** rng.uniform(-20, 0, k) * (rng.uniform(size=k) > 0.2))
        shift = rng.standard_normal(k)
        size = 10.0 ** rng.uniform(-16, -3)
        moved = exact + size * shift / np.linalg.norm(shift)
        got = enclosure.from_gram_eigenvalues(torch.from_numpy(moved), size)
        assert got.lower <= np.sqrt(exact).sum() <= got.upper


@pytest.mark.parametrize("shape", [(1,), (5,), (613,), (2, 530)])
def test_halves_are_parts_of_the_whole(shape: tuple[int, ...], rng: Rng) -> None:
    """Of integers, whose products are exact, so that every order of summation gives the same bits."""
    n = shape[-1]
    a, b = (torch.from_numpy(rng.integers(-9, 10, (*shape, n)).astype(float)).tril() for _ in range(2))
    wide = torch.from_numpy(rng.integers(-9, 10, (*shape, 40)).astype(float))
    for multiply in (torch.matmul, enclosure.product):
        assert torch.equal(halves.lower_outer(wide, -wide, multiply=multiply).tril(), -(wide @ wide.mT).tril())
        assert torch.equal(halves.lower_outer(a, b, triangular=True, multiply=multiply).tril(), (a @ b.mT).tril())
        assert torch.equal(halves.lower_product(a, b, multiply=multiply), a @ b)
        if len(shape) == 1:
            for triangular in itertools.product((False, True), repeat=2):
                given = [x if low else x + wide[:, :1] for x, low in zip((a, b), triangular, strict=True)]
                made = halves.transposed_product(*given, triangular=triangular, multiply=multiply)
                assert torch.equal(made, given[0].T @ given[1])
    half = (a @ a.mT).tril()
    assert torch.equal(halves.mirrored(half + wide[..., :1].expand_as(half).triu(1)), a @ a.mT)
    ones = torch.eye(n, dtype=torch.float64) + torch.diag(torch.full((n - 1,), 2.0, dtype=torch.float64), -1)
    found = halves.inverse(ones[:40, :40].expand(*shape[:-1], -1, -1)) @ ones[:40, :40]
    assert torch.equal(found, torch.eye(min(n, 40), dtype=torch.float64).expand_as(found))
    low = a / 100 + torch.eye(n, dtype=torch.float64) * 3
    inverse = halves.inverse(low)
    assert torch.equal(inverse, inverse.tril())
    tol.check(inverse @ low, torch.eye(n, dtype=torch.float64).expand_as(low), relative=0.0, absolute=1e-11)


def test_halves_leave_out_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work that is done, in multiplications, against a full product's."""
    done = 0

    def counted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += a.shape[0] * a.shape[1] * b.shape[1]
        return a @ b

    n = 512
    a, both = torch.eye(n, dtype=torch.float64), (True, True)
    for share, call in (
        (0.57, lambda: halves.lower_outer(a, a, multiply=counted)),
        (0.24, lambda: halves.lower_outer(a, a, triangular=True, multiply=counted)),
        (0.24, lambda: halves.lower_product(a, a, multiply=counted)),
        (0.40, lambda: halves.transposed_product(a, a, triangular=both, multiply=counted)),
        (0.57, lambda: halves.transposed_product(a, a, triangular=(True, False), multiply=counted)),
    ):
        done = 0
        call()
        assert done <= share * n**3


def test_covariance_symmetrises_only_rounding(rng: Rng) -> None:
    sigma = spectra.covariance(rng.standard_normal((5, 5)))
    assert covariance(sigma, "s").note is None
    bumped = sigma.copy()
    bumped[0, 1] += 1e-8
    got = covariance(bumped, "s")
    assert got.note is not None
    assert torch.equal(got.matrix, got.matrix.T)
    bumped[0, 1] += 1e-3
    with pytest.raises(ValueError, match="s: not symmetric"):
        covariance(bumped, "s")
