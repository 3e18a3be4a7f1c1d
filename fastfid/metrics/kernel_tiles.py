"""Sums over kernel matrices, tile by tile: no N×N matrix, and of a symmetric one only the half that is needed.

Products ⟨x, y⟩ are float32 where the rows have no more and the work is worth it, else float64; then all is float64. A
float32 product is off by up to some 1e-6 of ‖x‖‖y‖, and where features are constant all of them the same way. So the
mean of each tile is put right: Σᵢⱼ⟨xᵢ, yⱼ⟩ = ⟨Σᵢxᵢ, Σⱼyⱼ⟩ is known in float64 for next to nothing, and the difference
is shared out. What is left has mean zero in every tile.

Kernels come less a constant ("shift"), which no difference of means knows of, and which keeps digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastfid.runtime.arithmetic import ieee_products, stated

_SMALL = 2**30
"""Multiply-adds between two sets up to which float64 costs nothing that anybody would notice."""
_LARGEST_SQUARE = 1e36
"""Squared length of rows up to which float32 products and their sums are far from overflow."""
_SPREAD = 1.0
"""Squared length, in bandwidths, up to which a Gaussian kernel's distances may come from float32 products: a value of
the kernel is then off by at most some 3e-7, of either sign."""


_CHUNK = 4096
"""Rows that are in float64 at a time while they are centred."""


class Tiling(NamedTuple):
    """Rows of the least piece that is known by its sum, and most rows and columns of a tile, multiples of that."""

    grain: int
    rows: int
    columns: int


_TILINGS = {"cpu": Tiling(128, 512, 1024), "cuda": Tiling(512, 2048, 8192)}
"""Measured with 2,048 features on a CPU, whose BLAS is a fifth slower where sides are no multiples of 16; a guess for
CUDA."""


class Side:
    """One set of rows, ready for products.

    Args:
        rows: [n, d] in the dtype of the products.

    Attributes:
        squares: ‖x‖² of every row, float64 [n]; made when first asked for.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.grain, self.height, self.width = _TILINGS.get(rows.device.type, _TILINGS["cpu"])
        sums = torch.stack([rows[piece].sum(dim=0, dtype=torch.float64) for piece in self.pieces(self.grain)])
        self._before = torch.cat([torch.zeros_like(sums[:1]), sums.cumsum(dim=0)])
        self._squares: Tensor | None = None

    @property
    def squares(self) -> Tensor:
        """‖x‖² of every row, float64 [n]."""
        if self._squares is None:
            self._squares = torch.linalg.vector_norm(self.rows, dim=1, dtype=torch.float64).square_()
        return self._squares

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, float64 [d]."""
        return self._before[-1] / len(self.rows)

    def pieces(self, size: int, start: int = 0, stop: int | None = None) -> list[slice]:
        """The rows from start to stop (all) in pieces of ``size``."""
        end = len(self.rows) if stop is None else stop
        return [slice(at, min(at + size, end)) for at in range(start, end, size)]

    def total(self, piece: slice) -> Tensor:
        """Sum of rows that begin and end with a grain, float64 [d]."""
        return self._before[-(-piece.stop // self.grain)] - self._before[piece.start // self.grain]


class Kernel(Protocol):
    """A function of ⟨x, y⟩, ‖x‖² and ‖y‖², less a constant."""

    @property
    def shift(self) -> float:
        """The constant."""

    def apply_(self, products: Tensor, missing: float, x: Side, i: slice, y: Side, j: slice) -> None:
        """Make products [b, w] (float64), each of which lacks ``missing``, the kernel's values in place."""

    def diagonal(self, x: Side) -> Tensor:
        """k(x, x) − shift of every row, float64 [n]."""


@dataclass(frozen=True)
class Polynomial:
    """(gamma ⟨x, y⟩ + coef0)^degree − shift."""

    degree: int
    gamma: float
    coef0: float
    shift: float = 0.0

    def apply_(self, products: Tensor, missing: float, x: Side, i: slice, y: Side, j: slice) -> None:
        """As ``Kernel``."""
        products.mul_(self.gamma).add_(self.gamma * missing + self.coef0).pow_(self.degree).sub_(self.shift)

    def diagonal(self, x: Side) -> Tensor:
        """As ``Kernel``."""
        return x.squares.mul(self.gamma).add_(self.coef0).pow_(self.degree).sub_(self.shift)


@dataclass(frozen=True)
class Gaussian:
    """exp(−‖x − y‖² / 2) − 1 of rows in units of the bandwidth."""

    shift: float = 1.0

    def apply_(self, products: Tensor, missing: float, x: Side, i: slice, y: Side, j: slice) -> None:
        """As ``Kernel``."""
        products.add_(missing - x.squares[i, None] / 2).sub_(y.squares[j] / 2).expm1_()

    def diagonal(self, x: Side) -> Tensor:
        """As ``Kernel``."""
        return torch.zeros_like(x.squares)


@dataclass
class KernelSums:
    """Sums of k − shift over the pairs (x, y), or over the ordered pairs of different rows of one set.

    Attributes:
        rows: Σ over y, float64 [n].
        columns: Σ over x, float64 [m]; ``rows`` itself where both are one set.
        square: Σ (k − shift)².
        weighted: Σ u_xs k_xy v_ys for every column s of the weights, float64 [s].
    """

    rows: Tensor
    columns: Tensor
    square: float = 0.0
    weighted: Tensor | None = field(default=None)

    @property
    def total(self) -> float:
        """Σ over all pairs."""
        return float(self.rows.sum())


def polynomial_sides(x: Tensor, y: Tensor) -> tuple[Side, Side]:
    """Both sets as they are; float32 where ``_single`` allows it and its range is enough."""
    single = _single(x, y)
    if single:
        bound = max(float(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).amax()) for rows in (x, y))
        single = bound * bound * max(len(x), len(y)) < _LARGEST_SQUARE
    dtype = torch.float32 if single else torch.float64
    return Side(x.to(dtype)), Side(y.to(dtype))


def gaussian_sides(x: Tensor, y: Tensor, sigma: float) -> tuple[Side, Side]:
    """Both sets less their common mean, in units of sigma; float32 where that leaves distances exact enough too."""
    centre = (x.sum(dim=0, dtype=torch.float64) + y.sum(dim=0, dtype=torch.float64)) / (len(x) + len(y))
    for dtype in (torch.float32, torch.float64) if _single(x, y) else (torch.float64,):
        first, second = (
            Side(
                torch.cat([((part.to(torch.float64) - centre) / sigma).to(dtype) for part in torch.split(rows, _CHUNK)])
            )
            for rows in (x, y)
        )
        if dtype == torch.float64 or max(float(first.squares.amax()), float(second.squares.amax())) <= _SPREAD:
            break
    return first, second


def _single(x: Tensor, y: Tensor) -> bool:
    """Whether products may be float32: rows have no more, there are many, and float32 products are IEEE's here."""
    large = len(x) * len(y) * x.shape[1] > _SMALL
    return large and torch.float64 not in (x.dtype, y.dtype) and ieee_products(x.device)


def kernel_sums(
    kernel: Kernel, x: Side, y: Side, weights: tuple[Tensor, Tensor] | None = None, *, square: bool = False
) -> KernelSums:
    """Sums over all pairs of rows; where y is x over the pairs of different rows, each tile of one half once.

    Args:
        kernel: what to sum.
        x, y: [n, d] and [m, d] of one dtype and device.
        weights: (u [n, s], v [m, s]) in the dtype of the rows, for ``weighted``; u is v where y is x.
        square: whether to sum the squares.

    Numerics:
        Each value as the module says; sums in float64 (tests/test_metrics_kernel.py::test_sums_of_tiles).
    """
    n, m = len(x.rows), len(y.rows)
    same = y is x
    rows = torch.zeros(n, dtype=torch.float64, device=x.rows.device)
    columns = rows if same else torch.zeros(m, dtype=torch.float64, device=x.rows.device)
    made = KernelSums(rows, columns, 0.0, None if weights is None else rows.new_zeros(weights[0].shape[1]))
    most = x.height * max(x.height, y.width)
    buffers = rows.new_empty(most, dtype=x.rows.dtype), rows.new_empty(most)
    with torch.no_grad(), stated(x.rows.device):
        for i in x.pieces(x.height):
            for j in [i] * same + y.pieces(y.width, i.stop if same else 0):
                triangle = same and j is i
                tile, missing = _products(x, i, y, j, buffers, triangle)
                kernel.apply_(tile, missing, x, i, y, j)
                if triangle:
                    tile.triu_(1)
                made.rows[i] += tile.sum(dim=1)
                made.columns[j] += tile.sum(dim=0)
                if square:
                    made.square += float(torch.dot(tile.reshape(-1), tile.reshape(-1))) * (2 if same else 1)
                if weights is not None and made.weighted is not None:
                    part = _forms(tile, weights[0][i], weights[1][j], buffers[0], triangle)
                    made.weighted.add_(part, alpha=2 if same else 1)
    return made


def _products(
    x: Side, i: slice, y: Side, j: slice, buffers: tuple[Tensor, Tensor], triangle: bool
) -> tuple[Tensor, float]:
    """⟨x, y⟩ of a tile in float64, from products in the rows' own dtype, and what their mean lacks.

    Of a tile on the diagonal, ``triangle``, what lies above that, and zeros.
    """
    short, tile = (buffer[: (i.stop - i.start) * (j.stop - j.start)].view(i.stop - i.start, -1) for buffer in buffers)
    for piece in x.pieces(x.grain, i.start, i.stop) if triangle else [i]:
        right = slice(piece.start if triangle else j.start, j.stop)
        out = short[piece.start - i.start : piece.stop - i.start, right.start - j.start :]
        torch.mm(x.rows[piece], y.rows[right].T, out=out)
    tile.copy_(short.triu_(1) if triangle else short)
    if short.dtype == torch.float64:
        return tile, 0.0
    exact, count = float(x.total(i) @ y.total(j)), tile.numel()
    if triangle:
        exact, count = (exact - float(x.squares[i].sum())) / 2, max((count - len(tile)) // 2, 1)
    return tile, (exact - float(tile.sum())) / count


def _forms(tile: Tensor, u: Tensor, v: Tensor, buffer: Tensor, triangle: bool) -> Tensor:
    """uᵀ k v of every column, float64 [s].

    Products in the dtype of u and v; in float32 of what is left when the tile's mean is taken off, as sums of equal
    signs are off by 1e-6 there. A triangle has no use for that: float64.
    """
    if triangle or u.dtype == torch.float64:
        return (tile @ v.to(torch.float64)).mul_(u).sum(dim=0)
    mean = float(tile.mean())
    short = torch.sub(tile, mean, out=buffer[: tile.numel()].view(tile.shape)) @ v
    counts = u.sum(dim=0, dtype=torch.float64) * v.sum(dim=0, dtype=torch.float64)
    return short.to(torch.float64).mul_(u).sum(dim=0).add_(counts, alpha=mean)
