"""tr (Σ₁Σ₂)^½ = ‖F₁ᵀF₂‖_* from two factors, by the route that is asked for or that the cost model picks.

The cost model, in units of d³ (products count 2, on either side of the comparison with their true shapes):

    eigvalsh     4/3 + 2 + 2      one Gram product, one tridiagonal reduction: the CPU's default
    svd          8/3 + 8/3        a bidiagonal reduction, memory-bound: three to four times eigvalsh; certifies
    newton-schulz  4 per step     11 steps or more, but nothing except products: the GPU's default; certifies

A route that breaks down, whose enclosure is wider than ``rtol``, or that is likely to have lost more than 1e-10, hands
over to the next: eigvalsh → svd, newton-schulz → eigvalsh → svd. The notes of the result say so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fastfid.linalg import nuclear
from fastfid.linalg.enclosure import Enclosure, product_rounding
from fastfid.linalg.factors import Factor

METHODS = ("auto", "eigvalsh", "newton-schulz", "low-rank", "svd")


class RootTrace(NamedTuple):
    """tr (Σ₁Σ₂)^½ with its bounds and how it was found."""

    bounds: Enclosure
    method: str
    steps: int
    notes: tuple[str, ...]


def trace_of_root(f1: Factor, f2: Factor, method: str, *, certify: bool, rtol: float) -> RootTrace:
    """The trace of the root from two factors on one device; ``method`` is one of METHODS, already checked.

    ``auto`` and ``low-rank`` mean eigvalsh here (svd where ``certify``), on whatever shape the factors have.
    """
    m = f1.f.T @ f2.f
    norms = (math.sqrt(f1.trace), math.sqrt(f2.trace))
    rounding = product_rounding(f1.f.shape[0]) * norms[0] * norms[1] + f1.rounding * norms[1] + f2.rounding * norms[0]
    scale = f1.root_scale * f2.root_scale
    notes: list[str] = []
    if method != "svd" and not certify:
        bounds, lost = nuclear.by_eigenvalues(m, rounding)
        if lost <= nuclear.GRAM_LOSS and bounds.width <= rtol * bounds.value:
            return RootTrace(bounds.scaled(scale), "eigvalsh", 0, ())
        reason = (
            f"eigenvalues of the product keep too few digits here (about {lost:.0e} of the trace may be lost)"
            if lost > nuclear.GRAM_LOSS
            else f"the enclosure from eigenvalues is wider than rtol = {rtol:g}"
        )
        notes.append(f"eigvalsh handed over to svd: {reason}")
    return RootTrace(nuclear.by_singular_values(m, rounding).scaled(scale), "svd", 0, tuple(notes))
