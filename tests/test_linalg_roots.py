"""sqrtm: symmetric, products of two covariances, general; and what has no principal root."""

from __future__ import annotations

import numpy as np
import pytest
import spectra
import tolerances as tol
import torch

import fastfid
from fastfid.errors import NotPSDError
from fastfid.reference import linalg as plain

Rng = np.random.Generator


def residual(x: np.ndarray, a: np.ndarray) -> float:
    """‖x² − a‖_F in units of d·eps·‖x‖_F², the test ratio of Higham, Functions of Matrices, (6.6)."""
    scale = np.linalg.norm(x) ** 2 * len(x) * tol.EPS
    return float(np.linalg.norm(x @ x - a) / scale) if scale else float(np.linalg.norm(a))


@pytest.mark.parametrize("d", [1, 2, 17, 60])
@pytest.mark.parametrize("name", spectra.SPECTRA)
def test_symmetric(name: str, d: int) -> None:
    sigma = spectra.covariance(spectra.pair(name, d)[0])
    x = fastfid.sqrtm(sigma)
    np.testing.assert_array_equal(x, x.T)
    assert residual(x, sigma) <= tol.ROOT
    assert np.linalg.eigvalsh(x)[0] >= -d * tol.EPS * np.linalg.norm(x)
    tol.check(x @ x, plain.sqrtm(sigma) @ plain.sqrtm(sigma), relative=1e-12, absolute=1e-300)


def test_exact_on_diagonals() -> None:
    values = np.array([0.0, 1.0, 2.0, 1e-300, 1e300, 49.0])
    np.testing.assert_array_equal(fastfid.sqrtm(np.diag(values)), np.diag(np.sqrt(values)))


@pytest.mark.parametrize("d", [1, 2, 17, 60])
@pytest.mark.parametrize("name", spectra.SPECTRA)
def test_product_of_covariances(name: str, d: int) -> None:
    f1, f2 = spectra.pair(name, d)
    s1, s2 = spectra.covariance(f1), spectra.covariance(f2)
    x = fastfid.sqrtm(s1, s2)
    # backward: the factors are exact for a pair within d·eps, so the square is off by that of the product of norms
    scale = np.linalg.norm(s1, 2) * np.linalg.norm(s2, 2) * (d + 24) * tol.EPS
    assert np.linalg.norm(x @ x - s1 @ s2, 2) <= tol.ROOT * scale + 1e-300
    tol.check(np.trace(x), fastfid.trace_sqrtm_product(s1, s2), relative=tol.TRACE_FLOAT64, absolute=1e-300)


def test_singular_product_given_as_one_matrix(rng: Rng) -> None:
    a, b = rng.standard_normal((6, 3)), rng.standard_normal((6, 4))
    product = a @ a.T @ (b @ b.T)
    x = fastfid.sqrtm(product)
    tol.check(x @ x, product, relative=1e-12)
    tol.check(np.trace(x), np.linalg.svd(a.T @ b, compute_uv=False).sum(), relative=1e-9)


@pytest.mark.parametrize("d", [1, 2, 9, 50])
def test_general(d: int, rng: Rng) -> None:
    for _ in range(5):
        y = rng.standard_normal((d, d)) / np.sqrt(d) + 4 * np.eye(d)  # spectrum in the right half-plane
        a = y @ y
        x = fastfid.sqrtm(a)
        tol.check(x, y, relative=1e-11)
        assert np.linalg.norm(x @ x - a) <= 1e-12 * np.linalg.norm(a)


def test_rotations_have_the_half_angle() -> None:
    for angle in (0.1, 1.5, 3.0):
        turn = lambda t: np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])  # noqa: E731
        tol.check(fastfid.sqrtm(turn(angle)), turn(angle / 2), relative=1e-12)


def test_homogeneous(rng: Rng) -> None:
    a = rng.standard_normal((5, 5)) / 3 + 2 * np.eye(5)
    for power in (-100, -3, 5, 100):
        tol.check(fastfid.sqrtm(a * 4.0**power), fastfid.sqrtm(a) * 2.0**power, relative=1e-13)


@pytest.mark.parametrize(
    "a",
    [
        [[0.0, 1.0], [0.0, 0.0]],
        [[-1.0, 1.0], [0.0, -2.0]],
        [[-1.0, 1e-3, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]],
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]],
    ],
    ids=["nilpotent", "negative", "one negative", "jordan 3"],
)
def test_no_principal_root(a: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="no principal square root"):
        fastfid.sqrtm(np.array(a))


def test_symmetric_with_a_negative_eigenvalue() -> None:
    with pytest.raises(NotPSDError, match="eigenvalue -1"):
        fastfid.sqrtm(-np.eye(3))


def test_batches_kinds_and_inputs_unchanged(rng: Rng) -> None:
    f = rng.standard_normal((2, 3, 5, 5))
    sigma = f @ f.swapaxes(-1, -2)
    before = sigma.copy()
    x = fastfid.sqrtm(sigma)
    assert isinstance(x, np.ndarray)
    assert x.shape == sigma.shape
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(x[i, j], fastfid.sqrtm(sigma[i, j]))
    np.testing.assert_array_equal(sigma, before)
    single = torch.from_numpy(sigma).float()
    y = fastfid.sqrtm(single)
    assert (type(y), y.dtype) == (torch.Tensor, torch.float32)
    tol.check(y, x, relative=1e-5)
    assert fastfid.sqrtm(np.zeros((0, 3, 3))).shape == (0, 3, 3)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"a: matrices \[2, 3\]"):
        fastfid.sqrtm(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="a: NaN"):
        fastfid.sqrtm(np.full((2, 2), np.inf))
    with pytest.raises(ValueError, match="b: 1 matrices"):
        fastfid.sqrtm(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="b: not symmetric"):
        fastfid.sqrtm(np.eye(2), np.array([[1.0, 1.0], [0.0, 1.0]]))
