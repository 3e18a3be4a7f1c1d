"""Principal square roots.

Symmetric positive semi-definite A = V Λ Vᵀ:   A^½ = V Λ^½ Vᵀ.

Product of two, with Σᵢ = FᵢFᵢᵀ and the polar decomposition F₁ᵀF₂ = W H:   (Σ₁Σ₂)^½ = F₁ W F₂ᵀ. Squared this is
F₁ W Mᵀ W F₂ᵀ = F₁ M F₂ᵀ = Σ₁Σ₂, since W Mᵀ W = M. Nothing is inverted, so singular factors are no trouble.

General A without eigenvalues on the closed negative real axis: the product form of the Denman–Beavers iteration with
determinantal scaling μ,

    M ← ½ (I + ½ (μ² M + μ⁻² M⁻¹)),      X ← ½ μ X (I + μ⁻² M⁻¹),      M₀ = X₀ = A,

in which X tends to A^½ and M to I quadratically, followed by a check of ‖X² − A‖. A singular but diagonalisable A (the
product of two singular covariances, given as one matrix) goes through its eigenvectors, and the same check.

Source: Higham, *Functions of Matrices* (SIAM 2008), equation (6.29) and section 6.5; Cheng, Higham, Kenney & Laub, SIAM
J. Matrix Anal. 22 (2001) 1112-1125, doi:10.1137/S0895479899364015.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from fastfid.errors import NotPSDError, NumericalWarning
from fastfid.linalg.factors import factor
from fastfid.linalg.inputs import EPS, covariance
from fastfid.linalg.polar_factor import as_batch, polar

_STEPS = 60
"""Quadratic convergence needs about ten; what has not converged by then has no principal root in this arithmetic."""

_UNSCALED = 1e-2
"""Below this ‖M − I‖_F scaling no longer helps and would disturb the quadratic convergence."""

_RESIDUAL = 1e-6
"""Largest accepted ‖X² − A‖_F / ‖A‖_F; a well-conditioned root reaches 1e-15."""

_GOOD = 1e-11
"""Residual above which a warning says so."""


def sqrtm(a: Any, b: Any = None) -> Any:
    """The principal square root of a matrix, or of the product of two covariances.

    Args:
        a: [..., d, d] float32 or float64, NumPy or torch. Exactly symmetric input is taken to be positive semi-definite
            and gives an exactly symmetric root, element by element for a diagonal matrix. Anything else is a general
            matrix, which must not have eigenvalues on the closed negative real axis.
        b: with it, ``a`` and ``b`` are covariances of equal shape, and the root is that of a @ b. This also works where
            they are singular, and never yields a complex number.

    Returns:
        X [..., d, d] with X @ X = a (or a @ b), of the kind, dtype and device of a.

    Raises:
        NotPSDError: symmetric input with an eigenvalue below zero by more than rounding.
        ValueError: NaN or infinity, not square, or a general matrix without a principal root in float64.

    Warns:
        NumericalWarning: a general matrix so ill-conditioned that the residual exceeds 1e-11.

    Numerics:
        ‖X² − A‖_F ≤ 10 d eps ‖X‖_F² for symmetric input, ‖X² − AB‖₂ ≤ 10 (d + 24) eps ‖A‖₂‖B‖₂ for products and
        ≤ 1e-12 ‖A‖_F for well-conditioned general input (tests/test_linalg_roots.py).

    Source: Higham, *Functions of Matrices* (SIAM 2008), chapter 6; in place of ``scipy.linalg.sqrtm``.
    """
    batch, restore = as_batch(a, "a")
    _check_square(batch, "a")
    if b is not None:
        other, _ = as_batch(b, "b")
        if other.shape != batch.shape:
            raise ValueError(
                f"b: {other.shape[0]} matrices {list(other.shape[1:])}; accepted: as many of the shape of a"
            )
        other = other.to(batch.device)
        return restore(_stack([_product_root(x, y) for x, y in zip(batch, other, strict=True)], batch))
    return restore(_stack([_root(one) for one in batch], batch))


def _stack(roots: list[torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    return torch.stack(roots) if roots else torch.empty_like(batch)


def _check_square(batch: torch.Tensor, argument: str) -> None:
    if batch.shape[-1] != batch.shape[-2]:
        raise ValueError(f"{argument}: matrices {list(batch.shape[-2:])}; accepted: [..., d, d]")


def _root(a: torch.Tensor) -> torch.Tensor:
    if a.numel() == 0:
        return a.clone()
    return _symmetric_root(a) if torch.equal(a, a.T) else _general_root(a)


def _symmetric_root(a: torch.Tensor) -> torch.Tensor:
    diagonal = a.diagonal()
    if torch.equal(a, torch.diag(diagonal)):
        values, vectors = diagonal, None
    else:
        values, vectors = torch.linalg.eigh(a)
    smallest, largest = float(values.min()), float(values.abs().max())
    if smallest < -a.shape[0] * EPS * largest:
        raise NotPSDError(
            f"a: symmetric with eigenvalue {smallest:.3e} (largest {largest:.3e}); accepted: positive semi-definite, "
            "since a negative eigenvalue leaves no real principal root"
        )
    if vectors is None:  # math.sqrt is correctly rounded; torch's vectorised root on a CPU may be off by one unit
        return torch.diag(torch.tensor([math.sqrt(max(v, 0.0)) for v in values.tolist()], dtype=a.dtype)).to(a.device)
    half = vectors * values.clamp_min(0.0).sqrt().sqrt()
    x = half @ half.T
    return torch.tril(x) + torch.tril(x, -1).T


def _product_root(sigma1: torch.Tensor, sigma2: torch.Tensor) -> torch.Tensor:
    f1 = factor(covariance(sigma1, "a").matrix, "a")
    f2 = factor(covariance(sigma2, "b").matrix, "b")
    w = polar(f1.f.T @ f2.f).u
    root: torch.Tensor = (f1.f @ w @ f2.f.T) * (f1.root_scale * f2.root_scale)
    return root


def _general_root(a: torch.Tensor) -> torch.Tensor:
    d = a.shape[0]
    norm = float(torch.linalg.matrix_norm(a))
    scale = math.ldexp(1.0, 2 * (math.frexp(norm)[1] // 2))
    eye = torch.eye(d, dtype=a.dtype, device=a.device)
    m = x = a / scale
    gap = math.inf
    for _ in range(_STEPS):
        inverse, info = torch.linalg.inv_ex(m)
        if int(info) != 0:
            break
        mu2 = 1.0
        if gap > _UNSCALED:
            mu2 = math.exp(-float(torch.linalg.slogdet(m).logabsdet) / d)
        x = (math.sqrt(mu2) / 2) * (x + (x @ inverse) / mu2)
        m = (eye + (mu2 * m + inverse / mu2) / 2) / 2
        before, gap = gap, float(torch.linalg.matrix_norm(m - eye))
        if not math.isfinite(gap) or gap <= d * EPS or (gap < 1e-6 and gap >= before / 2):
            break
    residual = _residual(x, a / scale) if gap <= _RESIDUAL else math.inf
    if not residual <= _GOOD:
        other = _semisimple_root(a / scale)
        if not _residual(other, a / scale) >= residual:
            x, residual = other, _residual(other, a / scale)
    if not residual <= _RESIDUAL:
        raise ValueError(
            f"a: no principal square root found (best residual {residual:.1e} of ‖a‖). Accepted: no eigenvalue on the "
            "negative real axis and none at zero in a Jordan block"
        )
    if residual > _GOOD:
        warnings.warn(f"sqrtm: ill-conditioned, the residual is {residual:.1e} of ‖a‖", NumericalWarning, stacklevel=4)
    return x * math.sqrt(scale)


def _semisimple_root(a: torch.Tensor) -> torch.Tensor:
    """V Λ^½ V⁻¹ for what is singular but diagonalisable (a product of two covariances); not finite where that fails."""
    values, vectors = torch.linalg.eig(a)
    largest = float(values.abs().max())
    zero = a.shape[0] * EPS * largest
    negative = (values.real < -zero) & (values.imag.abs() <= 1e-9 * largest)
    if bool(negative.any()):
        return torch.full_like(a, math.nan)
    values = torch.where(values.abs() <= zero, 0.0, values)
    inverse, info = torch.linalg.inv_ex(vectors)
    root = ((vectors * values.sqrt()) @ inverse).real
    return root if int(info) == 0 else torch.full_like(a, math.nan)


def _residual(x: torch.Tensor, a: torch.Tensor) -> float:
    """‖x² − a‖_F / ‖a‖_F."""
    return float(torch.linalg.matrix_norm(x @ x - a)) / float(torch.linalg.matrix_norm(a))
