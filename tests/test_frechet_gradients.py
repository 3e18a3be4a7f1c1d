"""Gradients of the trace, the nuclear norm and the loss; and that following them lowers the distance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import spectra
import tolerances as tol
import torch
from torch.autograd import gradcheck

import fastfid

Rng = np.random.Generator


def leaf(rng: Rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).requires_grad_()


@pytest.mark.parametrize("d", [1, 2, 5])
def test_trace_sqrtm_product_gradcheck(d: int, rng: Rng) -> None:
    eye = torch.eye(d, dtype=torch.float64)

    def value(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return fastfid.trace_sqrtm_product(a @ a.T + 0.1 * eye, b @ b.T + 0.1 * eye)

    assert gradcheck(value, (leaf(rng, d, d), leaf(rng, d, d)))


def test_trace_sqrtm_product_gradcheck_batched(rng: Rng) -> None:
    def value(a: torch.Tensor) -> torch.Tensor:
        return fastfid.trace_sqrtm_product(a @ a.mT, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))

    assert gradcheck(value, (leaf(rng, 2, 3, 3),))


def test_gradient_is_half_the_transport_map(rng: Rng) -> None:
    f1, f2 = rng.standard_normal((2, 6, 6))
    s1, s2 = (torch.from_numpy(spectra.covariance(f)).requires_grad_() for f in (f1, f2))
    fastfid.trace_sqrtm_product(s1, s2).backward()
    transport = 2 * s1.grad
    # T pushes N(0, Σ₁) to N(0, Σ₂): T Σ₁ T = Σ₂, T symmetric positive definite
    tol.check(transport @ s1.detach() @ transport, s2.detach(), relative=1e-9)
    tol.check(2 * s2.grad @ s2.detach() @ (2 * s2.grad), s1.detach(), relative=1e-9)
    assert float(torch.linalg.eigvalsh(transport)[0]) > 0


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_gradient_scales(scale: float, rng: Rng) -> None:
    f1, f2 = rng.standard_normal((2, 4, 4))
    gradients = []
    for factor in (1.0, scale):
        s1 = torch.from_numpy(spectra.covariance(f1) * factor).requires_grad_()
        fastfid.trace_sqrtm_product(s1, torch.from_numpy(spectra.covariance(f2))).backward()
        gradients.append(s1.grad)
    tol.check(gradients[1], gradients[0] / np.sqrt(scale), relative=1e-9)


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3), (2, 3, 3)], ids=str)
@pytest.mark.parametrize("method", ["svd", "newton-schulz"])
def test_nuclear_norm_gradcheck(shape: tuple[int, ...], method: str, rng: Rng) -> None:
    assert gradcheck(lambda m: fastfid.nuclear_norm(m, method=method), (leaf(rng, *shape),))


@pytest.mark.parametrize("n", [2, 4, 5, 6, 20])
def test_loss_gradcheck(n: int, rng: Rng) -> None:
    reference = fastfid.FrechetReference(np.ones(5), spectra.covariance(rng.standard_normal((5, 5))))
    assert gradcheck(lambda x: fastfid.frechet_loss(x, reference), (leaf(rng, n, 5),))


def test_loss_with_a_low_rank_reference_gradcheck(rng: Rng) -> None:
    reference = fastfid.Moments.from_features(rng.standard_normal((4, 6)))
    assert reference.rows is not None
    assert gradcheck(lambda x: fastfid.frechet_loss(x, reference), (leaf(rng, 4, 6),))


@pytest.mark.parametrize("n", [3, 8, 40])
@pytest.mark.parametrize("ddof", [0, 1])
def test_loss_equals_the_distance(n: int, ddof: int, rng: Rng) -> None:
    x = rng.standard_normal((n, 8)) + 2
    reference = fastfid.Moments.from_features(rng.standard_normal((30, 8)))
    want = fastfid.frechet_moments(reference, fastfid.Moments.from_features(x), ddof=(1, ddof), certify=True)
    got = fastfid.frechet_loss(torch.from_numpy(x), reference, ddof=ddof)
    tol.check(got, float(want), relative=1e-10)
    pair = (reference.mean, reference.cov())
    tol.check(fastfid.frechet_loss(torch.from_numpy(x).float(), pair, ddof=ddof), float(want), relative=1e-5)


@pytest.mark.parametrize("n", [6, 64])
def test_gradient_descent_lowers_the_distance(n: int, rng: Rng) -> None:
    d = 12
    reference = fastfid.FrechetReference(np.full(d, 0.5), spectra.covariance(spectra.pair("power law", d)[0]))
    x = torch.from_numpy(rng.standard_normal((n, d))).float().requires_grad_()
    values = []
    for _ in range(50):
        loss = fastfid.frechet_loss(x, reference)
        (gradient,) = torch.autograd.grad(loss, x)
        assert gradient.dtype == torch.float32
        values.append(float(loss.detach()))
        with torch.no_grad():
            x -= 0.1 * n * gradient
    independent = fastfid.frechet(
        reference.mean,
        reference.matrix,
        x.detach().double().mean(0),
        np.cov(x.detach().double().numpy().T),
        certify=True,
    )
    assert all(b < a for a, b in itertools.pairwise(values))
    assert float(independent) < tol.GRADIENT_DESCENT * values[0]
    assert float(independent) <= values[-1]


def test_bad_input_is_named(rng: Rng) -> None:
    reference = fastfid.FrechetReference(np.zeros(3), np.eye(3))
    with pytest.raises(TypeError, match="features: ndarray"):
        fastfid.frechet_loss(np.zeros((4, 3)), reference)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"features: shape \[4, 2\]; accepted: \[n, 3\]"):
        fastfid.frechet_loss(torch.zeros(4, 2), reference)
    with pytest.raises(ValueError, match="at least 2"):
        fastfid.frechet_loss(torch.zeros(1, 3), reference)
    with pytest.raises(ValueError, match="NaN or infinity"):
        fastfid.frechet_loss(torch.full((4, 3), torch.nan), reference)
    with pytest.raises(TypeError, match="reference: int"):
        fastfid.frechet_loss(torch.zeros(4, 3), 1)  # type: ignore[arg-type]


X = torch.ones(4, 3)
NO_FEATURES = {
    "sparse": X.to_sparse(),
    "meta": X.to("meta"),
    "float8": X.to(torch.float8_e5m2),
    "integers": X.long(),
    "complex": X + 0j,
    "array": X.numpy(),
    "None": None,
    "text": "abc",
}


@pytest.mark.parametrize("kind", NO_FEATURES)
def test_features_without_a_gradient_are_named(kind: str) -> None:
    reference = fastfid.FrechetReference(np.zeros(3), np.eye(3))
    with pytest.raises(TypeError, match=r"^features: .*accepted"):
        fastfid.frechet_loss(NO_FEATURES[kind], reference)
    with pytest.raises(TypeError, match=r"^features: .*accepted"):
        fastfid.Moments().update(None if kind == "array" else NO_FEATURES[kind])
