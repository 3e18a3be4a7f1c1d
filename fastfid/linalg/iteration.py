"""The polar factor by matrix products alone, with a two-sided bound on the nuclear norm.

For M = U H, X₀ = M / ‖M‖_F and quintics p_k from ``coefficients``,

    A = XᵀX,    R = a I + b A + c A²,    X ← X R          (three products; A and R are symmetric)

drives every singular value of X to one and keeps those that are zero at zero: nothing is inverted, so singular M is
harmless. The first stage is planned for singular values down to 1e-5 of ‖M‖_F, each further one reaches another four
decades. What ends the iteration is the width of the enclosure after a stage, never a residual of U.

Bounds. For any X with ‖X‖₂ ≤ s, N = XᵀM as it stands in memory, and any symmetric P ≻ 0, with D = N − P,

    tr N / s   ≤   ‖M‖_*   ≤   s [ tr N + ½ tr(P⁻¹DᵀD) ] + √q ‖M − X N‖_F .

Left by duality; right from M = X N + (M − X N) and ‖N‖_* ≤ ½[tr P + tr(P⁻¹NᵀN)], in which N = P + D is put. P is the
symmetric part of N plus δI, δ = 4 r(q) tr N. The form in D has the merit that what needs a triangular solve is of
second order in the error of X already, so that the solve's own rounding does not matter; ½[tr P + tr(P⁻¹MᵀM)] has not.
s is carried along from the polynomials and the rounding of each step.

Source: Nakatsukasa & Higham, SIAM J. Sci. Comput. 35 (2013) A1325, doi:10.1137/120876605 (the nuclear norm from a polar
factor); arXiv:2505.16932 (the polynomials).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch

from fastfid._arithmetic import stated
from fastfid._graphs import Graphed
from fastfid.linalg.coefficients import Quintic, composition
from fastfid.linalg.enclosure import UNIT, product_rounding

STAGES = (1e-5, 1e-4, 1e-4, 1e-4)
"""Decades of singular values per stage, 17 in all: below eps nothing can be told from rounding."""

EXCESS = 1e-10
"""Float64 stages go on until what more steps could still gain is below this, relative to the nuclear norm."""

_POLISH = Quintic(15 / 8, -10 / 8, 3 / 8)
"""Third order at one: two steps take a float32 iterate to float64 orthogonality."""

_ZERO = 1e-300
"""A nuclear norm below this is zero: matrices come scaled to entries near one."""

_SOLVE = 1.3
"""Inflates Y = L⁻¹Dᵀ for the rounding of L. D = K − δI with K antisymmetric, so ‖Y‖_F ≥ δ‖L⁻¹‖_F: the backward error E
of the Cholesky factor, ‖E‖ ≤ r(q) tr P = δ/4, moves it by ‖L⁻¹E‖_F ≤ ‖Y‖_F / 4, and the solve's own rounding, κ(L) r(q)
of it, is at most ‖Y‖_F / 4√(tr N) of it."""

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


def precision_for(device: torch.device) -> str:
    """ "float64" where float64 products run at tensor-core speed (or on a CPU), else "mixed"."""
    if device.type != "cuda":
        return "float64"
    return "float64" if torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0)) else "mixed"


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
    if precision == "mixed":
        single, spectral = _single_precision_stage(x, products)
        found = _bounds(single, m, spectral, rounding, len(composition(STAGES[0])) + 2, "mixed")
        if found.tight(rtol):
            return found
        done = found.steps
    spectral = 1.0 + product_rounding(x.shape[1] * x.shape[2])
    for reach in STAGES:
        stage = composition(reach)
        x, spectral = _apply(x, stage, spectral, products, UNIT)
        done += len(stage)
        found = _bounds(x, m, spectral, rounding, done, "float64")
        if found.tight(rtol, EXCESS) and not (complete and _unfinished(x, products)):
            break
    return found


def _unfinished(x: torch.Tensor, products: Products) -> bool:
    """Whether XᵀX is not yet a projection to rounding."""
    gram = products.gram(x)
    gap = torch.linalg.matrix_norm(products.quadratic(gram, 0.0, 1.0, -1.0))
    return bool((gap > 8 * product_rounding(x.shape[1]) * torch.linalg.matrix_norm(x)).any())


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
    r = product_rounding(max(rows, columns)) * (unit / UNIT)
    square = spectral * spectral
    gram = r * columns * square
    right = abs(p.a) + abs(p.b) * square + abs(p.c) * square * square
    quadratic = (
        (abs(p.b) + 2 * abs(p.c) * square) * gram + abs(p.c) * gram * square + 4 * unit * right * math.sqrt(columns)
    )
    return spectral * quadratic + r * columns * spectral * right


def _bounds(
    u: torch.Tensor, m: torch.Tensor, spectral: float, rounding: torch.Tensor, steps: int, precision: str
) -> PolarIterate:
    """The two-sided bound of the module docstring, per matrix."""
    p, q = m.shape[-2:]
    n = u.mT @ m
    trace = n.diagonal(dim1=-2, dim2=-1).sum(-1)
    norm_u, norm_m, norm_n = (torch.linalg.matrix_norm(part) for part in (u, m, n))
    left = torch.linalg.matrix_norm(torch.baddbmm(m, u, n, alpha=-1.0))
    outside = left + product_rounding(q) * norm_u * norm_n + 2 * UNIT * norm_m + rounding
    delta = 4 * product_rounding(q) * trace.clamp_min(0.0) + torch.finfo(torch.float64).tiny
    h = (n + n.mT).mul_(0.5)
    h.diagonal(dim1=-2, dim2=-1).add_(delta[:, None])
    factor, info = torch.linalg.cholesky_ex(h)
    n.sub_(h)
    del h  # a seventh matrix beside the factors, M, u, N and those of the solve
    gap = torch.linalg.solve_triangular(factor, n.mT, upper=False)
    size = torch.linalg.matrix_norm(gap)
    second = (size * (_SOLVE + size / trace.clamp_min(_ZERO).sqrt())).square() / 2
    upper = spectral * (trace + second) + math.sqrt(q) * outside
    lower = (trace - 2 * product_rounding(p) * norm_u * norm_m) / spectral - math.sqrt(q) * rounding
    excess = spectral * second + math.sqrt(q) * left
    upper = torch.where((info == 0) & torch.isfinite(upper), upper, math.inf)
    return PolarIterate(u, trace, lower.clamp_min(0.0), upper, excess, steps, precision)
