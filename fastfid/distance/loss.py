"""The Fréchet distance of a batch of features to a reference, as a loss.

    loss = ‖mean(x) − μ‖² + tr Σ_x + tr Σ − 2 ‖C F‖_* / √(n − ddof),      C = x − mean(x),  Σ = F Fᵀ

The nuclear norm's gradient is the polar factor of C F, so no covariance of the batch is formed, none is inverted, and a
batch smaller than the number of features is no special case.

Source: Mathiasen & Hvilshøj, "Backpropagating through Fréchet Inception Distance", arXiv:2009.14075 (the use; its
authors call their code FastFID, which this package has nothing to do with).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fastfid.distance.gaussian import FrechetReference
from fastfid.linalg.polar_factor import differentiable_nuclear_norm
from fastfid.moments import Moments
from fastfid.runtime.checks import dense, whole_number

_LARGEST = 2.0**500


def frechet_loss(
    features: torch.Tensor, reference: FrechetReference | Moments | tuple[Any, Any], *, ddof: int = 1
) -> Any:
    """The differentiable Fréchet distance between features and a reference.

    Args:
        features: [n, d] float32 or float64 tensor, n > ddof. The work is done in float64.
        reference: FrechetReference (its factor is kept between calls), Moments, or a pair (mu [d], sigma [d, d]).
        ddof: the batch's covariance is scatter / (n − ddof).

    Returns:
        float64 tensor [], on the reference's device, where the work is done. Not twice differentiable.

    Raises:
        ValueError: shapes that don't fit, NaN or infinity, n ≤ ddof.
        TypeError: features are not a dense floating-point tensor with values.

    Numerics:
        Equal to ``frechet_moments`` to 1e-10, gradcheck in float64 with n above and below d, and gradient descent
        lowers it (tests/test_frechet_gradients.py).

    Source: arXiv:2009.14075; the gradient of the nuclear norm: Watson 1992, doi:10.1016/0024-3795(92)90407-2.
    """
    if not isinstance(features, torch.Tensor) or not features.is_floating_point() or features.dtype.itemsize == 1:
        kind = features.dtype if isinstance(features, torch.Tensor) else type(features).__name__
        raise TypeError(f"features: {kind}; accepted: floating-point tensor [n, d] of 16, 32 or 64 bits")
    dense("features", features)
    ref = _as_reference(reference)
    if features.ndim != 2 or features.shape[1] != ref.dim:
        raise ValueError(f"features: shape {list(features.shape)}; accepted: [n, {ref.dim}]")
    n, ddof = features.shape[0], whole_number("ddof", ddof, least=0)
    if n <= ddof:
        raise ValueError(f"features: {n} rows; a covariance with ddof = {ddof} needs at least {ddof + 1}")
    largest = float(features.detach().abs().amax())
    if not math.isfinite(largest):
        raise ValueError("features: NaN or infinity; accepted: finite values")
    if largest > _LARGEST:
        raise ValueError(f"features: up to {largest:g}; accepted: up to {_LARGEST:g}, or squares overflow float64")
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)  # a power of two, so that nothing overflows on the way
    x = features.to(ref.mean.device).double() / unit
    mean = x.mean(dim=0)
    centred = x - mean
    factor = ref.factor
    method = "newton-schulz" if x.device.type == "cuda" else "svd"
    root = differentiable_nuclear_norm(centred @ factor.f, method) * (factor.root_scale / math.sqrt(n - ddof)) * unit
    gap = mean * unit - ref.mean
    reference_trace = factor.trace * factor.root_scale * factor.root_scale
    loss = gap @ gap + centred.square().sum() / (n - ddof) * unit * unit + reference_trace - 2 * root
    if not bool(torch.isfinite(loss)):
        raise ValueError("features, reference: so large that the distance overflows float64; scale them down")
    return loss


def _as_reference(given: Any) -> FrechetReference:
    if isinstance(given, FrechetReference):
        return given
    if isinstance(given, Moments):
        return FrechetReference.from_moments(given, name="reference")
    if isinstance(given, tuple) and len(given) == 2:
        return FrechetReference(given[0], given[1], names=("reference[0]", "reference[1]"))
    raise TypeError(f"reference: {type(given).__name__}; accepted: FrechetReference, Moments, or a pair (mu, sigma)")
