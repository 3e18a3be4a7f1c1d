"""The compiled engines of resize_normalize: a Request becomes addresses, strides and one call."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastfid import _native
from fastfid.resample._filters import Table
from fastfid.resample._request import Request

_PIXEL = {torch.uint8: 0, torch.float32: 1}
_STORE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3}
_WORDS = 17  # 64-bit words per image, struct Job in csrc/resample.h


def _jobs(request: Request, addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """struct Job of every image; ``addresses`` is int64 [tables, 3]: first, count and weights of each table."""
    rest = np.array([(table.single.shape[1], table.longest) for table in request.tables], dtype=np.int64)
    axes = np.concatenate([addresses, rest], axis=1)
    jobs = np.empty((len(request.images), _WORDS), dtype=np.int64)
    jobs[:, 0] = request.base.data_ptr() + request.images[:, 0] * request.base.element_size()
    storage = request.base.untyped_storage()
    jobs[:, 1] = storage.data_ptr() + storage.nbytes()
    jobs[:, 2:7] = request.images[:, 1:]
    jobs[:, 7:12] = axes[request.x]
    jobs[:, 12:17] = axes[request.y]
    return jobs


def _plan(request: Request) -> tuple[Any, ...]:
    """The arguments that all images share."""
    out = request.out
    return (
        request.channels,
        _PIXEL[request.base.dtype],
        request.quantize,
        out.data_ptr(),
        (out.shape[2], out.shape[3], out.stride(0), out.stride(1), out.stride(2), out.stride(3)),
        _STORE[out.dtype],
        request.scale,
        request.bias,
        *request.clamp,
    )


def _host_addresses(request: Request) -> npt.NDArray[np.int64]:
    arrays = [(t.first, t.count, t.fixed if request.quantize else t.single) for t in request.tables]
    return np.array([[array.ctypes.data for array in row] for row in arrays], dtype=np.int64)


def run_cpp(request: Request) -> None:
    """Fill ``request.out`` with csrc/resample_cpu.cpp."""
    jobs = _jobs(request, _host_addresses(request))
    _native.module().resample_cpu(
        jobs.ctypes.data, len(jobs), *_plan(request), request.num_threads, _native.cpu_level()
    )


def run_blocks(request: Request) -> None:
    """Fill ``request.out`` with the blocks of the CUDA kernel, run on the CPU; for tests."""
    jobs = _jobs(request, _host_addresses(request))
    _native.module().resample_blocks(jobs.ctypes.data, len(jobs), *_plan(request))


@functools.lru_cache(maxsize=1024)
def _on_device(table: Table, quantize: bool, device: torch.device) -> torch.Tensor:
    """first, count and weights of a table as one int32 tensor; the weights begin on a 16-byte boundary.

    The copy comes from ordinary memory and is therefore finished when it returns: any stream may read the tensor.
    """
    weights = table.fixed if quantize else table.single.view(np.int32)
    lead = np.concatenate([table.first, table.count])
    lead = np.pad(lead, (0, -len(lead) % 4))
    return torch.from_numpy(np.concatenate([lead, weights.reshape(-1)])).to(device)


def run_cuda(request: Request) -> None:
    """Enqueue csrc/resample_cuda.cu on the current stream; ``request.out`` is filled when the stream gets there."""
    device = request.base.device
    stream = torch.cuda.current_stream(device)
    tables = [_on_device(table, request.quantize, device) for table in request.tables]
    addresses = np.empty((len(tables), 3), dtype=np.int64)
    for i, (tensor, table) in enumerate(zip(tables, request.tables, strict=True)):
        out = len(table.first)
        begin = tensor.data_ptr()
        addresses[i] = (begin, begin + 4 * out, begin + 4 * (2 * out + -2 * out % 4))
    jobs = _jobs(request, addresses)
    steps = np.diff(jobs[:, 0])
    uniform = bool((jobs[1:, 1:] == jobs[0, 1:]).all() and (steps == steps[:1]).all())
    with torch.cuda.device(device):
        on_device = None if uniform else torch.from_numpy(jobs).pin_memory().to(device, non_blocking=True)
        _native.module().resample_cuda(
            0 if on_device is None else on_device.data_ptr(),
            jobs.ctypes.data,
            int(steps[0]) if len(steps) else 0,
            len(jobs),
            *_plan(request),
            device.index if device.index is not None else torch.cuda.current_device(),
            stream.cuda_stream,
        )
    for tensor in tables:
        tensor.record_stream(stream)  # a table may leave the cache while the kernel still reads it
