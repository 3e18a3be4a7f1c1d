"""Factors F with Σ = F Fᵀ: Cholesky where Σ has full rank in float64, else scaled eigenvectors, or the samples.

Eigenvalues of Σ below d·eps·λmax are rounding as far as a factor goes: it leaves them out. A Cholesky factorisation of
a singular matrix may well succeed, and then turns that rounding into entries of size √(eps·λmax); so a factorisation
that goes through is kept only where the smallest eigenvalue, estimated by inverse iteration on the factor, stands clear
of the threshold. Nothing is ever added to the diagonal: the jitter of a factor is zero, by construction.

What the exact Σ₊ (Σ with its negative eigenvalues set to zero) may have beyond F Fᵀ is part of a factor:

    −below·I ⪯ Σ₊ − F Fᵀ ⪯ above·I.

``factor`` fills it with what LAPACK's errors are expected to be, or, ``proven``, with what is measured on the factor:

* Cholesky: e = ‖Σ − LLᵀ‖ by ``gram_gap``. Σ ⪰ −e·I, so that Σ₊ exceeds Σ by at most e; by nothing where e‖L⁻¹‖² < 1.
* eigenvectors: C = F₁F₁ᵀ − NNᵀ of all eigenvalues, e = ‖Σ − C‖_F; the positive part of a matrix moves by no more than
  the matrix (Frobenius). C₊ is F₁F₁ᵀ but for ‖F₁ᵀN‖, and what was left out of F₁ adds its largest eigenvalue to above.
  Where nothing but rounding is negative, the spectral norm does as well: Σ₊ − F₁F₁ᵀ = Σ − C + Σ₋ − NNᵀ.

Matrices are scaled by a power of four first, so that entries of 1e±150 neither overflow nor vanish, and √ of the scale
is exact.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastfid.errors import NotPSDError
from fastfid.linalg import halves
from fastfid.linalg.enclosure import (
    TINY,
    UNIT,
    column_sums,
    expected_solver,
    gamma,
    gram_gap,
    norm,
    product,
    product_gamma,
    sum_gamma,
)
from fastfid.runtime.matrices import EPS

_CLEAR = 16.0
"""A Cholesky factor is kept where λmin is this many times d·eps·λmax; λmin is estimated to a small factor."""

_NEGATIVE = 1e-5
"""Eigenvalues down to −this·λmax count as zero, with a note: float32 moments reach 1e-6. Beyond, Σ is no covariance."""


class Factor(NamedTuple):
    """Σ = root_scale² · F Fᵀ.

    Attributes:
        f: float64 [d, rank]; lower triangular where ``triangular``.
        root_scale: power of two.
        trace: tr(Σ₊) / root_scale².
        trace_rounding: its largest error.
        note: what a caller should know, or None.
        rounding: ‖error of f‖_F, where f is not the definition of the pair but computed from samples.
        triangular: whether f is lower triangular.
        below, above: how far F Fᵀ is from Σ₊ / root_scale², as the module says.
        inverse: tr (F Fᵀ)⁻¹, where ``proven`` at least that; infinite for what has no inverse.
        inverse_diagonal: [d] of (F Fᵀ)⁻¹, at least that; None where unknown.
        removed: sum of the negative eigenvalues that count as zero, / root_scale²: zero or below.
        proven: whether trace_rounding, below, above and inverse are bounds, or what is expected.
    """

    f: torch.Tensor
    root_scale: float
    trace: float
    trace_rounding: float
    note: str | None = None
    rounding: float = 0.0
    triangular: bool = False
    below: float = 0.0
    above: float = 0.0
    inverse: float = math.inf
    inverse_diagonal: torch.Tensor | None = None
    removed: float = 0.0
    proven: bool = False

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


def factor(sigma: torch.Tensor, argument: str, *, proven: bool = False, plain: Factor | None = None) -> Factor:
    """The factor of a symmetric positive semi-definite matrix.

    Args:
        sigma: float64 [d, d], exactly symmetric.
        argument: its name in the caller's signature, for messages.
        proven: measure how far the factor is from the exact Σ₊, in place of what is expected of LAPACK.
        plain: what this function gave for the same matrix without a proof, where that is known.

    Raises:
        NotPSDError: an eigenvalue below −1e-5 of the largest.

    Numerics:
        ‖Σ − F Fᵀ‖₂ ≤ (d + 24)·eps·‖Σ‖₂ in all that was tried (tests/test_linalg.py::test_factor_backward_error), except
        where the note says that larger negative eigenvalues were set to zero; ``proven`` measures it.
    """
    matrix, root = scaled(sigma)
    if proven and plain is not None and plain.triangular:
        return _proven(plain, matrix)
    d = matrix.shape[0]
    trace = math.fsum(matrix.diagonal().tolist())
    cholesky, info = torch.linalg.cholesky_ex(matrix)
    size = float(torch.linalg.matrix_norm(matrix))
    if int(info) == 0:
        smallest, inverse = _smallest_eigenvalue(cholesky)
        if smallest > _CLEAR * d * EPS * size:
            near = expected_solver(d) * size
            made = Factor(
                cholesky, root, trace, gamma(2) * trace, triangular=True, below=near, above=near, inverse=inverse
            )
            return _proven(made, matrix) if proven else made
    values, vectors = torch.linalg.eigh(matrix)
    return _truncated(matrix, values, vectors, root, trace, argument, proven=proven)


def _proven(made: Factor, matrix: torch.Tensor) -> Factor:
    """A Cholesky factor with its distance from the exact Σ₊ measured."""
    d = matrix.shape[0]
    frobenius, spectral = gram_gap(matrix, made.f, triangular=True)
    inverse = halves.inverse(made.f)
    left = halves.lower_product(inverse, made.f)
    left.diagonal().sub_(1.0)
    rest = norm(left) + (gamma(d) + UNIT) * norm(inverse) * norm(made.f)
    diagonal, total = None, math.inf
    if rest < 0.5:  # (LLᵀ)⁻¹ = L⁻ᵀL⁻¹ and L⁻¹ = (I + rest)⁻¹ J
        total = (norm(inverse) / (1.0 - rest)) ** 2
        diagonal = column_sums(inverse * inverse) * ((1.0 + sum_gamma(d)) / (1.0 - rest) ** 2)
    definite = spectral * total < 1.0
    return made._replace(
        trace_rounding=gamma(2) * made.trace + (0.0 if definite else math.sqrt(d) * frobenius),
        below=spectral,
        above=spectral if definite else 2 * spectral,
        inverse=total,
        inverse_diagonal=diagonal,
        proven=True,
    )


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
    centred = shifted - column_sums(shifted) / n
    pivot = centred[0] + column_sums(centred) / math.sqrt(n)
    f = (centred[1:] - pivot / (math.sqrt(n) + 1.0)).T / math.sqrt(divisor)
    size = norm(f)
    # H takes the mean out exactly, whatever it is; its own sums are off by sum_gamma Σ|c| ≤ sum_gamma √n ‖c‖
    spread = (norm(shifted) + norm(centred)) / math.sqrt(divisor)
    rounding = 2 * UNIT * spread + (3 * sum_gamma(n) + 8 * UNIT) * norm(centred) / math.sqrt(divisor) + 4 * UNIT * size
    rounding += TINY
    trace = math.fsum(column_sums(f * f).tolist())
    error = 2 * rounding * size + rounding * rounding + sum_gamma(f.shape[0]) * trace + TINY
    return Factor(f, root, trace, error, rounding=rounding, proven=True)


def _truncated(
    matrix: torch.Tensor,
    values: torch.Tensor,
    vectors: torch.Tensor,
    root: float,
    trace: float,
    argument: str,
    *,
    proven: bool,
) -> Factor:
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
    whole = vectors * values.abs().sqrt()
    keep, negative = values > d * EPS * largest, values < 0.0
    left_out = float(values[~keep].clamp_min(0.0).max()) if bool((~keep).any()) else 0.0
    removed = math.fsum(column_sums(whole * whole)[negative].tolist())
    f = whole[:, keep]
    if not proven:
        near = expected_solver(d) * float(torch.linalg.vector_norm(values))
        error = gamma(2) * trace + math.sqrt(d) * near
        above = near + left_out
        return Factor(f, root, trace + removed, error, note, below=near, above=above, removed=-removed)
    gap, spectral = gram_gap(matrix, whole, torch.where(negative, -1.0, 1.0).to(values.dtype), powers=3)
    overlap = halves.mirrored(halves.lower_outer(vectors.T, vectors.T, multiply=product))
    overlap.diagonal().sub_(1.0)
    rho = norm(overlap) + (product_gamma(d) + 8 * UNIT) * norm(vectors) ** 2
    if rho < 0.5:  # ‖NNᵀ − N⊥N⊥ᵀ‖_F ≤ 2 ‖N∥‖ ‖N‖, N∥ the part of N in the range of F₁
        gap += 4 * rho * math.sqrt(d) * abs(min(smallest, 0.0)) + TINY
    else:
        gap = math.inf
    error = gamma(2) * trace + sum_gamma(d) * removed + math.sqrt(d) * gap
    # or Σ ⪰ C − e ⪰ −(e + ‖N‖²), so that Σ₊ is between F₁F₁ᵀ − ‖N‖² − e and F₁F₁ᵀ + ‖N‖² + 2e, e = ‖Σ − C‖₂
    swell = 1.0 + rho + 8 * UNIT
    lost = abs(min(smallest, 0.0)) * swell
    below, above = min(gap, spectral + lost), min(gap, 2 * spectral + lost) + left_out * swell
    return Factor(f, root, trace + removed, error, note, below=below, above=above, removed=-removed, proven=True)


def _smallest_eigenvalue(cholesky: torch.Tensor) -> tuple[float, float]:
    """(λmin(LLᵀ), tr (LLᵀ)⁻¹), the first at most 2 times too large, the second an estimate.

    Two block inverse iterations from fixed pseudo-random vectors; the first one's growth is d tr (LLᵀ)⁻¹ on average.
    """
    d = cholesky.shape[0]
    block = min(d, 4)
    index = torch.arange(d * block, dtype=torch.float64, device="cpu").reshape(d, block)
    vectors = (torch.frac(torch.sin(index * 12.9898 + 1.0) * 43758.5453)).to(cholesky.device)
    growth, trace = torch.zeros(block, dtype=torch.float64, device=cholesky.device), math.inf
    for step in range(2):
        vectors = vectors / vectors.abs().amax(dim=0)  # the squares of what a factor of 1e±160 leaves would overflow
        vectors = vectors / torch.linalg.vector_norm(vectors, dim=0)
        half = torch.linalg.solve_triangular(cholesky, vectors, upper=False)
        growth = torch.linalg.vector_norm(half, dim=0) ** 2
        vectors = torch.linalg.solve_triangular(cholesky.mT, half, upper=True)
        trace = d * float(growth.mean()) if step == 0 else trace
    largest = float(growth.max())
    return (1.0 / largest, trace) if math.isfinite(largest) else (0.0, math.inf)
