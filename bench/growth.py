"""Time and memory against the number of images: each number in a process of its own, then a straight line through them.

    python bench/growth.py N DEVICE        one number: prints {"seconds", "peak_bytes", "gpu_peak_bytes"} as JSON
    python bench/run.py --end-to-end growth [--count 50000]

Images are made as they are read, so that nothing but the pipeline holds memory. The extractor is a pooling on the CPU,
so that 50,000 images end quickly and the pipeline's own costs are not drowned in the network's, and the FID network in
fp16 on a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peak import resident_peak

import fastfid

COUNTS = (1000, 2000, 5000, 10_000, 20_000, 50_000)
SIDE = 32
BATCH = 50


def stream(count: int) -> Iterator[np.ndarray]:
    """Batches [b, 32, 32, 3] of uint8 noise, made one at a time."""
    rng = np.random.default_rng(0)
    for begin in range(0, count, BATCH):
        yield rng.integers(0, 256, (min(BATCH, count - begin), SIDE, SIDE, 3), dtype=np.uint8)


def pool(x: torch.Tensor) -> torch.Tensor:
    """192 features: means of 8 × 8 fields."""
    return F.adaptive_avg_pool2d(x, 8).flatten(1)


def one(count: int, device: str) -> dict[str, float]:
    """A pass over ``count`` images after a short one that warms up."""
    warnings.simplefilter("ignore")
    if device == "cpu":
        network: Any = pool
    else:
        from references import extractor

        network = extractor("fp16", device)
    fastfid.stats(stream(2 * BATCH), extractor=network, device=device, batch_size=BATCH)
    begin = time.perf_counter()
    moments = fastfid.stats(stream(count), extractor=network, device=device, batch_size=BATCH)
    seconds = time.perf_counter() - begin
    assert moments.n == count
    on_gpu = torch.cuda.max_memory_allocated() if device != "cpu" else 0
    return {"seconds": seconds, "peak_bytes": resident_peak(), "gpu_peak_bytes": on_gpu}


def line_through(counts: list[int], seconds: list[float]) -> dict[str, float]:
    """Least squares in relative terms: seconds = fixed + each · n, and the largest |residual| / seconds."""
    n, t = np.asarray(counts, float), np.asarray(seconds)
    design = np.stack([np.ones_like(n), n], axis=1) / t[:, None]
    (fixed, each), *_ = np.linalg.lstsq(design, np.ones_like(t), rcond=None)
    residual = np.abs(fixed + each * n - t) / t
    return {"fixed_s": float(fixed), "s_per_image": float(each), "largest_relative_residual": float(residual.max())}


def run(counts: list[int], device: str) -> list[dict[str, float]]:
    """``one`` for every number, in processes of their own."""
    found = []
    for count in counts:
        words = [sys.executable, str(Path(__file__).resolve()), str(count), device]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


if __name__ == "__main__":
    print(json.dumps(one(int(sys.argv[1]), sys.argv[2])))
