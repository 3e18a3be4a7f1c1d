"""Products of which a part is zero or known by symmetry, and the inverse of a triangle: by blocks, the rest left out.

Each block sums a part of the terms of the whole product, so that a bound on the rounding of a product of the whole
inner dimension holds for it too. Of a full product's work there remain 0.57 where half of a symmetric matrix is formed,
0.40 of LᵀL, and 0.24 of LLᵀ in one half or of L₁L₂ (tests/test_linalg.py::test_halves_leave_out_what_is_known). Small
matrices are one block, and so are those on a GPU, whose tiles want whole matrices (not measured there).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

_BANDS = 8

_BLOCKED = 512
"""From this size on the halved work outweighs the extra calls."""

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bands(n: int, device: torch.device) -> list[tuple[int, int]]:
    """[start, end) of the bands that n rows or columns are taken in."""
    count = min(_BANDS, n) if n >= _BLOCKED and device.type == "cpu" else 1
    return list(itertools.pairwise(n * i // count for i in range(count + 1)))


def lower_outer(
    a: torch.Tensor, b: torch.Tensor, *, triangular: bool = False, multiply: Multiply = torch.matmul
) -> torch.Tensor:
    """a bᵀ [..., n, n] for a, b [..., n, k] in its lower half; what stands above is not defined.

    ``triangular``: a and b are lower triangular.
    """
    n, k = a.shape[-2:]
    out = a.new_empty(*a.shape[:-2], n, n)
    for start, end in bands(n, a.device):
        inner = min(end, k) if triangular else k
        out[..., start:, start:end] = multiply(a[..., start:, :inner], b[..., start:end, :inner].mT)
    return out


def mirrored(lower: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix whose lower half is given, in its memory."""
    for (start, end), (first, last) in itertools.combinations_with_replacement(bands(lower.shape[-1], lower.device), 2):
        block = lower[..., first:last, start:end]
        if start == first:
            block.tril_().add_(block.tril(-1).mT)
        else:
            lower[..., start:end, first:last] = block.mT
    return lower


def transposed_product(
    a: torch.Tensor, b: torch.Tensor, *, triangular: tuple[bool, bool], multiply: Multiply = torch.matmul
) -> torch.Tensor:
    """aᵀ b for a [d, p], b [d, q], of which those that ``triangular`` says are lower triangular."""
    out = a.new_empty(a.shape[1], b.shape[1])
    rows = bands(a.shape[1], a.device) if triangular[0] else [(0, a.shape[1])]
    columns = bands(b.shape[1], b.device) if triangular[1] else [(0, b.shape[1])]
    for (start, end), (first, last) in itertools.product(rows, columns):
        above = max(start if triangular[0] else 0, first if triangular[1] else 0)
        out[start:end, first:last] = multiply(a[above:, start:end].T, b[above:, first:last])
    return out


def lower_product(a: torch.Tensor, b: torch.Tensor, *, multiply: Multiply = torch.matmul) -> torch.Tensor:
    """a b for lower triangular a, b [..., n, n]."""
    out = torch.zeros_like(a)
    for (start, end), (first, last) in itertools.combinations_with_replacement(bands(a.shape[-1], a.device), 2):
        out[..., first:last, start:end] = multiply(a[..., first:last, start:last], b[..., start:last, start:end])
    return out


def inverse(low: torch.Tensor) -> torch.Tensor:
    """The inverse of lower triangular [..., n, n], as good as forward substitution makes it."""
    out = torch.eye(low.shape[-1], dtype=low.dtype, device=low.device).expand_as(low).contiguous()
    for start, end in bands(low.shape[-1], low.device):
        part = out[..., start:, start:end]
        out[..., start:, start:end] = torch.linalg.solve_triangular(low[..., start:, start:], part, upper=False)
    return out
