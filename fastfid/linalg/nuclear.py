"""Sum of the singular values of a product of factors: by eigenvalues, singular values or the polar iteration.

    ‖M‖_* = Σ √λ(MMᵀ) = Σ σ(M),        M = F₁ᵀF₂

Eigenvalues alone are three times cheaper but know σ only through its square: below √eps·σmax nothing is left of it. So
they are trusted only where a cautious estimate of what they have lost stays below 1e-9 of the sum (measured: 1e-11
there), and what they give is a probable interval. Vectors can be checked: theirs is proven, whoever computed them, and
as tight as they are good: eigenvectors of MMᵀ first (``by_eigenvectors``), singular vectors where these are not enough.
"""

from __future__ import annotations

import torch

from fastfid.linalg import enclosure
from fastfid.linalg.enclosure import Enclosure
from fastfid.linalg.halves import lower_outer
from fastfid.linalg.iteration import PolarIterate, Products, polar_iteration
from fastfid.runtime.device import has_fast_float64
from fastfid.runtime.dispatch import function_for

NS_RTOL = 1e-8
"""Widest relative enclosure the polar iteration is content with, whatever looser one is asked for."""

GRAM_LOSS = 1e-9
"""Largest estimated relative error of Σ√λ(MMᵀ) at which the Gram route is used."""


VECTOR_LOSS = 1e-10
"""Widest relative enclosure by eigenvectors of the Gram matrix that is kept: beyond it the square has cost digits."""


def by_eigenvalues(m: torch.Tensor, rounding: float) -> tuple[Enclosure, float]:
    """(enclosure of ‖m‖_*, likely relative error) for m [p, q] float64 known to ``rounding`` in the Frobenius norm."""
    p, q = m.shape
    rows = m if p <= q else m.T
    norm = float(torch.linalg.matrix_norm(m))
    forming = enclosure.expected_rounding(max(p, q)) * norm * norm
    bounds, lost = by_gram(lower_outer(rows, rows), forming)
    by = rounding * min(p, q) ** 0.5
    return Enclosure(bounds.value, max(bounds.lower - by, 0.0), bounds.upper + by), lost


def by_gram(gram: torch.Tensor, rounding: float) -> tuple[Enclosure, float]:
    """(enclosure of Σ√λ, likely relative error) of a PSD [k, k] known to ``rounding``; its lower half is read."""
    if gram.numel() == 0:
        return Enclosure(0.0, 0.0, 0.0), 0.0
    values = torch.linalg.eigvalsh(gram, UPLO="L")
    bounds = enclosure.from_gram_eigenvalues(values, rounding)
    lost = enclosure.expected_gram_error(values)
    return bounds, lost / bounds.value if bounds.value > 0.0 else 0.0


def by_eigenvectors(m: torch.Tensor, rounding: float) -> Enclosure:
    """Proven enclosure of ‖m‖_*, m [p, q] float64 known to ``rounding``, from the eigenvectors of its Gram matrix."""
    rows = m if m.shape[0] <= m.shape[1] else m.T
    return enclosure.from_vectors(rows, torch.linalg.eigh(lower_outer(rows, rows), UPLO="L").eigenvectors, rounding)


def by_singular_vectors(m: torch.Tensor, rounding: float) -> Enclosure:
    """Proven enclosure of ‖m‖_* for m [p, q] float64 known to ``rounding`` in the Frobenius norm."""
    if not bool(m.any()):
        return Enclosure(0.0, 0.0, rounding * min(m.shape) ** 0.5 * 1.000001)
    rows = m if m.shape[0] <= m.shape[1] else m.T
    return enclosure.from_vectors(rows, torch.linalg.svd(rows, full_matrices=False).U, rounding)


def by_newton_schulz(
    m: torch.Tensor, rounding: torch.Tensor, rtol: float, *, precision: str | None = None, complete: bool = False
) -> PolarIterate:
    """The polar iteration on m [B, p, q], p and q ≥ 1, known to ``rounding`` [B]; u and h belong to mᵀ where p < q.

    ``complete`` asks for the polar factor itself, in float64, also where it no longer moves the trace.
    """
    tall = m if m.shape[-2] >= m.shape[-1] else m.mT.contiguous()
    products = Products(*function_for("polar_products", m.device.type)())
    chosen = "float64" if complete else precision or ("float64" if has_fast_float64(m.device) else "mixed")
    return polar_iteration(
        tall, products, rtol=min(rtol, NS_RTOL), rounding=rounding, precision=chosen, complete=complete
    )
