"""The tiles of a distance matrix, one after another: every pair of two sets once, or every pair within one set once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch

from fastfid.pairwise.direct import Direct
from fastfid.pairwise.engine_torch import lower_bounds, lower_bounds_within
from fastfid.pairwise.frame import Frame, Panel


class Sizes(NamedTuple):
    """How much is held at once.

    Attributes:
        tile: rows and columns of a tile.
        panel: bytes of centred rows of either side.
    """

    tile: int
    panel: int


SIZES = {"cpu": Sizes(1024, 2**25), "cuda": Sizes(8192, 2**30)}
"""By kind of device; the CPU's are measured (``python bench/run.py --op pairwise``)."""


LISTED = 2**17
"""Entries of a tile that are listed at once, with what is known of them (some 100 bytes each)."""


class Pairs:
    """Two sets, or one with itself: what sweeps over them share.

    Attributes:
        x, y: features [n, d] and [m, d]; the same tensor where ``within``.
        within: pairs of rows of one set, each once, none with itself.
        frame: how they are multiplied.
        direct: the float64 sum of listed pairs.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        self.within = y is None
        self.x = x.detach()
        self.y = self.x if y is None else y.detach()
        other = None if y is None else self.y
        self.frame, self.direct = Frame(self.x, other), Direct(self.x, other)

    def tiles(self, *, wide: bool = False, sizes: Sizes | None = None) -> Iterator[Tile]:
        """All tiles; a tile is valid until the next is asked for. ``wide``: products in float64."""
        size = sizes or SIZES.get(self.x.device.type, SIZES["cpu"])
        dtype = torch.float64 if wide else self.frame.dtype
        wanted = max(1, size.panel // (self.x.shape[1] * dtype.itemsize * size.tile)) * size.tile
        memory = self.x.new_empty(min(size.tile, len(self.x)) * min(size.tile, len(self.y)), dtype=dtype)
        panels = [self.x.new_empty(min(wanted, len(side)), side.shape[1], dtype=dtype) for side in (self.x, self.y)]
        for rows in spans(len(self.x), wanted):
            left = self.frame.panel(self.x, rows, dtype, panels[0])
            for columns in spans(len(self.y), wanted):
                if self.within and columns < rows:
                    continue
                same = self.within and columns == rows
                right = left if same else self.frame.panel(self.y, columns, dtype, panels[1])
                for i, j in itertools.product(spans(len(left), size.tile), spans(len(right), size.tile)):
                    if not same or j >= i:
                        x, y = left.part(*i), right.part(*j)
                        out = memory[: len(x) * len(y)].view(len(x), len(y))
                        lower = lower_bounds_within(x, out) if same and i == j else lower_bounds(x, y, out)
                        yield Tile(self, x, y, lower)


def spans(n: int, most: int) -> list[tuple[int, int]]:
    """[start, end) of the fewest parts of n, as equal as can be, of at most ``most``."""
    count = -(-n // most)
    return list(itertools.pairwise(n * part // count for part in range(count + 1))) if n else []


class Tile:
    """Distances between some rows and some columns, each within an interval.

    Attributes:
        x, y: the panels of rows and columns.
        lower: [a, b] in the product's dtype, at most σ²D; infinity where a pair is not this tile's to give.
        wide: the product was float64's.
    """

    def __init__(self, pairs: Pairs, x: Panel, y: Panel, lower: torch.Tensor, whole: Tile | None = None) -> None:
        self.x, self.y, self.lower = x, y, lower
        self.wide = lower.dtype == torch.float64
        self._pairs, self._whole = pairs, whole
        d = pairs.x.shape[1]
        self._gamma, self._eta = pairs.frame.gamma(d, lower.dtype), pairs.frame.eta(d, lower.dtype)

    @cached_property
    def sharper(self) -> Tile:
        """The same by products in float64."""
        if self._whole is not None:
            start = self.x.start - self._whole.x.start
            return self._whole.sharper.part(start, start + len(self.x))
        x, y = (
            self._pairs.frame.panel(features, (panel.span.start, panel.span.stop), torch.float64)
            for features, panel in ((self._pairs.x, self.x), (self._pairs.y, self.y))
        )
        lower = lower_bounds(x, y, torch.empty_like(self.lower, dtype=torch.float64))
        return Tile(self._pairs, x, y, lower.masked_fill_(torch.isposinf(self.lower), torch.inf))

    def part(self, start: int, end: int) -> Tile:
        """Rows [start, end) of the tile."""
        return Tile(self._pairs, self.x.part(start, end), self.y, self.lower[start:end], self)

    def strips(self) -> list[Tile]:
        """The tile in parts so small that all their entries can be listed; none where it is one."""
        count = min(len(self.x), -(-self.lower.numel() // LISTED))
        return [self.part(*span) for span in spans(len(self.x), -(-len(self.x) // count))] if count > 1 else []

    @property
    def lower_limit(self) -> float:
        """Largest finite number of the dtype: a limit that everything but infinity keeps."""
        return torch.finfo(self.lower.dtype).max

    def width(self, squares: torch.Tensor) -> torch.Tensor:
        """Upper less lower end of the intervals where ‖z_x‖² + ‖z_y‖² is ``squares`` (or a part of them)."""
        return squares * (2 * self._gamma) + 2 * self._eta

    def interval(self, i: torch.Tensor, j: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float64 lower and upper ends for listed places of the tile."""
        low = self.lower[i, j].double()
        return low, low + self.width(self.x.squares[i] + self.y.squares[j])
