"""tr (Σ₁Σ₂)^½ of covariances, batched, with bounds or with a gradient.

With M = F₁ᵀF₂ = W H the gradient is half the optimal-transport map between N(0, Σ₁) and N(0, Σ₂):

    ∂ tr(Σ₁Σ₂)^½ / ∂Σ₁ = ½ F₂ Wᵀ F₁⁺        (= ½ F₁⁻ᵀ (F₁ᵀΣ₂F₁)^½ F₁⁻¹ where Σ₁ is invertible)

Source: Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X; Takatsu, Osaka J. Math. 48 (2011) 1005-1026.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from fastfid.linalg.factors import Factor, factor
from fastfid.linalg.polar_factor import Bounds, like, polar
from fastfid.linalg.trace import METHODS, product_of_factors, trace_of_root
from fastfid.runtime.checks import a_tolerance
from fastfid.runtime.matrices import covariance, real_tensor


def trace_sqrtm_product(
    sigma1: Any, sigma2: Any, *, method: str = "auto", bounds: bool = False, rtol: float = 1e-5
) -> Any:
    """tr (Σ₁Σ₂)^½ of two covariances; Σ₁Σ₂ is not formed.

    Args:
        sigma1, sigma2: [..., d, d] of equal shape, NumPy or torch, symmetric positive semi-definite to rounding.
            Gradients flow to tensors that require them; that of a singular covariance is the one along its range.
        method: "eigvalsh", "newton-schulz", "svd", or "auto" as in ``fastfid.frechet``.
        bounds: return (value, lower, upper), tight, without gradient; their meaning is that of ``fastfid.frechet``.
        rtol: as in ``fastfid.frechet``.

    Returns:
        [...] float64, NumPy or torch as sigma1 is; or Bounds of three such.

    Raises:
        ValueError: NaN or infinity, shapes that don't fit, an asymmetric or (NotPSDError) indefinite covariance, an
            unknown method.

    Numerics:
        Relative error ≤ 1e-10 (tests/test_frechet_accuracy.py::test_spectra); gradcheck in float64
        (tests/test_frechet_gradients.py).

    Source: as the module.
    """
    if not isinstance(method, str) or method not in METHODS or method == "low-rank":
        raise ValueError(f"method: {method!r}; accepted: {', '.join(m for m in METHODS if m != 'low-rank')}")
    rtol = a_tolerance("rtol", rtol)
    wants_grad = any(isinstance(s, torch.Tensor) and s.requires_grad for s in (sigma1, sigma2))
    if wants_grad and not bounds:
        return _with_gradient(sigma1, sigma2)
    first, second = real_tensor(sigma1, "sigma1"), real_tensor(sigma2, "sigma2")
    lead = _check_shapes(first, second)
    found = [
        trace_of_root(*_factors(x, y, proven=bounds), method, certify=bounds, rtol=rtol).bounds
        for x, y in zip(_flat(first), _flat(second.to(first.device)), strict=True)
    ]
    columns = [np.array([one[k] for one in found]).reshape(lead) for k in range(3)]
    if not np.isfinite(columns[0]).all():
        raise ValueError("sigma1, sigma2: so large that the trace of their root overflows float64; scale them down")
    shaped = [like(torch.from_numpy(np.asarray(column)), sigma1) for column in columns]
    return Bounds(*shaped) if bounds else shaped[0]


def _with_gradient(sigma1: Any, sigma2: Any) -> torch.Tensor:
    """The batch as one tensor, each matrix through ``_TraceOfRoot``."""
    first, second = (s if isinstance(s, torch.Tensor) else torch.from_numpy(np.asarray(s)) for s in (sigma1, sigma2))
    lead = _check_shapes(real_tensor(first, "sigma1"), real_tensor(second, "sigma2"))
    pairs = zip(_flat(first.double()), _flat(second.double().to(first.device)), strict=True)
    values = [_TraceOfRoot.apply(x, y) for x, y in pairs]  # type: ignore[no-untyped-call]
    return torch.stack(values).reshape(lead)


def _flat(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.reshape(math.prod(matrices.shape[:-2]), *matrices.shape[-2:])


def _check_shapes(first: torch.Tensor, second: torch.Tensor) -> tuple[int, ...]:
    """The batch shape of two equal shapes [..., d, d]."""
    for matrix, name in ((first, "sigma1"), (second, "sigma2")):
        if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or matrix.shape[-1] == 0:
            raise ValueError(f"{name}: shape {list(matrix.shape)}; accepted: [..., d, d] with d ≥ 1")
    if first.shape != second.shape:
        raise ValueError(f"sigma2: shape {list(second.shape)}; accepted: {list(first.shape)}, as sigma1 has")
    return tuple(first.shape[:-2])


def _factors(sigma1: torch.Tensor, sigma2: torch.Tensor, *, proven: bool = False) -> tuple[Factor, Factor]:
    first, second = covariance(sigma1, "sigma1"), covariance(sigma2, "sigma2")
    return factor(first.matrix, "sigma1", proven=proven), factor(second.matrix, "sigma2", proven=proven)


class _TraceOfRoot(torch.autograd.Function):
    """tr (Σ₁Σ₂)^½ of two float64 [d, d]."""

    @staticmethod
    def forward(ctx: Any, sigma1: torch.Tensor, sigma2: torch.Tensor) -> torch.Tensor:
        f1, f2 = _factors(sigma1, sigma2)
        m, _ = product_of_factors(f1, f2)
        w, h, _ = polar(m)
        ratio = f2.root_scale / f1.root_scale
        ctx.save_for_backward(
            _transport(f1.f, f2.f @ w.T, ratio) if ctx.needs_input_grad[0] else None,
            _transport(f2.f, f1.f @ w, 1.0 / ratio) if ctx.needs_input_grad[1] else None,
        )
        trace: torch.Tensor = h.diagonal().sum() * (f1.root_scale * f2.root_scale)
        return trace

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return tuple(None if half is None else grad * half for half in ctx.saved_tensors)


def _transport(f: torch.Tensor, image: torch.Tensor, scale: float) -> torch.Tensor:
    """½ · sym(image · f⁺) · scale, for f with independent columns."""
    if f.shape[1] == 0:
        return torch.zeros(f.shape[0], f.shape[0], dtype=f.dtype, device=f.device)
    eye = torch.eye(f.shape[0], dtype=f.dtype, device=f.device)
    half: torch.Tensor = image @ torch.linalg.lstsq(f, eye).solution * scale
    return (half + half.T) / 4
