"""tr (Σ₁Σ₂)^½ = ‖F₁ᵀF₂‖_* from two factors, by the route that is asked for or that the cost model picks.

The cost model, in multiples of d³ flops, and what decides beside them:

    eigvalsh        10/3 for F₁ᵀF₂ and half its Gram matrix, 4/3 for the tridiagonal reduction: the CPU's default
    eigh            the same, 4 to 6 for the vectors and 4 for what checks them: proven, what ``certify`` means
    svd             with vectors, 20 or more and memory-bound: the tightest that there is, and proven
    newton-schulz   4 a step (6 without the symmetric engine), 11 steps or more, but only products: the GPU's default

Where the factors are not square (samples, singular covariances) the same holds of the smaller side: ``low-rank`` is no
other arithmetic. A route that breaks down, whose enclosure is wider than ``rtol``, or that has lost too many digits by
its own estimate hands over to the next, and the notes say so: newton-schulz → eigvalsh or eigh → svd.

From F Fᵀ to the exact Σ₊. F(A, B) = tr (A^½BA^½)^½ is monotone, jointly concave, and F(A + C, B) ≤ F(A, B) + F(C, B).
With A' = F₁F₁ᵀ, −below·I ⪯ A − A' ⪯ above·I and e the one or the other, each side moves the trace by at most

    √e Σᵢ √bᵢᵢ                  since F(eI, B) = √e tr B^½ and the diagonal is majorised by the eigenvalues; and
    ½ e tr T (+ ½ ε²F below)    where A' is invertible: T = A'⁻¹ # B is the supergradient, tr T ≤ Σᵢ √((A'⁻¹)ᵢᵢ bᵢᵢ),
                                ε = e ‖A'⁻¹‖ ≤ 1: F(A' + E, B) ≥ tr (I + F₁⁻¹EF₁⁻ᵀ)^½H, √(1 + x) ≥ 1 + x/2 − x²/2,

the smaller of which is taken. Bounds of proven factors and a proven norm are proven; else they are probable.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastfid.linalg import nuclear
from fastfid.linalg.enclosure import (
    TINY,
    Enclosure,
    column_sums,
    expected_rounding,
    gamma,
    norm,
    product,
    product_gamma,
)
from fastfid.linalg.factors import Factor, scaled
from fastfid.linalg.halves import transposed_product
from fastfid.linalg.iteration import PolarIterate

_SMALL = 32
"""Up to this smaller side vectors cost no more than the calls around them, and the proven route is the default."""

METHODS = ("auto", "eigvalsh", "eigh", "newton-schulz", "low-rank", "svd")


class RootTrace(NamedTuple):
    """tr (Σ₁Σ₂)^½ with its bounds and how it was found."""

    bounds: Enclosure
    method: str
    steps: int
    notes: tuple[str, ...]
    proven: bool = True


def product_of_factors(f1: Factor, f2: Factor) -> tuple[torch.Tensor, float]:
    """(M = F₁ᵀF₂, how far M in memory is from the exact product, in the Frobenius norm), both without the scales.

    With proven factors the distance is a bound, else what is expected.
    """
    d = f1.f.shape[0]
    norms = (norm(f1.f), norm(f2.f))
    proven = f1.proven and f2.proven
    each = product_gamma(d) if proven else expected_rounding(d)
    rounding = each * norms[0] * norms[1] + f1.rounding * norms[1] + f2.rounding * (norms[0] + f1.rounding) + TINY
    multiply = product if proven else torch.matmul
    triangular = (f1.triangular, f2.triangular)
    return transposed_product(f1.f, f2.f, triangular=triangular, multiply=multiply), rounding


def drift(one: Factor, other: Factor, upper: float) -> tuple[float, float]:
    """(down, up): how far replacing F₁F₁ᵀ by the exact Σ₁ may move the trace; ``upper`` bounds it before and after."""
    rows = column_sums((other.f * other.f).T) * (1.0 + gamma(64)) + (other.above + TINY)
    roots = float(rows.sqrt().sum()) * (1.0 + 1e-6)
    total = math.fsum(rows.tolist())
    slope = math.inf
    if math.isfinite(one.inverse):
        slope = min(one.inverse * upper, math.sqrt(one.inverse * total))
        if one.inverse_diagonal is not None:
            slope = min(slope, float((one.inverse_diagonal * rows).sqrt().sum()))
        slope *= 1.0 + 1e-6

    def moved(size: float, curved: bool) -> float:
        if size <= 0.0:
            return 0.0
        relative = size * one.inverse
        linear = size * slope / 2 + (relative * relative * upper / 2 if curved else 0.0)
        return min(math.sqrt(size) * roots, linear if relative <= 1.0 or not curved else math.inf)

    return moved(one.below, True), moved(one.above, False)


def _widened(found: Enclosure, f1: Factor, f2: Factor) -> Enclosure:
    """The enclosure of ‖F₁ᵀF₂‖_*, made one of the exact trace: first side 2, then side 1 beside the exact side 2."""
    roots = [
        math.sqrt(f.above) * float((column_sums((g.f * g.f).T) + g.above).sqrt().sum()) for f, g in ((f1, f2), (f2, f1))
    ]
    most = (found.upper + roots[0] + roots[1]) * (1.0 + 1e-6)
    first, second = drift(f1, f2, most), drift(f2, f1, most)
    return found.widened(first[0] + second[0], first[1] + second[1])


def _ordered(f1: Factor, f2: Factor) -> tuple[Factor, Factor]:
    """The pair in an order that does not depend on who came first, so that the result is symmetric to the last bit."""
    keys = [(f.rank, f.root_scale, f.trace, f.f.sum().item()) for f in (f1, f2)]
    return (f1, f2) if keys[0] <= keys[1] else (f2, f1)


def resolve(method: str, device: torch.device, certify: bool) -> str:
    """What ``auto`` and ``low-rank`` mean on a device."""
    if method in ("auto", "low-rank"):
        method = "newton-schulz" if device.type == "cuda" else "eigvalsh"
    return "eigh" if certify and method == "eigvalsh" else method


def wants_proof(method: str, device: torch.device, certify: bool, size: int) -> bool:
    """Whether the route takes proven factors; ``size`` is the smaller side."""
    small = size <= _SMALL and method in ("auto", "low-rank")
    return certify or small or resolve(method, device, certify) != "eigvalsh"


def trace_of_root(f1: Factor, f2: Factor, method: str, *, certify: bool, rtol: float) -> RootTrace:
    """The trace of the root from two factors on one device; ``method`` is one of METHODS, already checked."""
    f1, f2 = _ordered(f1, f2)
    m, rounding = product_of_factors(f1, f2)
    scale = f1.root_scale * f2.root_scale
    proven, small = f1.proven and f2.proven, min(m.shape) <= _SMALL
    chosen = resolve(method, m.device, certify)
    notes: list[str] = []
    if proven and small and (certify or method in ("auto", "low-rank")) and chosen in ("eigvalsh", "eigh"):
        chosen = "svd"

    def made(bounds: Enclosure, name: str, sure: bool = True) -> RootTrace:
        return RootTrace(_widened(bounds, f1, f2).scaled(scale), name, 0, tuple(notes), proven and sure)

    if m.numel() == 0:
        return made(Enclosure(0.0, 0.0, 0.0), chosen)
    if chosen == "newton-schulz":
        found = nuclear.by_newton_schulz(m[None], torch.tensor([rounding], dtype=torch.float64, device=m.device), rtol)
        if found.tight(min(rtol, nuclear.NS_RTOL)):
            return _from_iterate(found, 0, f1, f2)
        notes.append(wide_note(found, 0, rtol))
        chosen = "eigh" if certify else "eigvalsh"
    if chosen == "eigvalsh":
        try:
            bounds, lost = nuclear.by_eigenvalues(m, rounding)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            notes.append(f"eigvalsh broke down and handed over to svd: {error}")
        else:
            note = gram_note(bounds, lost, rtol)
            if note is None:
                return made(bounds, "eigvalsh", sure=False)
            notes.append(note)
    if chosen == "eigh":
        try:
            bounds = nuclear.by_eigenvectors(m, rounding)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            notes.append(f"eigh broke down and handed over to svd: {error}")
        else:
            limit = min(rtol, nuclear.VECTOR_LOSS)
            if bounds.width <= limit * bounds.value:
                return made(bounds, "eigh")
            notes.append(f"eigh handed over to svd: its enclosure is wider than {limit:g} of the trace")
    return made(nuclear.by_singular_vectors(m, rounding), "svd")


def traces_of_roots(pairs: list[tuple[Factor, Factor]], method: str, *, certify: bool, rtol: float) -> list[RootTrace]:
    """As ``trace_of_root`` for many pairs; the polar iteration takes products of one shape in one batch."""
    device = pairs[0][0].f.device
    if resolve(method, device, certify) != "newton-schulz":
        return [trace_of_root(f1, f2, method, certify=certify, rtol=rtol) for f1, f2 in pairs]
    out: dict[int, RootTrace] = {}
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index, (f1, f2) in enumerate(pairs):
        by_shape.setdefault((min(f1.rank, f2.rank), max(f1.rank, f2.rank)), []).append(index)
    for (p, q), members in by_shape.items():
        chunk = max(1, _BATCH_ENTRIES // max(p * q, 1))
        for start in range(0, len(members) if p * q else 0, chunk):
            part = members[start : start + chunk]
            products = [product_of_factors(*_ordered(*pairs[index])) for index in part]
            rounding = torch.tensor([r for _, r in products], dtype=torch.float64, device=device)
            found = nuclear.by_newton_schulz(torch.stack([m for m, _ in products]), rounding, rtol)
            for position, index in enumerate(part):
                if found.one_is_tight(position, min(rtol, nuclear.NS_RTOL)):
                    out[index] = _from_iterate(found, position, *pairs[index])
    return [
        out[index] if index in out else trace_of_root(*pairs[index], method, certify=certify, rtol=rtol)
        for index in range(len(pairs))
    ]


_BATCH_ENTRIES = 4 * 2048 * 2048
"""Entries of M iterated at once: four 2048² problems, about 1 GiB with the iteration's own arrays."""


def trace_from_samples(f1: Factor, sigma2: torch.Tensor, *, rtol: float) -> RootTrace | None:
    """Σ √λ(F₁ᵀΣ₂F₁) for thin F₁ [d, r], without a factor of Σ₂; None where that keeps too few digits.

    Args:
        sigma2: covariance [d, d] that is positive semi-definite because samples made it.
    """
    x = f1.f.T
    near_one, root_scale = scaled(sigma2)
    half = x @ near_one
    size = float(torch.linalg.matrix_norm(x))
    sigma_norm = float(torch.linalg.matrix_norm(near_one))
    rounding = (2 * expected_rounding(x.shape[1]) * size + 2 * f1.rounding) * size * sigma_norm
    bounds, lost = nuclear.by_gram(half @ x.T, rounding)
    if gram_note(bounds, lost, rtol) is not None:
        return None
    return RootTrace(bounds.scaled(f1.root_scale * root_scale), "eigvalsh", 0, ())


def gram_note(bounds: Enclosure, lost: float, rtol: float) -> str | None:
    """Why eigenvalues of a Gram matrix do not suffice; None where they do."""
    if lost > nuclear.GRAM_LOSS:
        return f"eigvalsh handed over to svd: up to {lost:.0e} of the trace may be lost in the square"
    if bounds.width > rtol * bounds.value:
        return f"eigvalsh handed over to svd: its enclosure is wider than rtol = {rtol:g}"
    return None


def wide_note(found: PolarIterate, index: int, rtol: float) -> str:
    """Why the polar iteration did not suffice."""
    width = float((found.upper - found.lower)[index] / found.value[index])
    return (
        f"newton-schulz handed over: after {found.steps} steps its enclosure is {width:.1e} of the trace, "
        f"wider than {min(rtol, nuclear.NS_RTOL):g}"
    )


def _from_iterate(found: PolarIterate, index: int, f1: Factor, f2: Factor) -> RootTrace:
    bounds = Enclosure(float(found.value[index]), float(found.lower[index]), float(found.upper[index]))
    notes = ("float32 steps, polished and enclosed in float64",) if found.precision == "mixed" else ()
    whole = _widened(bounds, f1, f2).scaled(f1.root_scale * f2.root_scale)
    return RootTrace(whole, "newton-schulz", found.steps, notes, f1.proven and f2.proven)
