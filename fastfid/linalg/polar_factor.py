"""Public polar decomposition and nuclear norm, batched, NumPy or torch, with a gradient.

    M = U H,   ‖M‖_* = tr H = tr(UᵀM),   ∂‖M‖_*/∂M = U

Source: Higham, *Functions of Matrices* (2008), chapter 8; the gradient: Watson, Linear Algebra Appl. 170 (1992) 33-45.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

from fastfid.errors import ConvergenceWarning
from fastfid.linalg import nuclear
from fastfid.linalg.iteration import PolarIterate
from fastfid.runtime.matrices import EPS, real_tensor

METHODS = ("auto", "svd", "newton-schulz")


class Polar(NamedTuple):
    """M = U H.

    Attributes:
        u: [..., p, q]; orthonormal columns (p ≥ q) or rows where M has full rank.
        h: [..., q, q], symmetric positive semi-definite.
        steps: of the iteration; 0 for svd.
    """

    u: Any
    h: Any
    steps: int


class Bounds(NamedTuple):
    """A value with its two-sided bound, each of the batch's shape."""

    value: Any
    lower: Any
    upper: Any


def polar(m: Any, *, method: str = "auto") -> Polar:
    """The polar decomposition M = U H with H = (MᵀM)^½.

    Args:
        m: [..., p, q] float32 or float64, NumPy or torch.
        method: "svd", "newton-schulz" (products only), or "auto": svd on a CPU, newton-schulz on a GPU.

    Returns:
        Polar, arrays of the kind, dtype and device of m. On the null space of a singular M the factor U is zero by svd
        and of norm at most one by newton-schulz; H does not depend on it.

    Raises:
        ValueError: NaN or infinity, fewer than two dimensions, an unknown method.

    Warns:
        ConvergenceWarning: newton-schulz used up its stages; the result is as good as the bounds of ``nuclear_norm``.

    Numerics:
        ‖UᵀU − I‖_F and ‖U H − M‖_F / ‖M‖_F ≤ 10 d eps by both methods at condition numbers up to 1e12
        (tests/test_linalg_polar.py::test_polar_properties, ::test_polar_of_ill_conditioned).

    Source: arXiv:2505.16932 and fastfid.linalg.iteration.
    """
    batch, restore = as_batch(m, "m")
    chosen = _method(method, batch.device)
    p, q = batch.shape[-2:]
    if batch.numel() == 0:
        return Polar(restore(batch), restore(batch.new_zeros(batch.shape[0], q, q)), 0)
    if chosen == "svd":
        scale = _powers_of_two(batch)[:, None, None]
        u, values, vh = torch.linalg.svd(batch / scale, full_matrices=False)
        keep = values > max(p, q) * EPS * values[..., :1]
        h = (vh.mT * values[..., None, :]) @ vh
        return Polar(restore((u * keep[..., None, :]) @ vh), restore((h + h.mT) / 2 * scale), 0)
    found = _iterate(batch, complete=True)
    u = found.u if p >= q else found.u.mT
    scale = _powers_of_two(batch)[:, None, None]
    h = u.mT @ (batch / scale)
    return Polar(restore(u), restore((h + h.mT) / 2 * scale), found.steps)


def nuclear_norm(m: Any, *, method: str = "auto", bounds: bool = False) -> Any:
    """The sum of the singular values, ‖M‖_*.

    Args:
        m: [..., p, q] float32 or float64, NumPy or torch; gradients flow through a tensor that requires them.
        method: as in ``polar``.
        bounds: return (value, lower, upper), without gradient.

    Returns:
        [...] float64, NumPy or torch as m is; or Bounds of three such.

    Raises:
        ValueError: as ``polar``.

    Numerics:
        Relative error ≤ 1e-10 by both methods over ten spectra (tests/test_linalg_polar.py::test_nuclear_norm_spectra).
        The bounds hold the sum for m as given: they are computed from products whose rounding is bounded, no solver is
        trusted (tests/test_frechet_bounds.py). The gradient is U on the row space and zero elsewhere.

    Source: Watson, Linear Algebra Appl. 170 (1992) 33-45, doi:10.1016/0024-3795(92)90407-2.
    """
    if isinstance(m, torch.Tensor) and m.requires_grad and not bounds:
        real_tensor(m, "m")
        if m.ndim < 2:
            raise ValueError(f"m: shape {list(m.shape)}; accepted: [..., p, q]")
        value = differentiable_nuclear_norm(m.double(), _method(method, m.device))
        require_finite(value, "m: so large that the nuclear norm")
        return value
    batch, _ = as_batch(m, "m")
    chosen = _method(method, batch.device)
    found = [_enclose(one, chosen, bounds) for one in batch]
    columns = [torch.tensor([one[k] for one in found], dtype=torch.float64, device=batch.device) for k in range(3)]
    require_finite(columns[0], "m: so large that the nuclear norm")
    shaped = [like(column.reshape(tuple(np.shape(m))[:-2]), m) for column in columns]
    return Bounds(*shaped) if bounds else shaped[0]


def differentiable_nuclear_norm(m: torch.Tensor, method: str) -> torch.Tensor:
    """‖m‖_* of float64 [..., p, q] with gradient; method "svd" or "newton-schulz"."""
    value: torch.Tensor = _NuclearNorm.apply(m, method)  # type: ignore[no-untyped-call]
    return value


class _NuclearNorm(torch.autograd.Function):
    """‖M‖_*, whose gradient is the polar factor."""

    @staticmethod
    def forward(ctx: Any, m: torch.Tensor, method: str) -> torch.Tensor:
        if m.numel() == 0:
            ctx.save_for_backward(torch.zeros_like(m))
            return m.new_zeros(m.shape[:-2])
        if method == "svd":
            u, values, vh = torch.linalg.svd(m, full_matrices=False)
            keep = values > max(m.shape[-2:]) * EPS * values[..., :1]
            ctx.save_for_backward((u * keep[..., None, :]) @ vh)
            total: torch.Tensor = values.sum(-1)
            return total
        found = _iterate(m.reshape(-1, *m.shape[-2:]))
        factor = found.u if m.shape[-2] >= m.shape[-1] else found.u.mT
        ctx.save_for_backward(factor.reshape(m.shape))
        value: torch.Tensor = found.value.reshape(m.shape[:-2])
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad[..., None, None] * factor, None


def _iterate(batch: torch.Tensor, *, complete: bool = False) -> PolarIterate:
    """The polar iteration on [B, p, q], with a warning where it stays wider than it aims at."""
    rounding = torch.zeros(batch.shape[0], dtype=batch.dtype, device=batch.device)
    scale = _powers_of_two(batch)
    found = nuclear.by_newton_schulz(batch / scale[:, None, None], rounding, nuclear.NS_RTOL, complete=complete)
    found = found._replace(
        value=found.value * scale,
        lower=found.lower * scale,
        upper=found.upper * scale,
        excess=found.excess * scale,
    )
    if not found.tight(nuclear.NS_RTOL):
        width = float(((found.upper - found.lower) / found.value).max())
        warnings.warn(
            f"newton-schulz used {found.steps} steps; its bounds are {width:.1e} of the nuclear norm apart",
            ConvergenceWarning,
            stacklevel=3,
        )
    return found


def _powers_of_two(batch: torch.Tensor) -> torch.Tensor:
    """[B] powers of two near the largest entry of each matrix, so that squares neither overflow nor vanish."""
    if batch.shape[-1] * batch.shape[-2] == 0:
        return torch.ones(batch.shape[0], dtype=batch.dtype, device=batch.device)
    largest = batch.abs().amax(dim=(-2, -1))
    exponent = torch.frexp(largest).exponent.clamp(-1000, 1000)
    return torch.ldexp(torch.ones_like(largest), exponent)


def _enclose(m: torch.Tensor, method: str, bounds: bool) -> tuple[float, float, float]:
    """(value, lower, upper) of one matrix; by svd without ``bounds`` all three are the value."""
    if method == "svd" or m.numel() == 0:
        scale = float(_powers_of_two(m[None])[0])
        if not bounds:
            value = math.fsum(torch.linalg.svdvals(m / scale).tolist()) * scale if m.numel() else 0.0
            return value, value, value
        found = nuclear.by_singular_vectors(m / scale, 0.0).scaled(scale)
        return found.value, found.lower, found.upper
    iterate = _iterate(m[None])
    return float(iterate.value), float(iterate.lower), float(iterate.upper)


def _method(method: str, device: torch.device) -> str:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method: {method!r}; accepted: {', '.join(METHODS)}")
    if method == "auto":
        return "newton-schulz" if device.type == "cuda" else "svd"
    return method


def as_batch(m: Any, argument: str) -> tuple[torch.Tensor, Any]:
    """(float64 [B, p, q], what turns [B, …] back into the caller's kind, shape and dtype)."""
    tensor = real_tensor(m, argument)
    if tensor.ndim < 2:
        raise ValueError(f"{argument}: shape {list(tensor.shape)}; accepted: [..., p, q]")
    lead = tensor.shape[:-2]

    def restore(result: torch.Tensor) -> Any:
        made = like(result.reshape(*lead, *result.shape[-2:]), m, keep_dtype=True)
        require_finite(made, f"{argument}: so large that the result")
        return made

    return tensor.reshape(math.prod(lead), *tensor.shape[-2:]), restore


def require_finite(result: Any, what: str) -> None:
    """ValueError where a result of finite input has left the range of its dtype."""
    finite = torch.isfinite(result) if isinstance(result, torch.Tensor) else np.isfinite(result)
    if not bool(finite.all()):
        raise ValueError(f"{what} overflows {result.dtype}; scale the input down")


def like(result: torch.Tensor, given: Any, *, keep_dtype: bool = False) -> Any:
    """The result as the caller's kind of array, on its device, and in its dtype where asked."""
    if isinstance(given, torch.Tensor):
        if given.device.type == "mps":
            return result.float().to(given.device)
        floating = keep_dtype and given.dtype.is_floating_point
        return result.to(device=given.device, dtype=given.dtype if floating else None)
    array = result.cpu().numpy()
    dtype = np.asarray(given).dtype
    array = array.astype(dtype) if keep_dtype and dtype.kind == "f" else array
    return array[()]
