"""Factors, enclosures and the constants they rest on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import spectra
import tolerances as tol
import torch

from fastfid.errors import NotPSDError
from fastfid.linalg import enclosure, nuclear
from fastfid.linalg.factors import _smallest_eigenvalue, factor, factor_of_rows, scaled
from fastfid.linalg.inputs import covariance

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
        assert abs(made.trace - float(made.f.square().sum())) <= made.trace_rounding
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
        got = _smallest_eigenvalue(torch.linalg.cholesky(sigma))
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


@pytest.mark.parametrize("k", [3, 20, 150])
def test_solver_backward_error(k: int, rng: Rng) -> None:
    # matrices with exactly known eigenvalues: H diag(integers) H with a Hadamard-like exact reflection
    values = np.sort(rng.integers(-1000, 1000, k).astype(np.float64))
    v = np.zeros(k)
    v[:2] = 1.0  # I − vvᵀ swaps and negates two axes: exact in float64
    reflection = np.eye(k) - np.outer(v, v)
    exact = reflection @ np.diag(rng.permutation(values)) @ reflection
    got = torch.linalg.eigvalsh(torch.from_numpy(exact)).numpy()
    unit = enclosure.solver_rounding(k) * np.linalg.norm(exact)
    assert np.linalg.norm(got - values) <= tol.SOLVER * unit
    got = torch.linalg.svdvals(torch.from_numpy(exact)).numpy()
    assert np.linalg.norm(np.sort(got) - np.sort(np.abs(values))) <= tol.SOLVER * unit
    # and dense ones, against a rotation in extended precision
    q = spectra.orthogonal(k, rng).astype(np.longdouble)
    for _ in range(3):  # Newton–Schulz in extended precision makes q orthogonal to its rounding
        q = q @ (1.5 * np.eye(k, dtype=np.longdouble) - 0.5 * (q.T @ q))
    dense = ((q * values) @ q.T).astype(np.float64)
    got = torch.linalg.eigvalsh(torch.from_numpy((dense + dense.T) / 2)).numpy()
    rounding = tol.EPS * np.linalg.norm(dense)  # of the matrix itself, when it became float64
    assert np.linalg.norm(got - values) <= tol.SOLVER * enclosure.solver_rounding(k) * np.linalg.norm(dense) + rounding


@pytest.mark.parametrize("k", [1, 3, 17, 200, 1500])
def test_product_rounding_model(k: int, rng: Rng) -> None:
    a, b = rng.standard_normal((2, 12, k))
    exact = a.astype(np.longdouble) @ b.T.astype(np.longdouble)
    got = (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy()
    bound = enclosure.product_rounding(k) * np.linalg.norm(a) * np.linalg.norm(b)
    assert float(np.sqrt(((got - exact) ** 2).sum())) <= bound


def test_gram_enclosure_holds_for_every_perturbation_it_allows(rng: Rng) -> None:
    for _ in range(300):
        k = int(rng.integers(1, 12))
        exact = np.sort(10.0 ** rng.uniform(-20, 0, k) * (rng.uniform(size=k) > 0.2))
        shift = rng.standard_normal(k)
        size = 10.0 ** rng.uniform(-16, -3)
        moved = exact + size * shift / np.linalg.norm(shift)
        got = enclosure.from_gram_eigenvalues(torch.from_numpy(moved), size)
        assert got.lower <= np.sqrt(exact).sum() <= got.upper


def test_singular_value_enclosure_of_a_perturbed_matrix(rng: Rng) -> None:
    for _ in range(200):
        m, e = rng.standard_normal((2, 4, 4))
        e *= 10.0 ** rng.uniform(-12, 0) / np.linalg.norm(e)
        got = nuclear.by_singular_values(torch.from_numpy(m + e), float(np.linalg.norm(e)))
        assert got.lower <= np.linalg.svd(m, compute_uv=False).sum() <= got.upper


def test_lower_product_is_the_lower_half(rng: Rng) -> None:
    m = torch.from_numpy(rng.standard_normal((613, 40)))
    tol.check(nuclear._lower_product(m).tril(), (m @ m.T).tril(), relative=1e-14)


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
