"""The k nearest of every row, from tiles: candidates within intervals, told apart by the direct sum at the end."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastfid.pairwise.balls import places, upward
from fastfid.pairwise.direct import copy_number
from fastfid.pairwise.tiles import LISTED, Pairs, Tile

_CROWDED = 1 / 16
"""Share of a tile that may be candidates, beside k for each row, before it is multiplied again in float64."""

_HELD = 2**18
"""Candidates held, beside 4k for each row, before their direct sums decide between them (40 bytes each)."""

_GROUPS = 64
"""Groups of columns whose least entries make a first limit; 4k where that is more."""


_RANGE = 60
"""Largest exponent of a scaled weight in float32 products, half of what the dtype holds."""


class Found(NamedTuple):
    """int64 [p] rows and candidates, float64 [p] ends of the scaled (and weighted) squared distance."""

    row: torch.Tensor
    other: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def only(self, which: torch.Tensor) -> Found:
        """Those that a mask or an index names."""
        return Found(*(column[which] for column in self))


class Nearest:
    """The k smallest of D(row, other) · weight(other) for every row of one side (0: x, 1: y).

    Without weights k + 1 of equal rows are looked at: of k nearest ones no more can be among them (one may be the row
    itself), since of equally near rows those of lower numbers come first.

    Args:
        pairs: the two sets; where it is one with itself both sides of every tile are rows.
        k: how many; no fewer others than that.
        side: whose rows.
        weights: float64 ≥ 0 for the rows of the other side; None is 1.
    """

    def __init__(self, pairs: Pairs, k: int, side: int = 0, weights: torch.Tensor | None = None) -> None:
        self._pairs, self._k, self._side = pairs, k, side
        self._plain = weights
        self._weights = None if weights is None else weights / pairs.frame.square
        self._unit = pairs.frame.square if weights is None else 1.0  # of candidates' ends: σ²D, or D times its weight
        queries, others = (pairs.x, pairs.y) if side == 0 else (pairs.y, pairs.x)
        number = copy_number(others)
        self._looked_at = number <= k if weights is None and bool((number > k).any()) else None
        n = len(queries)
        self._best = torch.full((n, k), torch.inf, dtype=torch.float64, device=pairs.x.device)
        self._held: list[Found] = []
        self._count = 0

    @property
    def wide(self) -> bool:
        """Whether weighted distances could leave the range of float32."""
        return self._weights is not None and bool((torch.frexp(self._weights).exponent.abs() > _RANGE).any())

    def take(self, tile: Tile) -> None:
        """Note the candidates that one tile has."""
        for side in (0, 1) if self._pairs.within else (self._side,):
            self._take(tile, side)

    def _take(self, tile: Tile, side: int) -> None:
        queries, others = (tile.x, tile.y) if side == 0 else (tile.y, tile.x)
        lower = tile.lower
        if self._weights is not None:
            weights = self._weights[others.span].to(lower.dtype)
            lower = lower * (weights[None, :] if side == 0 else weights[:, None])
        best = self._best[queries.span]
        limit = best[:, -1]
        if bool(torch.isinf(limit).any()):
            limit = torch.minimum(limit, self._first_limit(tile, lower, side))
        looked_at = None if self._looked_at is None else self._looked_at[others.span]
        i, j = places(lower, upward(limit, tile), side, looked_at)
        if len(i) > _CROWDED * lower.numel() + 2 * self._k * len(queries) and not tile.wide:
            self._take(tile.sharper, side)
            return
        if len(i) > LISTED and (strips := tile.strips()):
            for strip in strips:
                self._take(strip, side)
            return
        low, high = tile.interval(i, j)
        query, other = (i, j) if side == 0 else (j, i)
        if self._weights is not None:
            weight = self._weights[others.span][other]
            low, high = low * weight, high * weight
        found = Found(query, other, low, high)
        self._best[queries.span] = _smallest(best, found)
        found = found.only(found.low <= self._best[queries.span][:, -1][query])
        self._count += len(found.row)
        self._held.append(found._replace(row=found.row + queries.start, other=found.other + others.start))
        if self._count > _HELD + 4 * self._k * len(self._best):
            self._decide()

    def _first_limit(self, tile: Tile, lower: torch.Tensor, side: int) -> torch.Tensor:
        """Float64 [queries], no less than the k-th smallest upper end: the k-th smallest of the groups' least ones."""
        queries, others = (tile.x, tile.y) if side == 0 else (tile.y, tile.x)
        axis = 1 - side
        groups = min(len(others), max(_GROUPS, 4 * self._k))
        width = len(others) // groups
        extra = tile.width(others.squares)
        own = tile.width(queries.squares)
        if self._weights is not None:
            extra = (extra + float(own.max())) * self._weights[others.span]
            own = torch.zeros_like(own)
        upper = lower + (extra[None, :] if side == 0 else extra[:, None]).to(lower.dtype)
        least = torch.unflatten(upper.narrow(axis, 0, groups * width), axis, (groups, width)).amin(axis + 1).double()
        if groups < self._k:
            return torch.full_like(own, torch.inf)
        first: torch.Tensor = least.kthvalue(self._k, dim=axis).values + own
        return first

    def _decide(self) -> None:
        """Bring the candidates down to k for each row, by direct sums, once limits alone do not."""
        self._join()
        if self._count > _HELD + 2 * self._k * len(self._best):
            value = self._values(self._held[0]) * self._unit
            found = self._held[0]._replace(low=value, high=value)
            found = found.only(_order(found.row, value, found.other))
            kept = found.only(_rank(found.row) < self._k)
            self._best = _smallest(torch.full_like(self._best, torch.inf), kept)
            self._held, self._count = [kept], len(kept.row)

    def _join(self) -> None:
        """All candidates as one, without those that the limits of now leave out."""
        if not self._held:
            return
        joined = Found(*(torch.cat(column) for column in zip(*self._held, strict=True)))
        joined = joined.only(joined.low <= self._best[:, -1][joined.row])
        self._held, self._count = [joined], len(joined.row)

    def _values(self, found: Found) -> torch.Tensor:
        """The direct sums, weighted."""
        pair = (found.row, found.other) if self._side == 0 else (found.other, found.row)
        value = self._pairs.direct(*pair)
        return value if self._plain is None else value * self._plain[found.other]

    def all_of_them(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Values float64 [n, k], ascending, and whose they are, int64 [n, k]; of equal ones the lower number first."""
        self._join()
        found = self._held[0]
        value = self._values(found)
        order = _order(found.row, value, found.other)
        order = order[_rank(found.row[order]) < self._k]
        shape = self._best.shape
        return value[order].view(shape), found.other[order].view(shape)

    def last(self) -> torch.Tensor:
        """The k-th smallest value alone, float64 [n].

        With κ the k-th smallest lower end of a row, what ends below κ is among its k nearest whatever its value, and
        what begins above the k-th smallest upper end is not; direct sums are needed between the two.
        """
        self._join()
        found = self._held[0]
        found = found.only(_order(found.row, found.low))
        rank = _rank(found.row)
        least = found.low[rank == self._k - 1]
        sure = found.high < least[found.row]
        missing = self._k - torch.bincount(found.row[sure], minlength=len(self._best))
        open_ = found.only(~sure)
        value = self._values(open_)
        order = _order(open_.row, value)
        row = open_.row[order]
        return value[order][_rank(row) == missing[row] - 1]


def _order(row: torch.Tensor, *keys: torch.Tensor) -> torch.Tensor:
    """The permutation that sorts by row, then by the keys in turn."""
    order = torch.arange(len(row), device=row.device)
    for key in (*reversed(keys), row):
        order = order[torch.sort(key[order], stable=True).indices]
    return order


def _rank(row: torch.Tensor) -> torch.Tensor:
    """Place of every entry among those of its row, for sorted rows."""
    place = torch.arange(len(row), device=row.device)
    return place - torch.searchsorted(row, row)


def _smallest(best: torch.Tensor, found: Found) -> torch.Tensor:
    """best [rows, k] and the upper ends found for those rows, brought down to the k smallest."""
    k = best.shape[1]
    order = _order(found.row, found.high)
    row = found.row[order]
    rank = _rank(row)
    near = rank < k
    more = torch.full_like(best, torch.inf)
    more[row[near], rank[near]] = found.high[order][near]
    return torch.cat([best, more], dim=1).sort(dim=1).values[:, :k]
