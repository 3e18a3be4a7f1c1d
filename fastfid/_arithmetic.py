"""The arithmetic that is stated, whatever torch's global switches say.

Autocast, TF32 or bfloat16 in the place of float32, and cuDNN's choice of algorithm are settings of the whole process.
They are neither trusted nor left changed: inside ``stated`` they are what the caller of this file says, behind it what
they were. torch 2.9 replaced ``allow_tf32`` by ``fp32_precision`` and raises where a program mixes the two, so only the
newer one is read and written where it exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def stated(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Float32 products and convolutions in IEEE float32, or on CUDA in TF32 where asked; the same bits run to run.

    cuDNN picks its algorithms by rule, not by timing them, and only deterministic ones: a search may pick others in the
    next run, and with them other last bits.
    """
    with contextlib.ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        on_cuda = device.type == "cuda"
        if _has_fp32_precision():
            _set_precisions(stack, on_cuda, "tf32" if tf32 else "ieee")
        else:
            _set_switches(stack, on_cuda, tf32)
        if on_cuda:
            _set(stack, torch.backends.cudnn, "benchmark", False)
            _set(stack, torch.backends.cudnn, "deterministic", True)
        yield


def _has_fp32_precision() -> bool:
    """Whether this torch has the newer settings."""
    return hasattr(torch.backends.cudnn, "conv")


def _set_precisions(stack: contextlib.ExitStack, on_cuda: bool, wanted: str) -> None:
    """``fp32_precision`` of convolutions and products, torch 2.9 and later."""
    backends: Any = torch.backends
    backend = backends.cudnn if on_cuda else backends.mkldnn
    # Convolutions may be matrix products: small ones on a CPU, all on CUDA where the caller has disabled cuDNN.
    for setting in (backend.conv, backends.cuda.matmul if on_cuda else backend.matmul):
        before = setting.fp32_precision
        if before == wanted or (before, wanted) == ("none", "ieee"):
            continue
        # "none" means inherited; what was inherited must go on following the setting it came from.
        inherited = before in (backend.fp32_precision, backends.fp32_precision)
        stack.callback(setattr, setting, "fp32_precision", "none" if inherited else before)
        setting.fp32_precision = wanted


def _set_switches(stack: contextlib.ExitStack, on_cuda: bool, tf32: bool) -> None:
    """``allow_tf32`` of convolutions and the precision of products, before torch 2.9."""
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if on_cuda:
        _set(stack, torch.backends.cudnn, "allow_tf32", tf32)


def _set(stack: contextlib.ExitStack, holder: Any, name: str, wanted: bool) -> None:
    """One switch, put back when the stack unwinds."""
    stack.callback(setattr, holder, name, getattr(holder, name))
    setattr(holder, name, wanted)
