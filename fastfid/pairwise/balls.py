"""Who lies in whose ball: counts per row of either set, from tiles, with the direct sum where a tile leaves it open."""

from __future__ import annotations

import numpy as np
import torch

from fastfid.pairwise.tiles import LISTED, Pairs, Tile

_CROWDED = 1 / 32
"""Share of a tile that may be left open before it is multiplied again in float64."""


class Balls:
    """Balls around every row of one side; how many rows of the other lie in each, and in how many each of those lies.

    Args:
        pairs: the two sets.
        squared: float64 [n] (``side`` 0: around rows of x) or [m] (1: of y), squared radii.
        strict: a row at the radius itself is outside.

    Attributes:
        counts: int64 [n] and [m]: pairs (x, y) with D < r² (or ≤), by row of x and by row of y.
    """

    def __init__(self, pairs: Pairs, squared: torch.Tensor, side: int, *, strict: bool) -> None:
        self._direct, self._side, self._squared = pairs.direct, side, squared
        self._within = torch.lt if strict else torch.le
        self._scaled = squared * pairs.frame.square
        self._reachable = self._scaled if not strict else self._scaled.masked_fill(squared == 0, -torch.inf)
        lengths = (len(pairs.x), len(pairs.y))
        self.counts = tuple(torch.zeros(length, dtype=torch.int64, device=squared.device) for length in lengths)

    def take(self, tile: Tile) -> None:
        """Count the pairs of one tile."""
        side = (tile.x, tile.y)[self._side]
        limit = upward(self._reachable[side.span], tile)
        i, j = places(tile.lower, limit, self._side)
        if len(i) > LISTED and (strips := tile.strips()):
            for strip in strips:
                self.take(strip)
            return
        low, high = tile.interval(i, j)
        radius = self._scaled[side.span][(i, j)[self._side]]
        inside = high < radius
        unsure = (~inside & (low <= radius)).nonzero().squeeze(1)
        if len(unsure) > _CROWDED * tile.lower.numel() and not tile.wide:
            self.take(tile.sharper)
            return
        rows, columns = i[unsure] + tile.x.start, j[unsure] + tile.y.start
        found = self._within(self._direct(rows, columns), self._squared[(rows, columns)[self._side]])
        inside[unsure] = found
        for counts, panel, place in zip(self.counts, (tile.x, tile.y), (i, j), strict=True):
            counts[panel.span] += torch.bincount(place[inside], minlength=len(panel))


def upward(limit: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Float64 limits in a tile's dtype, none smaller than it was, all below infinity."""
    above = torch.full((), torch.inf, dtype=tile.lower.dtype, device=limit.device)
    return torch.nextafter(limit.to(tile.lower.dtype), above).clamp_(max=tile.lower_limit)


def places(
    lower: torch.Tensor, limit: torch.Tensor, side: int, others: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the entries that are at most their row's (side 0) or column's (side 1) limit.

    ``others``: bool, which columns (side 0) or rows (side 1) to look at; None is all.

    On a CPU NumPy compares and looks for them: torch took six times as long (``python bench/run.py --op pairwise``).
    """
    limit = limit.unsqueeze(1 - side)
    if lower.device.type == "cpu":
        near = lower.numpy() <= limit.numpy()
        if others is not None:
            near &= others.unsqueeze(side).numpy()
        flat = torch.from_numpy(np.flatnonzero(near))
    else:
        mask = lower <= limit
        if others is not None:
            mask &= others.unsqueeze(side)
        flat = mask.view(-1).nonzero().squeeze(1)
    rows = torch.div(flat, lower.shape[1], rounding_mode="floor")
    return rows, flat - rows * lower.shape[1]
