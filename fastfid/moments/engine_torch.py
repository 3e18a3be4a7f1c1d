"""Scatter update by torch, on any device with float64: one triangle, a block of rows in float64 at a time.

The rank-one term of the combination rides along as one more row of the block. All blocks of a batch share one buffer:
new memory for each would cost more than the conversion.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from fastfid.moments.segments import Segments

BLOCK_ROWS = 8192
"""Rows in float64 at once: 128 MiB at d = 2048, and long enough that reading the accumulator costs nothing."""

_BLOCKED = 512
"""From this d on the halved work outweighs the extra calls."""

_LONG = 1024
"""From this many rows on a CPU's product goes to NumPy's BLAS; its result costs another pass over the accumulator."""

_BLOCKS = 8
"""Block rows of the triangle: 9/16 of the work of the whole."""


def why_not(device_type: str) -> str | None:
    """None where torch has float64."""
    return "the device has no float64." if device_type == "mps" else None


def accumulate(
    x: torch.Tensor, n: int | torch.Tensor, mean: torch.Tensor, scatter: torch.Tensor, segments: Segments | None
) -> None:
    """As ``fastfid.moments.update.accumulate``; waits for the device only where there are segments."""
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
    buffer = torch.empty(min(len(x), BLOCK_ROWS) + 1, x.shape[1], dtype=torch.float64, device=x.device)
    for block in torch.split(x, BLOCK_ROWS):
        b = block.shape[0]
        rows, extra = buffer[:b], buffer[b]
        rows.copy_(block)
        first = rows[0].clone()
        rows.sub_(first)  # exact zeros where a column is constant
        within = rows.mean(dim=0)
        rows.sub_(within)
        delta = first.add_(within).sub_(mean)
        torch.mul(delta, math.sqrt(n * (b / (n + b))), out=extra)
        mean.add_(delta, alpha=b / (n + b))
        _add_lower_gram(buffer[: b + 1], scatter)
        n += b


def _add_lower_gram(rows: torch.Tensor, out: torch.Tensor) -> None:
    """out += rowsᵀ rows in the lower triangle; what stands above it is not defined.

    NumPy sends the product of a matrix with its own transpose to BLAS's syrk, which does less work than the block rows
    below and to which torch has no door (``python bench/run.py --op moments``).
    """
    d = rows.shape[1]
    if d >= _BLOCKED and len(rows) >= _LONG and rows.device.type == "cpu":
        array = rows.numpy()
        with np.errstate(all="ignore"):  # what overflows is found where the matrix is read (update.in_range)
            out.add_(torch.from_numpy(array.T @ array))
        return
    blocks = _BLOCKS if d >= _BLOCKED else 1
    for start, end in itertools.pairwise(d * i // blocks for i in range(blocks + 1)):
        out[start:end, :end].addmm_(rows[:, start:end].T, rows[:, :end])
