"""Sum of the singular values of a product of factors, by eigenvalues of its Gram matrix or by singular values.

    ‖M‖_* = Σ √λ(MMᵀ) = Σ σ(M),        M = F₁ᵀF₂

Eigenvalues are three times cheaper but know σ only through its square: below √eps·σmax nothing is left of it. So they
are trusted only where what they are likely to have lost is below 1e-10 of the sum.
"""

from __future__ import annotations

import torch

from fastfid.linalg import enclosure
from fastfid.linalg.enclosure import Enclosure

GRAM_LOSS = 1e-10
"""Largest expected relative error of Σ√λ(MMᵀ) at which the Gram route is used."""


def by_eigenvalues(m: torch.Tensor, rounding: float) -> tuple[Enclosure, float]:
    """(enclosure of ‖m‖_*, likely relative error) for m [p, q] float64 known to ``rounding`` in the Frobenius norm."""
    p, q = m.shape
    if min(p, q) == 0:
        return Enclosure(0.0, 0.0, 0.0), 0.0
    gram = m @ m.T if p <= q else m.T @ m
    norm = float(torch.linalg.matrix_norm(m))
    values: torch.Tensor = torch.linalg.eigvalsh(gram)
    forming = enclosure.product_rounding(max(p, q)) * norm * norm
    bounds = enclosure.from_gram_eigenvalues(values, forming)
    widened = _widen(bounds, rounding * min(p, q) ** 0.5)
    lost = enclosure.expected_gram_error(values)
    return widened, lost / bounds.value if bounds.value > 0.0 else 0.0


def by_singular_values(m: torch.Tensor, rounding: float) -> Enclosure:
    """Enclosure of ‖m‖_* for m [p, q] float64 known to ``rounding`` in the Frobenius norm."""
    if m.numel() == 0:
        return Enclosure(0.0, 0.0, 0.0)
    return enclosure.from_singular_values(torch.linalg.svdvals(m), rounding)


def _widen(bounds: Enclosure, by: float) -> Enclosure:
    return Enclosure(bounds.value, max(bounds.lower - by, 0.0), bounds.upper + by)
