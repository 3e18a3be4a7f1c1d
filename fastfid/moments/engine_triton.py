"""Scatter update by Triton kernels on NVIDIA GPUs; importing this file imports no Triton.

Two routes to the products, chosen by the device (``fastfid.linalg.iteration.precision_for``): float64 tensor cores
where it has them, else exact integer slices. Both are described in ``fastfid.kernels.scatter``.
"""

from __future__ import annotations

import torch

from fastfid.kernels import probe
from fastfid.linalg.iteration import precision_for
from fastfid.moments.segments import Segments


def why_not(device_type: str) -> str | None:
    """None on an NVIDIA GPU for which this Triton compiles the kernels, else the reason."""
    missing = probe.why_no_triton(device_type)
    if missing is not None:
        return missing
    major, minor = torch.cuda.get_device_capability()
    float64 = precision_for(torch.device("cuda")) == "float64"
    return probe.why_not_compiled("scatter" if float64 else "sliced_scatter", 10 * major + minor, float64)


def accumulate(
    x: torch.Tensor,
    n: int | torch.Tensor,
    mean: torch.Tensor,
    scatter: torch.Tensor,
    segments: Segments | None,
    *,
    precision: str | None = None,
) -> None:
    """As ``fastfid.moments.update.accumulate``; precision: "float64", "mixed" (slices), None chooses by the device."""
    from fastfid.kernels.scatter import column_sums, scatter_update, sliced_scatter_update

    if x.stride(1) != 1 and x.shape[1] > 1:
        x = x.contiguous()
    sliced = (precision or precision_for(x.device)) == "mixed"
    if segments is None:
        assert isinstance(n, int)
        first = x[:1].double()
        counts = torch.full((1,), x.shape[0], dtype=torch.float64, device=x.device)
        before = torch.full((1,), n, dtype=torch.float64, device=x.device)
    else:
        assert isinstance(n, torch.Tensor)
        first = x[segments.order[segments.offsets[:-1].clamp(max=x.shape[0] - 1)]].double()
        counts, before = segments.counts.double(), n.double()
    sums, low, high = column_sums(x, first, segments, with_range=sliced)
    shift = sums.div_(counts.clamp(min=1.0)[:, None]).add_(first)
    delta = shift - mean
    ratio = counts / (before + counts).clamp(min=1.0)
    if sliced:
        reach = torch.maximum(high - shift, shift - low)
        sliced_scatter_update(x, shift, reach, delta, before * ratio, scatter, segments)
    else:
        scatter_update(x, shift, delta, before * ratio, scatter, segments)
    mean.addcmul_(delta, ratio[:, None])
