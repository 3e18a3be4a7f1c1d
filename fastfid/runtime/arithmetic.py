"""The arithmetic that is stated, whatever torch's global switches say, and without touching one.

Autocast belongs to a thread and is switched off for the time of a pass. TF32, bfloat16 in the place of float32 and
cuDNN's choice of algorithm are settings of the whole process: another thread may be training under them. So they are
never written. Convolutions on CUDA carry their own (``convolve``); where an arithmetic can't be had for one call alone,
the settings are read, and the caller of this file takes a wider one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@contextlib.contextmanager
def stated(device: torch.device) -> Iterator[None]:
    """No autocast: operations run in the dtype of their operands. This thread only."""
    if torch.amp.is_autocast_available(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


@contextlib.contextmanager
def ordinary() -> Iterator[None]:
    """For what outlives a call: tensors that are no inference tensors and carry no gradient, whatever mode is on."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int], *, tf32: bool = False
) -> Tensor:
    """A convolution in IEEE arithmetic, or on CUDA in TF32 where asked; the same bits run to run there.

    cuDNN picks its algorithm by rule, not by timing, and only deterministic ones: a search may pick another in the next
    run, and with it other last bits. On a CPU it is IEEE's only where ``ieee_convolutions`` says so.
    """
    if x.device.type != "cuda":
        return F.conv2d(x, weight, bias, stride, padding)
    made: Tensor = torch._convolution(
        *(x, weight, bias, [stride, stride], list(padding), [1, 1], False, [0, 0], 1),
        False,  # benchmark
        True,  # deterministic
        True,  # cuDNN
        tf32,
    )
    return made


def ieee_convolutions(device: torch.device) -> bool:
    """Whether float32 convolutions are IEEE's; on CUDA those of ``convolve`` are."""
    return device.type != "cpu" or _ieee(torch.backends, "mkldnn", "conv")


def ieee_products(device: torch.device) -> bool:
    """Whether float32 matrix products are IEEE's under the process's settings."""
    return _ieee(torch.backends, *(("cuda", "matmul") if device.type == "cuda" else ("mkldnn", "matmul")))


def _ieee(backends: Any, backend: str, operation: str) -> bool:
    """torch 2.9 replaced the older switches by ``fp32_precision`` and raises where a program mixes the two."""
    setting = getattr(getattr(backends, backend), operation, None)
    if hasattr(backends.cudnn, "conv"):
        return setting is None or setting.fp32_precision in ("ieee", "none")
    return torch.get_float32_matmul_precision() == "highest"
