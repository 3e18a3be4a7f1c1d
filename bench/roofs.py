"""What the machine itself can do, measured beside every run: the roofs that shares are shares of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastfid.speed.timing import interleaved

ARITHMETIC = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@contextmanager
def _settings(threads: int, tf32: bool) -> Iterator[None]:
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(threads or before[0])
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cuda.matmul.allow_tf32 = before[1]


def copy_bandwidth(device: torch.device, threads: int = 0) -> float:
    """Bytes per second that a large copy reads and writes together: the roof of anything that is bound by memory."""
    count = (1 << 30) if device.type == "cuda" else (1 << 27)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    with _settings(threads, tf32=False):
        times = interleaved({"copy": lambda: target.copy_(source)}, device, seconds=0.5)
    return 2 * count / (times["copy"].p50 * 1e-3)


def matmul_rate(device: torch.device, arithmetic: str, threads: int = 0) -> float:
    """Floating-point operations per second of torch's product of two square matrices: the roof of dense arithmetic."""
    side = 8192 if device.type == "cuda" else 1536
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(side, side, generator=generator).to(device, ARITHMETIC[arithmetic])
    out = torch.empty_like(factor)
    with _settings(threads, tf32=arithmetic == "tf32"):
        times = interleaved({"product": lambda: torch.mm(factor, factor, out=out)}, device, seconds=0.5)
    return 2 * side**3 / (times["product"].p50 * 1e-3)
