"""What float64 arithmetic may have added, and two-sided bounds of sums of singular values.

Proven (u = 2⁻⁵³, γ_k = k u / (1 − k u); Higham, *Accuracy and Stability*, §3): a product of inner dimension k,
summed in any order, fused or not, is off by at most γ_k |A||B| in every entry. ``product`` sums blocks of 128, so that
its chain is 128 + k/128 at most; ``column_sums`` halves, so that its chain is 2⌈log₂ k⌉. Every norm is a bound: it is
inflated by 1e-6, which holds for 8e9 entries. ``gram_gap`` measures ‖Σ − F S Fᵀ‖ beyond float64: the leading bits
of F multiply without any rounding. No solver is trusted: what it returns is checked by such products.

Probable, and called so wherever it is used: ``from_gram_eigenvalues`` and ``expected_rounding``, which take LAPACK's
eigenvalues to be those of a matrix within max(4, √k)·eps·‖A‖_F, and products to be off by 4√k·u.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastfid.linalg.halves import bands, lower_outer, mirrored
from fastfid.runtime.matrices import EPS

UNIT = EPS / 2
"""Unit roundoff of float64."""

TINY = 1e-150
"""Stands for what underflow may have taken: matrices come scaled to entries near one."""

_UP = 1.0 + 1e-6
"""Rounding of a norm and of the few operations on it: N u ≤ 1e-6 for N ≤ 9e9 entries."""

_BLOCK = 128
"""Terms that a product sums at once."""

_ROWS = 256
"""Rows that a product makes at once on a CPU, whose sums then stay in its cache."""


class Enclosure(NamedTuple):
    """lower ≤ exact ≤ upper, and the computed value between them."""

    value: float
    lower: float
    upper: float

    @property
    def width(self) -> float:
        """upper − lower."""
        return self.upper - self.lower

    def scaled(self, factor: float) -> Enclosure:
        """All three times a power of two."""
        return Enclosure(self.value * factor, self.lower * factor, self.upper * factor)

    def widened(self, down: float, up: float) -> Enclosure:
        """lower − down (not below zero) and upper + up, rounded outwards."""
        slack = 2 * UNIT * (self.upper + up)
        return Enclosure(self.value, max(self.lower - down - slack, 0.0), self.upper + up + slack)


def gamma(k: int) -> float:
    """γ_k = k u / (1 − k u), a hair above."""
    return k * UNIT / (1.0 - k * UNIT) * (1.0 + 4 * UNIT)


def product_gamma(k: int) -> float:
    """The γ of ``product`` for inner dimension k."""
    return gamma(min(k, _BLOCK) + max(0, math.ceil(k / _BLOCK) - 1))


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b for [..., m, k], [..., k, n], off by at most product_gamma(k) |a||b| in every entry."""
    k, rows = a.shape[-1], a.shape[-2]
    if rows > _ROWS and a.ndim == b.ndim == 2 and a.device.type == "cpu":
        out = a.new_empty(rows, b.shape[-1])
        for start in range(0, rows, _ROWS):
            out[start : start + _ROWS] = product(a[start : start + _ROWS], b)
        return out
    out = a[..., :_BLOCK] @ b[..., :_BLOCK, :]
    for start in range(_BLOCK, k, _BLOCK):
        out += a[..., start : start + _BLOCK] @ b[..., start : start + _BLOCK, :]
    return out


def column_sums(x: torch.Tensor) -> torch.Tensor:
    """Sums over the second last axis of [..., p, q], off by at most sum_gamma(p) Σ|x|."""
    while x.shape[-2] > 1:
        half = x.shape[-2] // 2
        y = x[..., :half, :] + x[..., half : 2 * half, :]
        if x.shape[-2] % 2:
            y[..., :1, :] += x[..., -1:, :]
        x = y
    return x[..., 0, :] if x.shape[-2] else x.sum(-2)


def sum_gamma(p: int) -> float:
    """The γ of ``column_sums`` of products over p rows, the products' own rounding and one operation more included."""
    return gamma(2 * max(p, 1).bit_length() + 2)


def norm(x: torch.Tensor) -> float:
    """An upper bound of ‖x‖_F."""
    return float(torch.linalg.vector_norm(x)) * _UP + TINY


def gram_gap(
    target: torch.Tensor,
    f: torch.Tensor,
    signs: torch.Tensor | None = None,
    *,
    triangular: bool = False,
    powers: int = 0,
) -> tuple[float, float]:
    """Upper bounds of ‖T − F S Fᵀ‖ in the Frobenius and in the spectral norm.

    F is split into leading bits H, so few that H S Hᵀ is exact, and the rest R: F S Fᵀ = H S Hᵀ + C + Cᵀ with
    C = (H + R/2) S Rᵀ, which is 2⁻ᵇ times smaller, and so is its rounding.

    Args:
        target: symmetric float64 [d, d].
        f: float64 [d, k].
        signs: ±1 for each column, or None for +1.
        triangular: whether f is lower triangular; then there are no signs.
        powers: how often the difference is squared for a sharper spectral norm, ‖E‖₂² = ‖E²‖₂; a product each.
    """
    k = f.shape[1]
    if k == 0:
        return norm(target), norm(target)
    bits = (53 - max(k - 1, 1).bit_length()) // 2 - 1
    exponent = torch.frexp(f.abs().amax(dim=1, keepdim=True)).exponent.clamp_min(-900)
    magic = torch.ldexp(torch.full_like(f[:, :1], 1.5), exponent + 52 - bits)
    head = (f + magic) - magic
    rest = f - head
    middle = head + rest / 2
    left = [x if signs is None else x * signs for x in (head, middle, rest)]
    whole = target.new_empty(target.shape) if powers else None
    squares, first_squares = [], []
    rows = target.new_zeros(target.shape[0])
    for start, end in bands(target.shape[0], target.device):  # the lower half, a strip of columns at a time
        inner = min(end, k) if triangular else k
        low, strip = (slice(start, None), slice(inner)), (slice(start, end), slice(inner))
        part = target[start:, start:end] - left[0][low] @ head[strip].T
        part[: end - start].tril_()
        first_squares.append(_lower_squares(part))
        part -= left[1][low] @ rest[strip].T
        part -= left[2][low] @ middle[strip].T
        part[: end - start].tril_()
        squares.append(_lower_squares(part))
        if whole is not None:
            whole[start:, start:end] = part
        size = part.abs()
        rows[start:] += size.sum(1)
        rows[start:end] += size.sum(0) - size.diagonal()
    first, frobenius = (math.sqrt(math.fsum(x)) * _UP + TINY for x in (first_squares, squares))
    error = 3 * UNIT * first + 2 * (gamma(k) + 4 * UNIT) * norm(middle) * norm(rest) + TINY
    error += 2 * UNIT * frobenius
    spectral = min(frobenius, float(rows.max()) * _UP)
    if whole is not None:
        spectral = min(spectral, _spectral(mirrored(whole), powers))
    return frobenius + error, spectral + error


def _lower_squares(strip: torch.Tensor) -> float:
    """‖x‖_F² of a symmetric x over what a strip of its lower half [n, w], zero above its diagonal, stands for."""
    return 2 * float(torch.linalg.vector_norm(strip)) ** 2 - float(torch.linalg.vector_norm(strip.diagonal())) ** 2


def _spectral(x: torch.Tensor, powers: int) -> float:
    """An upper bound of ‖x‖₂ for symmetric x."""
    size = norm(x)
    if powers == 0 or size <= 100 * TINY:
        return size
    small = x / size
    return size * math.sqrt(_spectral(small @ small, powers - 1) + gamma(x.shape[0])) * _UP


def from_vectors(m: torch.Tensor, v: torch.Tensor, rounding: float) -> Enclosure:
    """Proven bounds of ‖m‖_* for m [p, q], p ≤ q, known to ``rounding`` (Frobenius), from any v [p, p].

    They are tight where v is nearly the left singular vectors. With W = mᵀv (columns of length sᵢ), R = vᵀv − I of
    norm at most ρ < 1/2, and G = D⁻¹WᵀWD⁻¹ − I, D = diag(s), gᵢᵢ = 0 but for rounding:

        Σ sᵢ (max(0, 1 − ½‖G eᵢ‖²) − ½rᵢᵢ − ρ‖G eᵢ‖)   ≤   ‖m‖_*   ≤   Σ sᵢ (1 − ½rᵢᵢ + ½ρ²/(1 − ρ)).

    Right: m = v⁻ᵀWᵀ is a sum of p matrices of rank one, and [(I + R)⁻¹]ᵢᵢ ≤ 1 − rᵢᵢ + ρ²/(1 − ρ). Left: ‖m‖_* =
    ‖(I + G)^½ D (I + R)^-½‖_* is at least the trace; √(1 + x) ≥ 1 + x/2 − x²/2 and 1/√(1 + x) ≥ 1 − x/2. Both are of
    second order in the error of v, so that rounding of R and G does not count. Columns that are noise are set to zero
    on the left first, which takes their lengths from the bound once more.
    """
    p, q = m.shape
    w = product(m.T, v)
    lengths = column_sums(w * w).sqrt()
    own = column_sums(v * v)
    r = mirrored(lower_outer(v.T, v.T))
    r.diagonal().sub_(1.0)
    rho = norm(r) + gamma(p) * norm(v) ** 2
    if not rho < 0.5:
        return Enclosure(math.fsum(lengths.tolist()), 0.0, math.inf)
    del r
    slack = math.sqrt(p) * _UP * ((product_gamma(p) * norm(m) * norm(v) + TINY) / (1.0 - rho) + rounding)
    unit = w / torch.where(lengths > 0.0, lengths, 1.0)
    g = mirrored(lower_outer(unit.T, unit.T))
    g.diagonal().zero_()
    tilts = column_sums(g * g)
    total = math.fsum(lengths.tolist())
    rest = torch.zeros_like(lengths, dtype=torch.bool)
    if float((tilts * lengths).sum()) / 2 > float(lengths.min()):  # else nothing that is left out costs as little
        rest = _best_split(lengths, g)
        g[rest] = 0.0
        tilts = column_sums(g * g)
    left_out = math.fsum(lengths[rest].tolist()) * _UP
    tilt = tilts.sqrt() * _UP + math.sqrt(p) * (gamma(q) + 4 * UNIT) * _UP
    del g
    half = sum_gamma(max(p, q))  # of rᵢᵢ, gᵢᵢ and of each length
    s, diagonal, kept = lengths.tolist(), (own - 1.0).tolist(), (~rest).tolist()
    parts = [
        a * (max(0.0, 1.0 - t * t / 2) - b / 2 - rho * t)
        for a, b, t, keep in zip(s, diagonal, tilt.tolist(), kept, strict=True)
        if keep
    ]
    lower = math.fsum(parts) - 3 * half * total - slack - left_out / (1.0 - rho)
    upper = math.fsum([a * (1.0 - b / 2) for a, b in zip(s, diagonal, strict=True)])
    upper += (3 * half + rho * rho) * total + slack
    return Enclosure(min(max(total, lower, 0.0), upper), max(lower, 0.0), upper)


def _best_split(lengths: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Mask of the short columns whose directions are noise: leaving them out costs least. Any mask is right."""
    order = lengths.argsort(descending=True)
    s = lengths[order]
    weighted = (g[order][:, order].square() * s / 2).cumsum(0).cumsum(1).diagonal()
    cost = weighted + (s.sum() - s.cumsum(0))
    rest = torch.ones_like(lengths, dtype=torch.bool)
    rest[order[: int(cost.argmin()) + 1]] = False
    return rest


def expected_rounding(k: int) -> float:
    """4√k u (probable): rounding of a product of inner dimension k against ‖A‖_F ‖B‖_F."""
    return min(k + 2, 4.0 * math.sqrt(k + 2)) * UNIT


def expected_solver(k: int) -> float:
    """max(4, √k)·eps (probable): backward error of LAPACK's symmetric eigenvalues, against ‖A‖_F."""
    return max(4.0, math.sqrt(k)) * EPS


def from_gram_eigenvalues(values: torch.Tensor, rounding: float) -> Enclosure:
    """Bounds of Σ√λ from computed eigenvalues [k] (ascending) of a PSD matrix known to ``rounding`` (Frobenius).

    With eigenvalues off by δᵢ and √Σδᵢ² ≤ ε (Hoffman & Wielandt), |√λ̂ − √λ| ≤ |δ|/√λ̂ and ≤ √|δ|, so for any split of
    the spectrum into j small ones and the rest

        |Σ√λ̂ − Σ√λ| ≤ j^¾ √ε + ε √(Σ_rest 1/λ̂),

    of which the best split is taken. ε takes in ``expected_solver``: the bounds are probable, not proven.
    """
    k = values.shape[0]
    positive = values.clamp_min(0.0)
    value = math.fsum(positive.sqrt().tolist())
    epsilon = rounding + expected_solver(k) * float(torch.linalg.vector_norm(values))
    if epsilon == 0.0:
        return Enclosure(value, value, value)
    inverse = torch.zeros(k + 1, dtype=torch.float64, device=values.device)
    inverse[:k] = torch.where(positive > 0.0, 1.0 / positive, math.inf).flip(0).cumsum(0).flip(0)
    small = torch.arange(k + 1, dtype=torch.float64, device=values.device)
    error = float((small**0.75 * math.sqrt(epsilon) + epsilon * inverse.sqrt()).min())
    error += 2 * EPS * value
    return Enclosure(value, max(value - error, 0.0), value + error)


def expected_gram_error(values: torch.Tensor) -> float:
    """An estimate (no bound) of the error of Σ√λ̂, some 50 times above what is seen.

    Each λ̂ is taken to be off by δ = 4 eps λmax: independently, so that the errors δ/2√λ̂ add up like noise, and all to
    the same side where λ̂ is so near to δ that its sign decides.
    """
    delta = 4 * EPS * float(values.abs().max()) if values.numel() else 0.0
    if delta == 0.0:
        return 0.0
    root = values.clamp_min(0.0).sqrt()
    known = root > 10.0 * math.sqrt(delta)
    noise = math.sqrt(float((delta / (2.0 * root[known])).square().sum()))
    return noise + math.sqrt(delta) * int((~known).sum())
