"""Scatter update by torch, on any device with float64: one triangle, a block of rows in float64 at a time.

A block is held as columns [d, b + 1], so that its product with itself reads both factors along memory, and so that the
rank-one term of the combination rides along as one more row.
"""

from __future__ import annotations

import itertools
import math

import torch

from fastfid.scatter.segments import Segments

BLOCK_ROWS = 8192
"""Rows in float64 at once: 128 MiB at d = 2048, and long enough that reading the accumulator costs nothing."""

_BLOCKED = 512
"""From this d on the halved work outweighs the extra calls."""

_BLOCKS = 8
"""Block rows of the triangle: 9/16 of the work of the whole."""


def why_not(device_type: str) -> str | None:
    """None where torch has float64."""
    return "the device has no float64." if device_type == "mps" else None


def accumulate(
    x: torch.Tensor, n: int | torch.Tensor, mean: torch.Tensor, scatter: torch.Tensor, segments: Segments | None
) -> None:
    """As ``fastfid.scatter.update.accumulate``; waits for the device only where there are segments."""
    if segments is None:
        assert isinstance(n, int)
        _add(x, n, mean[0], scatter[0])
        return
    assert isinstance(n, torch.Tensor)
    for group, ((start, end), count) in enumerate(
        zip(itertools.pairwise(segments.offsets.tolist()), n.tolist(), strict=True)
    ):
        for rows in torch.split(segments.order[start:end], BLOCK_ROWS) if end > start else ():
            _add(x[rows], count, mean[group], scatter[group])
            count += len(rows)


def _add(x: torch.Tensor, n: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
    """Add the rows of one group to ``mean`` [d] and to the lower triangle of ``scatter`` [d, d]."""
    for block in torch.split(x, BLOCK_ROWS):
        b, d = block.shape
        columns = torch.empty(d, b + 1, dtype=torch.float64, device=x.device)
        batch, extra = columns[:, :b], columns[:, b]
        batch.copy_(block.T)
        first = batch[:, 0].clone()
        batch.sub_(first[:, None])  # exact zeros where a column is constant
        within = batch.mean(dim=1)
        batch.sub_(within[:, None])
        delta = first.add_(within).sub_(mean)
        torch.mul(delta, math.sqrt(n * (b / (n + b))), out=extra)
        mean.add_(delta, alpha=b / (n + b))
        add_lower_product(columns, scatter)
        n += b


def add_lower_product(columns: torch.Tensor, out: torch.Tensor) -> None:
    """out += columns columnsᵀ in the lower triangle; what stands above it is not defined."""
    d = len(columns)
    blocks = _BLOCKS if d >= _BLOCKED else 1
    for start, end in itertools.pairwise(d * i // blocks for i in range(blocks + 1)):
        out[start:end, :end].addmm_(columns[start:end], columns[:end].T)
