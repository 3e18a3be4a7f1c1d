"""The polar factor by matrix products alone, with a two-sided bound on the nuclear norm.

For M = U H, X₀ = M / ‖M‖_F and quintics p_k from ``coefficients``,

    A = XᵀX,    R = a I + b A + c A²,    X ← X R          (three products; A and R are symmetric)

drives every singular value of X to one and keeps those that are zero at zero: nothing is inverted, so singular M is
harmless. The first stage is planned for singular values down to 1e-5 of ‖M‖_F, each further one reaches another four
decades. What ends the iteration is the width of the enclosure after a stage, never a residual of U.

Bounds. For any X with ‖X‖₂ ≤ s, any N (here XᵀM as it stands in memory) and any P = LLᵀ ≻ 0, with D = N − P,

    tr XᵀM / s   ≤   ‖M‖_*   ≤   s [ tr N + ½ ‖L⁻¹Dᵀ‖_F² ] + √q ‖M − X N‖_F .

Left by duality; right from M = X N + (M − X N) and ‖N‖_* ≤ ½[tr P + tr(P⁻¹NᵀN)], in which N = P + D is put. L is what
Cholesky made of the symmetric part of N and δI, and P what that L really multiplies to, so that no factorisation is
trusted; nor is any step: s comes from Cholesky of (1 + η)I − XᵀX, by the same token, for the smallest η of a short list
that goes through. All products are measured or bounded (``enclosure``), for any order of summation.

Source: Nakatsukasa & Higham, SIAM J. Sci. Comput. 35 (2013) A1325, doi:10.1137/120876605 (the nuclear norm from a polar
factor); arXiv:2505.16932 (the polynomials).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch

from fastfid.linalg import halves
from fastfid.linalg.coefficients import Quintic, composition
from fastfid.linalg.enclosure import (
    TINY,
    UNIT,
    column_sums,
    expected_rounding,
    gamma,
    product,
    product_gamma,
    sum_gamma,
)
from fastfid.runtime.arithmetic import ieee_products, stated
from fastfid.runtime.graphs import Graphed

STAGES = (1e-5, 1e-4, 1e-4, 1e-4)
"""Decades of singular values per stage, 17 in all: below eps nothing can be told from rounding."""

EXCESS = 1e-10
"""Float64 stages go on until what more steps could still gain is below this, relative to the nuclear norm."""

_POLISH = Quintic(15 / 8, -10 / 8, 3 / 8)
"""Third order at one: two steps take a float32 iterate to float64 orthogonality."""

_ZERO = 1e-140
"""A nuclear norm below this is zero: matrices come scaled to entries near one."""

_SURPLUS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0, 100.0)
"""What is tried for η."""

_UP = 1.0 + 1e-6
"""As in ``enclosure``: rounding of norms and of what is done with them."""

_LAUNCH_BOUND, _LAUNCH_BOUND_ENTRIES = 512, 2**20
"""Sides of M, and entries of a batch, up to which a stage is a CUDA graph: a float64 product of 512² would take 4 µs at
an H100's data-sheet peak (67 TFLOP/s), so launches weigh as much. Not run on a GPU. A graph keeps about four arrays
of the batch's size."""

_UNIT32 = float(torch.finfo(torch.float32).eps) / 2


class Products(NamedTuple):
    """The three products of a step; every engine provides them for tensors [B, p, q] of float32 or float64.

    Attributes:
        gram: X [B, p, q] → XᵀX [B, q, q].
        quadratic: (A [B, q, q] symmetric, a, b, c) → a I + b A + c A².
        multiply: (X [B, p, q], R [B, q, q]) → X R.
    """

    gram: Callable[[torch.Tensor], torch.Tensor]
    quadratic: Callable[[torch.Tensor, float, float, float], torch.Tensor]
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PolarIterate(NamedTuple):
    """Where the iteration ended.

    Attributes:
        u: [B, p, q], the polar factor; singular values that are zero to rounding stay below one.
        value, lower, upper: [B], the nuclear norm tr uᵀM and its bounds; upper may be infinite.
        excess: [B], the part of upper − value that more steps may remove; the rest is rounding.
        steps: polynomials applied.
        precision: "float64", or "mixed" where the float32 iterate was tight enough.
    """

    u: torch.Tensor
    value: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    excess: torch.Tensor
    steps: int
    precision: str

    def tight(self, rtol: float, excess: float = math.inf) -> bool:
        """Whether every enclosure is at most rtol wide, and every excess below its limit, relative to the value."""
        return bool(self._narrow(rtol, excess).all())

    def one_is_tight(self, index: int, rtol: float) -> bool:
        """Whether the enclosure of one matrix of the batch is at most rtol wide, relative to its value."""
        return bool(self._narrow(rtol, math.inf)[index])

    def _narrow(self, rtol: float, excess: float) -> torch.Tensor:
        narrow = (self.upper - self.lower <= rtol * self.value) & (self.excess <= excess * self.value)
        return narrow | (self.upper <= _ZERO)


def polar_iteration(
    m: torch.Tensor, products: Products, *, rtol: float, rounding: torch.Tensor, precision: str, complete: bool = False
) -> PolarIterate:
    """Iterate until the enclosures are tight or the stages are used up.

    Args:
        m: float64 [B, p, q] with p ≥ q ≥ 1, finite.
        products: the engine.
        rtol: wanted width of each enclosure relative to its value.
        rounding: [B], how far m is from the matrix that is meant, in the Frobenius norm.
        precision: "float64" or "mixed" (float32 first, kept only where its enclosure is tight).
        complete: go on until every singular value of u is zero or one, whether or not it still moves the trace.
    """
    norm = torch.linalg.matrix_norm(m)
    scale = torch.where(norm > 0.0, norm, 1.0)
    x = m / scale[:, None, None]
    done = 0
    if precision == "mixed" and ieee_products(m.device):  # else its rounding would not be what is bounded
        single, spectral = _single_precision_stage(x, products)
        found = _bounds(single, m, rounding, len(composition(STAGES[0])) + 2, "mixed")
        if found.tight(rtol):
            return found
        done = found.steps
    spectral = 1.0 + expected_rounding(x.shape[1] * x.shape[2])
    for reach in STAGES:
        stage = composition(reach)
        x, spectral = _apply(x, stage, spectral, products, UNIT)  # steers the steps; no bound rests on it
        done += len(stage)
        found = _bounds(x, m, rounding, done, "float64")
        if found.tight(rtol, EXCESS) and not (complete and _unfinished(x, products)):
            break
    return found


def _unfinished(x: torch.Tensor, products: Products) -> bool:
    """Whether XᵀX is not yet a projection to rounding."""
    gram = products.gram(x)
    gap = torch.linalg.matrix_norm(products.quadratic(gram, 0.0, 1.0, -1.0))
    return bool((gap > 8 * expected_rounding(x.shape[1]) * torch.linalg.matrix_norm(x)).any())


def _single_precision_stage(x: torch.Tensor, products: Products) -> tuple[torch.Tensor, float]:
    """One stage in float32, never TF32, and two steps in float64."""
    with stated(x.device):
        single, spectral = _apply(x.float(), composition(STAGES[0]), 1.0 + 1e-5, products, _UNIT32)
    return _apply(single.double(), ((_POLISH, math.inf), (_POLISH, math.inf)), spectral, products, UNIT)


def _apply(
    x: torch.Tensor, stage: tuple[tuple[Quintic, float], ...], spectral: float, products: Products, unit: float
) -> tuple[torch.Tensor, float]:
    """(p_n ∘ … ∘ p_1)(x), and a bound of its spectral norm from one of x's.

    Beyond the end of its interval a quintic grows fast: where rounding has pushed the bound over it, x is scaled back.
    """
    polynomials = []
    for planned, expected in stage:
        p = planned.scaled(1.0, expected / spectral) if spectral > expected else planned
        polynomials.append(p)
        spectral = p.largest(spectral) + _step_rounding(p, spectral, x.shape[1], x.shape[2], unit)
    return _composed(x, tuple(polynomials), products), spectral


def _composed(x: torch.Tensor, polynomials: tuple[Quintic, ...], products: Products) -> torch.Tensor:
    """p_n(… p_1(x)); on CUDA as one launch where the kernels are so small that launching them would take longer."""
    if x.device.type == "cuda" and max(x.shape[1:]) <= _LAUNCH_BOUND and x.numel() <= _LAUNCH_BOUND_ENTRIES:
        return _graphed(polynomials, products)(x)[0]
    return _steps(x, polynomials, products)


@lru_cache(maxsize=8)
def _graphed(polynomials: tuple[Quintic, ...], products: Products) -> Graphed:
    """A stage as a function of x alone, with a graph for each of the last shapes, dtypes and devices."""
    return Graphed(lambda x: (_steps(x, polynomials, products),), "a stage of the polar iteration", limit=2)


def _steps(x: torch.Tensor, polynomials: tuple[Quintic, ...], products: Products) -> torch.Tensor:
    for p in polynomials:
        x = products.multiply(x, products.quadratic(products.gram(x), p.a, p.b, p.c))
    return x


def _step_rounding(p: Quintic, spectral: float, rows: int, columns: int, unit: float) -> float:
    """Frobenius bound of what a step adds to p(X) by rounding, with ‖X‖_F² ≤ columns · spectral²."""
    r = expected_rounding(max(rows, columns)) * (unit / UNIT)
    square = spectral * spectral
    gram = r * columns * square
    right = abs(p.a) + abs(p.b) * square + abs(p.c) * square * square
    quadratic = (
        (abs(p.b) + 2 * abs(p.c) * square) * gram + abs(p.c) * gram * square + 4 * unit * right * math.sqrt(columns)
    )
    return spectral * quadratic + r * columns * spectral * right


def _bounds(u: torch.Tensor, m: torch.Tensor, rounding: torch.Tensor, steps: int, precision: str) -> PolarIterate:
    """The two-sided bound of the module docstring, per matrix."""
    p, q = m.shape[-2:]
    spectral = _spectral(u)
    norm_u, norm_m = _norm(u), _norm(m)
    trace = column_sums(column_sums(u * m)[..., None])[..., 0]
    value_error = (sum_gamma(p) + sum_gamma(q)) * norm_u * norm_m
    n = product(u.mT, m)
    norm_n = _norm(n)
    left = _norm(m - product(u, n))
    outside = left + product_gamma(q) * norm_u * norm_n + 2 * UNIT * (norm_m + left) + rounding
    second, second_error = _second_order(n)
    diagonal = n.diagonal(dim1=-2, dim2=-1)
    inner = diagonal.sum(-1) + gamma(q) * diagonal.abs().sum(-1) * _UP
    root = math.sqrt(q) * _UP
    upper = spectral * (inner + second + second_error) * (1.0 + 8 * UNIT) + root * outside + TINY
    excess = (spectral - 1.0 + second / trace.clamp_min(_ZERO)) * trace + root * left
    lower = (trace - value_error) / spectral * (1.0 - 8 * UNIT) - root * rounding - TINY
    upper = torch.where(torch.isfinite(upper), upper, math.inf)
    upper = torch.where(m.any(-1).any(-1), upper, root * rounding)
    return PolarIterate(u, trace, lower.clamp_min(0.0), upper, excess, steps, precision)


def _norm(x: torch.Tensor) -> torch.Tensor:
    """[B] upper bounds of ‖x‖_F."""
    bound: torch.Tensor = torch.linalg.matrix_norm(x) * _UP + TINY
    return bound


def _gap(h: torch.Tensor, low: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(h − LLᵀ, an upper bound of its error in the Frobenius norm)."""
    gap = h - halves.mirrored(halves.lower_outer(low, low, triangular=True, multiply=product))
    return gap, product_gamma(low.shape[-1]) * _norm(low) ** 2 + UNIT * _norm(gap)


def _spectral(u: torch.Tensor) -> torch.Tensor:
    """[B] upper bounds of ‖u‖₂: UᵀU ⪯ (1 + η)I where what is left factorises, but for what the factor misses."""
    p = u.shape[-2]
    gram = halves.mirrored(halves.lower_outer(u.mT, u.mT, multiply=product))
    gram_error = product_gamma(p) * _norm(u) ** 2
    found = _norm(u)  # ‖u‖₂ ≤ ‖u‖_F, whatever else fails
    for surplus in _SURPLUS:
        h = -gram
        h.diagonal(dim1=-2, dim2=-1).add_(1.0 + surplus)
        low, info = torch.linalg.cholesky_ex(h)
        gap, error = _gap(h, low)
        eta = surplus + _norm(gap) + error + gram_error + 4 * UNIT * (1.0 + surplus)
        bound = (1.0 + eta).sqrt() * (1.0 + 4 * UNIT)
        found = torch.where((info == 0) & torch.isfinite(bound) & (bound < found), bound, found)
        if bool((info == 0).all()):
            break
    return found


def _second_order(n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(½‖JDᵀ‖² as computed, what it may miss of ½‖L⁻¹Dᵀ‖_F²); infinite where no factor is found."""
    q = n.shape[-1]
    scale = n.diagonal(dim1=-2, dim2=-1).abs().sum(-1)
    delta = 8 * product_gamma(q) * scale + TINY
    h = (n + n.mT).mul_(0.5)
    h.diagonal(dim1=-2, dim2=-1).add_(delta[:, None])
    low, info = torch.linalg.cholesky_ex(h)
    del h
    gap, gap_error = _gap(n, low)
    inverse = halves.inverse(low)
    norm_low, norm_inverse = _norm(low), _norm(inverse)
    left = halves.lower_product(inverse, low, multiply=product)
    left.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    rest = _norm(left) + (product_gamma(q) + UNIT) * norm_inverse * norm_low
    computed = _norm(product(inverse, gap.mT))
    size = (computed + norm_inverse * (product_gamma(q) * _norm(gap) + gap_error)) / (1.0 - rest)
    good = (info == 0) & (rest < 0.5) & torch.isfinite(size)
    second = computed.square() / 2
    return torch.where(good, second, math.inf), torch.where(good, size.square() / 2 * _UP - second, math.inf)
