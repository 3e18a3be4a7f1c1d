"""Exact neighbour work on feature matrices: radii, balls, nearest rows; one sweep of tiles for what is asked together.

Values are squared distances in float64, equal bit for bit to the direct sum (``direct``), and everything that compares
them (flags, counts, minima, which row) is therefore what that sum says, ties included. The floor of the work is one
product a pair: n(n − 1)/2 pairs within a set, n·m between two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastfid.pairwise.balls import Balls
from fastfid.pairwise.nearest import Nearest
from fastfid.pairwise.tiles import Pairs, Sizes
from fastfid.runtime.arithmetic import stated


class Neighbours(NamedTuple):
    """Of every row of one set the nearest rows of the other (or of its own).

    Attributes:
        squared: float64 [n, k], ascending.
        which: int64 [n, k], their numbers; of equally near rows the lower number first.
    """

    squared: torch.Tensor
    which: torch.Tensor


class Within(NamedTuple):
    """Pairs (x, y) of which one lies in the other's ball.

    Attributes:
        of_x: int64 [n], how many of them have this row of x.
        of_y: int64 [m], how many have this row of y.
    """

    of_x: torch.Tensor
    of_y: torch.Tensor


class Between(NamedTuple):
    """What ``between`` was asked for, the rest None.

    Attributes:
        in_x: pairs with D(x, y) < the squared radius of x: y lies in the ball around x.
        in_y: pairs with D(x, y) < the squared radius of y.
        x_nearest: of every row of x the nearest of y.
        y_nearest: of every row of y the nearest of x.
    """

    in_x: Within | None
    in_y: Within | None
    x_nearest: Neighbours | None
    y_nearest: Neighbours | None


def squared_radii(x: torch.Tensor, k: int, *, sizes: Sizes | None = None) -> torch.Tensor:
    """The squared distance of every row of x [n, d] to its k-th nearest other row, float64 [n].

    A row is left out of its own neighbours by its number: a copy of it elsewhere is one. 1 ≤ k < n.

    Raises:
        ValueError: k outside that, or distances whose squares overflow float64.
    """
    return _within(x, k, sizes).last()


def nearest_within(x: torch.Tensor, k: int, *, sizes: Sizes | None = None) -> Neighbours:
    """The k nearest other rows of every row of x [n, d]; as ``squared_radii``, whose value is the last of each row."""
    return Neighbours(*_within(x, k, sizes).all_of_them())


@torch.no_grad()
def _within(x: torch.Tensor, k: int, sizes: Sizes | None) -> Nearest:
    if not 1 <= k < len(x):
        raise ValueError(f"k: {k} of {len(x)} rows; accepted: at least 1 and below the number of rows")
    with stated(x.device):
        pairs = Pairs(x)
        nearest = Nearest(pairs, k)
        for tile in pairs.tiles(sizes=sizes):
            nearest.take(tile)
    return nearest


@torch.no_grad()
def between(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    x_squared: torch.Tensor | None = None,
    y_squared: torch.Tensor | None = None,
    strict: bool = True,
    x_nearest: int = 0,
    y_nearest: int = 0,
    x_weights: torch.Tensor | None = None,
    sizes: Sizes | None = None,
) -> Between:
    """One sweep over all pairs of rows of x [n, d] and y [m, d], on one device.

    Args:
        x_squared, y_squared: float64 [n] or [m], squared radii ≥ 0 of balls around the rows of x or of y.
        strict: what lies at a radius itself is outside.
        x_nearest, y_nearest: how many nearest rows of the other set to find for the rows of x or of y; 0 is none.
        x_weights: float64 [n] > 0: nearness to a row of x is D times its weight, in ``y_nearest`` alone.
        sizes: of tiles; by the kind of device where None.

    Raises:
        ValueError: more nearest rows than there are, or distances whose squares overflow float64.
    """
    for name, asked, rows in (("x_nearest", x_nearest, len(y)), ("y_nearest", y_nearest, len(x))):
        if not 0 <= asked <= rows:
            raise ValueError(f"{name}: {asked} of {rows} rows; accepted: 0 to the number of rows")
    with stated(x.device):
        pairs = Pairs(x, y)
        balls = [
            None if squared is None else Balls(pairs, squared, side, strict=strict)
            for side, squared in enumerate((x_squared, y_squared))
        ]
        nearest = [
            Nearest(pairs, x_nearest, 0) if x_nearest else None,
            Nearest(pairs, y_nearest, 1, x_weights) if y_nearest else None,
        ]
        users = [user for user in (*balls, *nearest) if user is not None]
        for tile in pairs.tiles(sizes=sizes, wide=any(one is not None and one.wide for one in nearest)):
            for user in users:
                user.take(tile)
        within = [None if one is None else Within(*one.counts) for one in balls]
        near = [None if one is None else Neighbours(*one.all_of_them()) for one in nearest]
        return Between(within[0], within[1], near[0], near[1])
