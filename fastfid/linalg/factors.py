"""Factors F with Σ = F Fᵀ: Cholesky where Σ has full rank in float64, else scaled eigenvectors, or the samples.

Eigenvalues of Σ below d·eps·λmax are rounding and count as zero. A Cholesky factorisation of a singular matrix may
well succeed, and then turns that rounding into entries of size √(eps·λmax); so a factorisation that goes through is
kept only where the smallest eigenvalue, estimated by inverse iteration on the factor, stands clear of the threshold.
Nothing is ever added to the diagonal: the jitter of a factor is zero, by construction.

Matrices are scaled by a power of four first, so that entries of 1e±150 neither overflow nor vanish, and √ of the scale
is exact.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastfid.errors import NotPSDError
from fastfid.linalg.enclosure import product_rounding
from fastfid.linalg.inputs import EPS

_CLEAR = 16.0
"""A Cholesky factor is kept where λmin is this many times d·eps·λmax; λmin is estimated to a small factor."""

_NEGATIVE = 1e-5
"""Eigenvalues down to −this·λmax count as zero, with a note: float32 moments reach 1e-6. Beyond, Σ is no covariance."""


class Factor(NamedTuple):
    """Σ = root_scale² · F Fᵀ.

    Attributes:
        f: float64 [d, rank]; lower triangular where ``triangular``.
        root_scale: power of two.
        trace: tr(Σ) / root_scale².
        trace_rounding: largest |trace − tr(F Fᵀ)|.
        note: what a caller should know, or None.
        rounding: ‖error of f‖_F, where f is not the definition of the pair but computed from samples.
        triangular: whether f is lower triangular.
    """

    f: torch.Tensor
    root_scale: float
    trace: float
    trace_rounding: float
    note: str | None = None
    rounding: float = 0.0
    triangular: bool = False

    @property
    def rank(self) -> int:
        """Columns of f: the numerical rank of Σ."""
        return int(self.f.shape[1])


def exponent_of(scale: float) -> int:
    """k with 4ᵏ ≤ ``scale`` < 4ᵏ⁺¹; 0 for zero."""
    return (math.frexp(scale)[1] - 1) // 2 if scale > 0 else 0


def scaled(matrix: torch.Tensor, largest: float | None = None) -> tuple[torch.Tensor, float]:
    """(Σ / 4ᵏ, 2ᵏ) with ``largest`` between 1 and 4 afterwards.

    Exact unless entries fall below the range of float64. None stands for the largest diagonal element, which is max|Σ|
    of a semi-definite matrix; what is indefinite may come out infinite.
    """
    largest = float(matrix.diagonal().abs().max()) if largest is None else largest
    if 0.25 <= largest <= 4.0:
        return matrix, 1.0
    k = exponent_of(largest)
    root = math.ldexp(1.0, k)
    return (matrix * math.ldexp(1.0, -2 * k) if abs(k) < 500 else (matrix / root) / root), root


def factor(sigma: torch.Tensor, argument: str) -> Factor:
    """The factor of a symmetric positive semi-definite matrix.

    Args:
        sigma: float64 [d, d], exactly symmetric.
        argument: its name in the caller's signature, for messages.

    Raises:
        NotPSDError: an eigenvalue below −1e-5 of the largest.

    Numerics:
        ‖Σ − F Fᵀ‖₂ ≤ (d + 24)·eps·‖Σ‖₂: d·eps for what counts as zero, the rest is LAPACK's own
        (tests/test_linalg.py::test_factor_backward_error); except where the note says that larger negative eigenvalues
        were set to zero.
    """
    matrix, root = scaled(sigma)
    trace = math.fsum(matrix.diagonal().tolist())
    cholesky, info = torch.linalg.cholesky_ex(matrix)
    norm = float(torch.linalg.matrix_norm(matrix))
    if int(info) == 0 and _smallest_eigenvalue(cholesky) > _CLEAR * matrix.shape[0] * EPS * norm:
        return Factor(cholesky, root, trace, product_rounding(matrix.shape[0]) * trace, triangular=True)
    matrix, root = scaled(sigma, float(sigma.abs().max()))
    trace = math.fsum(matrix.diagonal().tolist())
    values, vectors = torch.linalg.eigh(matrix)
    return _truncated(values, vectors, root, trace, argument)


def factor_of_rows(rows: torch.Tensor, divisor: float) -> Factor:
    """The factor [d, n−1] of the covariance of n samples, without forming it.

    The centred rows C have the vector of ones in their null space. A Householder reflection H that maps it to the first
    axis moves this null row out of the way, so that F has exactly n − 1 columns: Σ = F Fᵀ, F = (H C)[1:]ᵀ / √divisor.

    Args:
        rows: float64 [n, d], n ≥ 1.
        divisor: n − ddof.
    """
    n = rows.shape[0]
    shifted = rows - rows[0]
    largest = float(shifted.abs().max())
    if not math.isfinite(largest):
        raise ValueError("features: so far apart that their differences overflow float64; scale them down")
    root = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0.0 else 1.0
    shifted = shifted / root
    centred = shifted - shifted.mean(dim=0)
    pivot = centred[0] + centred.sum(dim=0) / math.sqrt(n)
    f = (centred[1:] - pivot / (math.sqrt(n) + 1.0)).T / math.sqrt(divisor)
    norm = float(torch.linalg.matrix_norm(f))
    spread = float(torch.linalg.matrix_norm(shifted)) / math.sqrt(divisor)
    rounding = 4 * EPS * (spread + norm)
    return Factor(f, root, norm * norm, 2 * rounding * norm + product_rounding(n) * norm * norm, rounding=rounding)


def _truncated(values: torch.Tensor, vectors: torch.Tensor, root: float, trace: float, argument: str) -> Factor:
    """Eigenvectors times √λ over the eigenvalues that are not rounding."""
    d = values.shape[0]
    largest, smallest = float(values[-1]), float(values[0])
    note = None
    if (largest <= 0.0 and smallest < 0.0) or smallest < -_NEGATIVE * largest:
        raise NotPSDError(
            f"{argument}: not positive semi-definite: eigenvalues from {smallest * root * root:.3e} to "
            f"{largest * root * root:.3e}; accepted: none below −{_NEGATIVE:g} of the largest"
        )
    if smallest < -d * EPS * largest:
        note = (
            f"{argument} has negative eigenvalues down to {smallest / largest:.1e} of the largest, more than float64 "
            "rounding explains; they count as zero, and the interval is that of the matrix without them"
        )
    keep = values > d * EPS * largest
    f = vectors[:, keep] * values[keep].sqrt()
    kept = math.fsum(f.square().sum(dim=0).tolist())
    rounding = abs(trace - kept) + product_rounding(d) * kept
    return Factor(f, root, kept if note else trace, rounding, note)


def _smallest_eigenvalue(cholesky: torch.Tensor) -> float:
    """λmin(LLᵀ), at most 2 times too large, by two block inverse iterations from fixed pseudo-random vectors."""
    d = cholesky.shape[0]
    block = min(d, 4)
    index = torch.arange(d * block, dtype=torch.float64).reshape(d, block)
    vectors = torch.frac(torch.sin(index * 12.9898 + 1.0) * 43758.5453).to(cholesky.device)
    growth = torch.zeros(block, dtype=torch.float64, device=cholesky.device)
    for _ in range(2):
        vectors = vectors / vectors.abs().amax(dim=0)  # the squares of what a factor of 1e±160 leaves would overflow
        vectors = vectors / torch.linalg.vector_norm(vectors, dim=0)
        half = torch.linalg.solve_triangular(cholesky, vectors, upper=False)
        growth = torch.linalg.vector_norm(half, dim=0) ** 2
        vectors = torch.linalg.solve_triangular(cholesky.mT, half, upper=True)
    largest = float(growth.max())
    return 1.0 / largest if math.isfinite(largest) else 0.0
