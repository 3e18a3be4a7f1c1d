"""The compiled engines of resize_normalize: a Request becomes addresses, strides and one call."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastfid.resample._filters import Table
from fastfid.resample._request import Request
from fastfid.runtime import native as _native

_PIXEL = {torch.uint8: 0, torch.float32: 1}
_STORE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3}
_WORDS = 17  # 64-bit words per image, struct Job in csrc/resample.h


def _shared(request: Request) -> tuple[Any, ...]:
    """What all images share, as csrc/bindings.cpp lists it."""
    out = request.out
    return (
        request.channels,
        _PIXEL[request.base.dtype],
        request.quantize,
        _begin(out),
        (out.shape[2], out.shape[3], out.stride(0), out.stride(1), out.stride(2), out.stride(3)),
        _STORE[out.dtype],
        request.scale,
        request.bias,
        *request.clamp,
    )


def _begin(tensor: torch.Tensor) -> int:
    """Bytes from the start of a tensor's memory to its first element."""
    return tensor.data_ptr() - tensor.untyped_storage().data_ptr()


def _images(request: Request) -> npt.NDArray[np.int64]:
    """int64 [n, 8]: what the request says of each image, and its tables for x and y."""
    columns = np.concatenate([request.images, request.x[:, None], request.y[:, None]], axis=1)
    return np.ascontiguousarray(columns, dtype=np.int64)


def _tables(request: Request) -> list[tuple[Any, ...]]:
    return [
        (t.first, t.count, t.fixed if request.quantize else t.single, t.longest, t.size)  # each read where it lies
        for t in request.tables
    ]


def _memory(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """All the memory that a CPU tensor lies in."""
    whole: torch.Tensor = torch.empty(0, dtype=torch.uint8, device="cpu").set_(tensor.untyped_storage())  # type: ignore[call-overload, unused-ignore]
    return whole.numpy()


def _on_host(request: Request) -> tuple[Any, ...]:
    """The arguments of the engines that run on the CPU."""
    return (
        _memory(request.base),
        _begin(request.base),
        _images(request),
        _tables(request),
        _memory(request.out),
        _shared(request),
    )


def run_cpp(request: Request) -> None:
    """Fill ``request.out`` with csrc/resample_cpu.cpp."""
    _native.module().resample_cpu(*_on_host(request), request.num_threads, _native.cpu_level())


def run_blocks(request: Request) -> None:
    """Fill ``request.out`` with the blocks of the CUDA kernel, run on the CPU; for tests."""
    _native.module().resample_blocks(*_on_host(request))


@functools.lru_cache(maxsize=1024)
def _on_device(table: Table, quantize: bool, device: torch.device) -> torch.Tensor:
    """first, count and weights of a table as one int32 tensor; the weights begin on a 16-byte boundary.

    The copy comes from ordinary memory and is therefore finished when it returns: any stream may read the tensor.
    """
    weights = table.fixed if quantize else table.single.view(np.int32)
    lead = np.concatenate([table.first, table.count])
    lead = np.pad(lead, (0, -len(lead) % 4))
    return torch.from_numpy(np.concatenate([lead, weights.reshape(-1)])).to(device)


def _place(tensor: torch.Tensor) -> tuple[int, int]:
    """(address, bytes) of the memory that a tensor lies in."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


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
    shared, memory, where = _shared(request), _place(request.base), _place(request.out)
    native = _native.module()
    records = native.jobs(memory, _begin(request.base), _images(request), _tables(request), addresses, where, shared)
    jobs = np.frombuffer(records, dtype=np.int64).reshape(-1, _WORDS)
    steps = np.diff(jobs[:, 0])
    uniform = bool((jobs[1:, 1:] == jobs[0, 1:]).all() and (steps == steps[:1]).all())
    with torch.cuda.device(device):
        on_device = None if uniform else torch.from_numpy(jobs.copy()).pin_memory().to(device, non_blocking=True)
        native.resample_cuda(
            records,
            0 if on_device is None else on_device.data_ptr(),
            int(steps[0]) if len(steps) else 0,
            where,
            shared,
            device.index if device.index is not None else torch.cuda.current_device(),
            stream.cuda_stream,
        )
    for tensor in tables:
        tensor.record_stream(stream)  # a table may leave the cache while the kernel still reads it
