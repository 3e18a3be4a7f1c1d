"""Scatter update by Triton kernels on NVIDIA GPUs; importing this file imports no Triton.

The kernels want float64 tensor cores; see ``fastfid.kernels.scatter``.
"""

from __future__ import annotations

import torch

from fastfid.kernels import probe
from fastfid.moments.segments import Segments
from fastfid.runtime.device import has_fast_float64


def why_not(device_type: str) -> str | None:
    """None on an NVIDIA GPU for which this Triton compiles the kernels, else the reason."""
    missing = probe.why_no_triton(device_type)
    if missing is not None:
        return missing
    if not has_fast_float64(torch.device("cuda")):
        return "this GPU has no float64 tensor cores, which the kernels are made for"
    major, minor = torch.cuda.get_device_capability()
    return probe.why_not_compiled("scatter", 10 * major + minor, True)


def accumulate(
    x: torch.Tensor, n: int | torch.Tensor, mean: torch.Tensor, scatter: torch.Tensor, segments: Segments | None
) -> None:
    """As ``fastfid.moments.update.accumulate``."""
    from fastfid.kernels.scatter import column_sums, scatter_update

    if x.stride(1) != 1 and x.shape[1] > 1:
        x = x.contiguous()
    if segments is None:
        assert isinstance(n, int)
        first = x[:1].double()
        counts = torch.full((1,), x.shape[0], dtype=torch.float64, device=x.device)
        before = torch.full((1,), n, dtype=torch.float64, device=x.device)
    else:
        assert isinstance(n, torch.Tensor)
        first = x[segments.order[segments.offsets[:-1].clamp(max=x.shape[0] - 1)]].double()
        counts, before = segments.counts.double(), n.double()
    shift = column_sums(x, first, segments).div_(counts.clamp(min=1.0)[:, None]).add_(first)
    delta = shift - mean
    ratio = counts / (before + counts).clamp(min=1.0)
    scatter_update(x, shift, delta, before * ratio, scatter, segments)
    mean.addcmul_(delta, ratio[:, None])
