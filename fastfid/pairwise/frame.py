"""Where features are multiplied: centred, scaled, rounded to one dtype, with the bound on what that does to distances.

Distances do not change when both rows lose the same vector c, and a power of two scales them exactly. So
z = (x − c)·σ with c near the mean (which is most of the norm of features) and σ such that |z| ≤ 1, rounded to the
product's dtype of unit roundoff u. With a = ‖z_x‖², b = ‖z_y‖² (of the rounded rows, summed in float64) a tile holds

    lower = −2 z_xᵀ z_y + (1 − γ) a + (1 − γ) b − η,     lower ≤ σ²D ≤ lower + 2γ (a + b) + 2η,     γ = p·u / (1 − p·u)

where D is what ``direct`` computes. Proof: |lower + γ(a + b) + η − σ²D| is at most the sum of
    · the product, in any order of summation, fused or not: 2·γ_d·√(ab) ≤ γ_d (a + b)  (Higham 2002, §3.1)
    · the rounding of the rows, relative ≤ u each: 2u (√a + √b)² ≤ 4u (a + b), and terms in u²
    · two sums and two rounded summands of at most (√a + √b)² ≤ 2 (a + b): 5u (a + b)
    · a and b, summed in blocks: 36u (a + b)
    · D's own rounding: (⌈log₂ d⌉ + 3)·2⁻⁵³ · 2 (a + b) ≤ 46u (a + b) for d ≤ 2²⁰
    · what a caller does to ``lower`` in its dtype, one addition or one multiplication by a rounded weight: 4u (a + b)
which γ covers with p = d + 128; and of entries that underflow, each by less than the least normal number ν:
16·d·ν = η, since |z| ≤ 1. Held by tests/test_pairwise.py::test_bound.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastfid.runtime.arithmetic import ieee_products

LARGEST = 2.0**500
"""Largest distance of an entry from the centre; above it the square of a distance may overflow float64."""

_SMALLEST = -500
"""Smallest exponent of the scale: what lies below is taken as it is."""

_SAMPLED = 256
"""Rows whose mean is the centre; the mean of all would make squares smaller by 1/256."""

_EXTRA = 128
"""p − d in γ, as the proof has it."""

_BLOCK = 32
"""Squares summed in the product's dtype before the sums are added in float64."""

_ENTRIES = 2**18
"""Entries centred at once: 1 MiB in float32, which stays in a cache until its squares are summed."""

_ON_GPU = 2**28

_WIDEST = 2**18
"""Columns up to which γ stays below 1/64 in float32."""


class Panel(NamedTuple):
    """Rows of one side, ready to be multiplied.

    Attributes:
        rows: [b, d] z in the product's dtype.
        squares: float64 [b] ‖z‖².
        offset: [b] (1 − γ)‖z‖² − η/2 in the product's dtype.
        start: number of the first of them in its set.
    """

    rows: torch.Tensor
    squares: torch.Tensor
    offset: torch.Tensor
    start: int

    def part(self, start: int, end: int) -> Panel:
        """Rows [start, end) of the panel, in its memory."""
        cut = slice(start, end)
        return Panel(self.rows[cut], self.squares[cut], self.offset[cut], self.start + start)

    def __len__(self) -> int:
        return len(self.squares)

    @property
    def span(self) -> slice:
        """Which rows of the set these are."""
        return slice(self.start, self.start + len(self.squares))


class Frame:
    """Centre and scale for rows of x [n, d] and, where given, y [m, d].

    Attributes:
        dtype: of products: float32, or float64 where float32 products are not IEEE's or d is too large.
        scale: σ.
        square: σ², exact.
        moves: not all rows are equal.

    Raises:
        ValueError: entries so far apart that the squares of distances overflow float64.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        sample = x[:: -(-len(x) // _SAMPLED)].double()
        self.centre = sample[0] + (sample - sample[0]).mean(0)  # exact where all rows are equal
        sides = (x,) if y is None else (x, y)
        self.moves = not all(_all_equal(side, x[0]) for side in sides)
        ends = [float(end) for side in sides for end in torch.aminmax(side)]
        farthest = max(max(ends) - float(self.centre.min()), float(self.centre.max()) - min(ends))
        if not farthest <= LARGEST:
            raise ValueError(
                f"features: entries lie {farthest:.3g} from their mean; accepted: up to {LARGEST:.3g}, since the "
                "squares of larger distances overflow float64"
            )
        exponent = max(math.frexp(farthest)[1], _SMALLEST)
        self.scale = 2.0**-exponent
        self.square = self.scale * self.scale
        narrow = ieee_products(x.device) and x.shape[1] <= _WIDEST
        self.dtype = torch.float32 if narrow else torch.float64
        self._in_float32 = all(side.dtype != torch.float64 for side in (x, x if y is None else y)) and exponent < 120
        if self._in_float32:
            self.centre = self.centre.float().double()  # the same centre in either dtype

    def panel(
        self, features: torch.Tensor, span: tuple[int, int], dtype: torch.dtype, memory: torch.Tensor | None = None
    ) -> Panel:
        """Rows [start, end) of a set in a dtype that products may have, written to the beginning of ``memory``."""
        part, d = features[span[0] : span[1]], features.shape[1]
        rows = part.new_empty(part.shape, dtype=dtype) if memory is None else memory[: len(part)]
        squares = part.new_empty(len(part), dtype=torch.float64)
        working = torch.float32 if self._in_float32 and dtype == torch.float32 else torch.float64
        centre, step = self.centre.to(working), max(1, (_ON_GPU if part.is_cuda else _ENTRIES) // d)
        for start in range(0, len(part), step):
            target = rows[start : start + step]
            direct = target if working == dtype else None
            moved = torch.sub(part[start : start + step].to(working), centre, out=direct)
            if self.scale != 1.0:
                moved *= self.scale
            if direct is None:
                target.copy_(moved)
            squares[start : start + step] = _squares(target)
        offset = squares * (1.0 - self.gamma(d, dtype)) - self.eta(d, dtype) / 2
        return Panel(rows, squares, offset.to(dtype), span[0])

    def gamma(self, d: int, dtype: torch.dtype) -> float:
        """γ of the bound."""
        small = (d + _EXTRA) * torch.finfo(dtype).eps / 2
        return small / (1 - small)

    def eta(self, d: int, dtype: torch.dtype) -> float:
        """η of the bound; 0 where all rows are equal, since then nothing was rounded."""
        return 16 * d * torch.finfo(dtype).tiny if self.moves else 0.0


def _all_equal(x: torch.Tensor, row: torch.Tensor) -> bool:
    """Whether all rows of x are equal to one, which the last mostly tells."""
    return torch.equal(x[-1].double(), row.double()) and bool((x.amin(0) == row).all() and (x.amax(0) == row).all())


def _squares(rows: torch.Tensor) -> torch.Tensor:
    """Float64 ‖z‖² [b] of rows [b, d]; norms of blocks have a fast kernel, norms in float64 of float32 have none."""
    d = rows.shape[1]
    whole = d - d % _BLOCK
    squares: torch.Tensor = torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square_()
    if whole:
        blocks = torch.linalg.vector_norm(torch.unflatten(rows[:, :whole], 1, (-1, _BLOCK)), dim=2)
        squares += blocks.double().square_().sum(1)
    return squares
