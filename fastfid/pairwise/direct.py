"""Squared distances of listed pairs by the direct sum in float64, in one order: what everything else must agree with.

D(x, y) = Σ (x_c − y_c)², the terms added by folding: the last ⌊d/2⌋ of d terms are added to the first ⌊d/2⌋, and so on
until one is left. Differences, squares and sums are operations of their own, so the result depends on the two rows
alone: not on the pair's place, the tile, the device or its threads. Equal rows give 0, D(x, y) and D(y, x) are the same
bits, and rows equal to x and y give the same bits as x and y. Relative error ≤ (⌈log₂ d⌉ + 3)·2⁻⁵³.
"""

from __future__ import annotations

import torch

_ENTRIES = 2**17
"""Terms at once: 1 MiB in float64, so that every operation but the first finds them in a cache."""

_ON_GPU = 2**25

_MANY = 2**15
"""From this many pairs on it pays to look for equal rows first."""

_GOLDEN = 0.6180339887498949
"""Its multiples modulo 1 weigh the columns, so that rows of few different values rarely have equal keys."""


_FEW = 32
"""Columns that tell most rows apart."""


class Direct:
    """Squared distances between rows of x [n, d] and rows of y [m, d] (x itself where None) by their direct sums."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        self.x = x
        self.y = x if y is None else y
        self._first: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """float64 [p] for int64 rows [p] of x and columns [p] of y.

        Many pairs are first brought down to different ones: where a generator has collapsed, or a set holds a thousand
        black images, a few sums answer for millions of pairs.
        """
        if len(rows) < _MANY:
            return _sums(self.x, self.y, rows, columns)
        if self._first is None:
            x = first_equal(self.x)
            self._first = x, x if self.y is self.x else first_equal(self.y)
        code = self._first[0][rows] * len(self.y) + self._first[1][columns]
        different, back = torch.unique(code, return_inverse=True)
        code = torch.div(different, len(self.y), rounding_mode="floor")
        return _sums(self.x, self.y, code, different - code * len(self.y))[back]


def first_equal(x: torch.Tensor) -> torch.Tensor:
    """int64 [n]: for every row the number of one that is equal to it, the same for all of them but where keys collide.

    Equal rows have equal keys, since a key is summed in an order of its own; a row that differs from the one that its
    key names is compared, and keeps its own number. Most rows are told apart by a few of their columns.
    """
    own = torch.arange(len(x), device=x.device)
    _, group, count = torch.unique(_keys(x[:, :: -(-x.shape[1] // _FEW)]), return_inverse=True, return_counts=True)
    alike = own[count[group] > 1]
    first = own.clone()
    if len(alike):
        _, group = torch.unique(torch.cat([_keys(x[p]) for p in _split(alike, x)]), return_inverse=True)
        least = torch.full_like(alike, len(x)).scatter_reduce_(0, group, alike, "amin")[group]
        for some, other in zip(_split(alike, x), _split(least, x), strict=True):
            first[some] = torch.where((x[some] == x[other]).all(1), other, some)
    return first


def copy_number(x: torch.Tensor) -> torch.Tensor:
    """int64 [n]: how many rows before it are equal to each; fewer where keys collide."""
    first = first_equal(x)
    ordered, order = torch.sort(first, stable=True)
    place = torch.arange(len(x), device=x.device)
    return torch.empty_like(first).scatter_(0, order, place - torch.searchsorted(ordered, ordered))


def _keys(x: torch.Tensor) -> torch.Tensor:
    weight = (torch.arange(1, x.shape[1] + 1, dtype=torch.float64, device=x.device) * _GOLDEN).frac_().add_(0.5)
    return _fold(x.double() * weight)


def _split(rows: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.split(rows, _rows_at_once(x))


def _rows_at_once(x: torch.Tensor) -> int:
    return max(1, (_ON_GPU if x.device.type == "cuda" else _ENTRIES) // x.shape[1])


def _sums(x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(rows), dtype=torch.float64, device=x.device)
    step = _rows_at_once(x)
    for start in range(0, len(rows), step):
        terms = x.index_select(0, rows[start : start + step]).double()
        terms -= y.index_select(0, columns[start : start + step])
        out[start : start + step] = _fold(terms.square_())
    return out


def _fold(terms: torch.Tensor) -> torch.Tensor:
    """The sum [p] of float64 terms [p, d ≥ 1], which are overwritten."""
    d = terms.shape[1]
    while d > 1:
        half = d // 2
        terms[:, :half] += terms[:, d - half : d]
        d -= half
    return terms[:, 0]
