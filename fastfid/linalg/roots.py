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
from fastfid.linalg.factors import factor, scaled
from fastfid.linalg.polar_factor import as_batch, polar
from fastfid.runtime.matrices import EPS, covariance

_STEPS = 60
"""Quadratic convergence needs about ten; what has not converged by then has no principal root in this arithmetic."""

_UNSCALED = 1e-2
"""Below this ‖M − I‖_F scaling no longer helps and would disturb the quadratic convergence."""

_RESIDUAL = 1e-6
"""Largest accepted ‖X² − A‖_F / ‖A‖_F; a well-conditioned root reaches 1e-15."""

_NOTHING = 2.0**-130
"""Entries below this beside ones near one are zero to LAPACK's eigenvectors of a general matrix: spread over 200
decades they make MKL's geev fail, or write beyond its memory (tests/test_extremes.py)."""

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
    if torch.equal(a, torch.diag(a.diagonal())):
        return _diagonal_root(a)
    near_one, root_scale = scaled(a, float(a.abs().max()))
    x = _symmetric_root(near_one, root_scale) if torch.equal(a, a.T) else _general_root(near_one)
    return x * root_scale


def _require_semidefinite(values: torch.Tensor, unit: float) -> None:
    """NotPSDError where an eigenvalue of ``values`` · unit² is below zero by more than rounding."""
    smallest, largest = float(values.min()), float(values.abs().max())
    if smallest < -len(values) * EPS * largest:
        given, most = (value * unit * unit for value in (smallest, largest))
        raise NotPSDError(
            f"a: symmetric with eigenvalue {given:.3e} (largest {most:.3e}); accepted: positive semi-definite, "
            "since a negative eigenvalue leaves no real principal root"
        )


def _diagonal_root(a: torch.Tensor) -> torch.Tensor:
    """Element by element: math.sqrt is correctly rounded, torch's vectorised root on a CPU may be off by one unit."""
    values = a.diagonal()
    _require_semidefinite(values, 1.0)
    roots = [math.sqrt(max(v, 0.0)) for v in values.tolist()]
    return torch.diag(torch.tensor(roots, dtype=a.dtype, device=a.device))


def _symmetric_root(a: torch.Tensor, unit: float) -> torch.Tensor:
    """The root of a, which is unit⁻² of what the caller gave."""
    values, vectors = torch.linalg.eigh(a)
    _require_semidefinite(values, unit)
    half = vectors * values.clamp_min(0.0).sqrt().sqrt()
    x = half @ half.T
    return torch.tril(x) + torch.tril(x, -1).T


def _product_root(sigma1: torch.Tensor, sigma2: torch.Tensor) -> torch.Tensor:
    f1 = factor(covariance(sigma1, "a").matrix, "a")
    f2 = factor(covariance(sigma2, "b").matrix, "b")
    w = polar(f1.f.T @ f2.f).u
    root: torch.Tensor = (f1.f @ w @ f2.f.T) * f1.root_scale * f2.root_scale
    return root


def _general_root(a: torch.Tensor) -> torch.Tensor:
    """The root of a matrix whose largest entry is between 1 and 4."""
    d = a.shape[0]
    eye = torch.eye(d, dtype=a.dtype, device=a.device)
    m = x = a
    gap = math.inf
    for _ in range(_STEPS):
        inverse, info = torch.linalg.inv_ex(m)
        if int(info) != 0:
            break
        mu2 = 1.0
        if gap > _UNSCALED:
            mu2 = math.exp(min(max(-float(torch.linalg.slogdet(m).logabsdet) / d, -600.0), 600.0))
        x = (math.sqrt(mu2) / 2) * (x + (x @ inverse) / mu2)
        m = (eye + (mu2 * m + inverse / mu2) / 2) / 2
        before, gap = gap, float(torch.linalg.matrix_norm(m - eye))
        if not math.isfinite(gap) or gap <= d * EPS or (gap < 1e-6 and gap >= before / 2):
            break
    residual = _residual(x, a) if gap <= _RESIDUAL else math.inf
    if not residual <= _GOOD:
        other = _semisimple_root(a)
        if not _residual(other, a) >= residual:
            x, residual = other, _residual(other, a)
    if not residual <= _RESIDUAL:
        raise ValueError(
            f"a: no principal square root found (best residual {residual:.1e} of ‖a‖). Accepted: no eigenvalue on the "
            "negative real axis and none at zero in a Jordan block"
        )
    if residual > _GOOD:
        warnings.warn(f"sqrtm: ill-conditioned, the residual is {residual:.1e} of ‖a‖", NumericalWarning, stacklevel=4)
    return x


def _semisimple_root(a: torch.Tensor) -> torch.Tensor:
    """V Λ^½ V⁻¹ for what is singular but diagonalisable (a product of two covariances); not finite where that fails."""
    try:
        values, vectors = torch.linalg.eig(torch.where(a.abs() < _NOTHING, 0.0, a))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return torch.full_like(a, math.nan)
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
