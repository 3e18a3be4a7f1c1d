"""Resize and normalise in float64: two matrix products per image.

    out = (A_y · image · A_xᵀ) · scale + bias

with A_y, A_x the weight tables as dense matrices. In the uint8 contract the weights are integers with 22 fraction bits
and each product is followed by ``clip8((2^21 + sum) >> 22)``; every sum is below 2^53, so float64 holds it exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from fastfid.resample._request import Request

_FRACTION_BITS = 22
_BLOCK_VALUES = 1 << 24  # source values in float64 at once


def why_not(device_type: str) -> str | None:
    """None where the reference can run on tensors of that device type, else the reason."""
    if device_type in ("cpu", "cuda"):
        return None
    return f"the reference needs float64, which fastfid has not tried on {device_type}"


def _clip8(sums: torch.Tensor) -> torch.Tensor:
    half = float(1 << (_FRACTION_BITS - 1))
    return torch.floor((sums + half) / float(1 << _FRACTION_BITS)).clamp_(0.0, 255.0)


def run(request: Request) -> None:
    """Fill ``request.out``; the result is rounded once, to its dtype."""
    device = request.base.device
    matrices: dict[int, torch.Tensor] = {}

    def matrix(index: int) -> torch.Tensor:
        if index not in matrices:
            dense = request.tables[index].dense(fixed=request.quantize)
            matrices[index] = torch.from_numpy(dense).to(device)
        return matrices[index]

    scale = torch.tensor(request.scale, dtype=torch.float64, device=device).to(torch.float32).double()
    bias = torch.tensor(request.bias, dtype=torch.float64, device=device).to(torch.float32).double()
    for index in range(len(request.images)):
        offset, height, width, stride_h, stride_w, stride_c = (int(value) for value in request.images[index])
        image = torch.as_strided(
            request.base,
            (height, width, request.channels),
            (stride_h, stride_w, stride_c),
            request.base.storage_offset() + offset,
        )
        rows = max(_BLOCK_VALUES // max(width * request.channels, 1), 1)
        a_x, a_y = matrix(int(request.x[index])), matrix(int(request.y[index]))
        passed = torch.cat(
            [torch.einsum("ow,hwc->hoc", a_x, image[top : top + rows].double()) for top in range(0, height, rows)]
        )
        if request.quantize:
            passed = _clip8(passed)
        values = torch.einsum("oh,hwc->cow", a_y, passed)
        if request.quantize:
            values = _clip8(values)
        if np.isfinite(request.clamp).any():
            values = values.clamp(*request.clamp)
        request.out[index].copy_(values * scale[:, None, None] + bias[:, None, None])
