"""A tile of lower bounds on squared distances by a matrix product, on any device that has one.

On a CPU NumPy's BLAS multiplies: it was 8 % faster than torch's on the machine at hand (AMD, ``python bench/run.py --op
pairwise``), and knows that a product with one's own transpose is half the work.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from fastfid.pairwise.frame import Panel

_BANDS = 4
"""Strips that a tile on the diagonal is taken in where the product does not know of symmetry: 5/8 of the work."""


def why_not(device_type: str) -> str | None:
    """None where torch has float64."""
    return "the device has no float64." if device_type == "mps" else None


def lower_bounds(x: Panel, y: Panel, out: torch.Tensor) -> torch.Tensor:
    """−2 X Yᵀ plus both offsets [a, b] in ``out``, which is returned."""
    if out.device.type == "cpu":
        np.matmul(x.rows.numpy(), y.rows.numpy().T, out=out.numpy())
    else:
        torch.mm(x.rows, y.rows.T, out=out)
    return torch.add(x.offset[:, None], out, alpha=-2, out=out).add_(y.offset[None, :])


def lower_bounds_within(x: Panel, out: torch.Tensor) -> torch.Tensor:
    """As ``lower_bounds`` of a panel with itself, below the diagonal; infinity on it and above."""
    n = len(x)
    if out.device.type == "cpu":
        lower_bounds(x, x, out)
    else:
        for start, end in itertools.pairwise(n * band // _BANDS for band in range(_BANDS + 1)):
            lower_bounds(x.part(start, n), x.part(start, end), out[start:, start:end])
    above = torch.ones(n, n, dtype=torch.bool, device=out.device).triu_()
    return out.masked_fill_(above, torch.inf)
