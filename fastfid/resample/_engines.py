"""The compiled engines of resize_normalize: a Request becomes addresses, strides and one call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fastfid import _native
from fastfid.resample._request import Request

_PIXEL = {torch.uint8: 0, torch.float32: 1}
_STORE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3}
_WORDS = 14  # 64-bit words per image, struct Job in csrc/resample.h


def _shape(out: torch.Tensor) -> tuple[int, ...]:
    return (out.shape[2], out.shape[3], out.stride(0), out.stride(1), out.stride(2), out.stride(3))


def _jobs(request: Request, addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """struct Job of every image; ``addresses`` is int64 [tables, 3]: first, count and weights of each table."""
    taps = np.array([table.weights.shape[1] for table in request.tables], dtype=np.int64)
    jobs = np.empty((len(request.images), _WORDS), dtype=np.int64)
    jobs[:, 0] = request.base.data_ptr() + request.images[:, 0] * request.base.element_size()
    jobs[:, 1:6] = request.images[:, 1:]
    jobs[:, 6:9], jobs[:, 9] = addresses[request.x], taps[request.x]
    jobs[:, 10:13], jobs[:, 13] = addresses[request.y], taps[request.y]
    return jobs


def run_cpp(request: Request) -> None:
    """Fill ``request.out`` with csrc/resample_cpu.cpp."""
    addresses = np.array(
        [
            (
                table.first.ctypes.data,
                table.count.ctypes.data,
                (table.fixed if request.quantize else table.single).ctypes.data,
            )
            for table in request.tables
        ],
        dtype=np.int64,
    ).reshape(-1, 3)
    jobs = _jobs(request, addresses)
    _native.module().resample_cpu(
        jobs.ctypes.data,
        len(jobs),
        request.channels,
        _PIXEL[request.base.dtype],
        request.quantize,
        request.out.data_ptr(),
        _shape(request.out),
        _STORE[request.out.dtype],
        request.scale,
        request.bias,
        *request.clamp,
        request.num_threads,
        _native.cpu_level(),
    )
