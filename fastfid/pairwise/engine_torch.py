"""A tile of lower bounds on squared distances by torch's matrix product, on any device that has one."""

from __future__ import annotations

import torch

from fastfid.pairwise.frame import Panel


def why_not(device_type: str) -> str | None:
    """None where torch has float64."""
    return "the device has no float64." if device_type == "mps" else None


def lower_bounds(x: Panel, y: Panel, out: torch.Tensor) -> torch.Tensor:
    """−2 X Yᵀ plus both offsets [a, b] in ``out``, which is returned."""
    torch.addmm(out, x.rows, y.rows.T, beta=0, alpha=-2, out=out)
    return out.add_(x.offset[:, None]).add_(y.offset[None, :])


def lower_bounds_within(x: Panel, out: torch.Tensor, bands: int) -> torch.Tensor:
    """As ``lower_bounds`` of a panel with itself, below the diagonal; infinity on it and above.

    Of the product's work (1 + 1/bands) / 2 is done.
    """
    n = len(x)
    out.fill_(torch.inf)
    for band in range(min(bands, n)):
        start, end = n * band // min(bands, n), n * (band + 1) // min(bands, n)
        lower_bounds(x.part(start, n), x.part(start, end), out[start:, start:end])
    above = torch.ones(n, n, dtype=torch.bool, device=out.device).triu_()
    return out.masked_fill_(above, torch.inf)
