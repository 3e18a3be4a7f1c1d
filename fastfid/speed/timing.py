"""Timing that can be trusted: warmed, interleaved, reported as quantiles; on a GPU with a cold L2 cache.

Variants take turns within every round, in an order that is shuffled anew each time, so that a change of clock, a busy
neighbour or the caches that the one before leaves behind meet all of them alike.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], object]
WARM_UP_S = 0.05
L2_BYTES = 256 << 20  # written between GPU runs; several times the largest L2


@dataclass(frozen=True)
class Times:
    """Quantiles of one variant, in milliseconds per call."""

    p20: float
    p50: float
    p80: float
    rounds: int


def quantiles(samples: Sequence[float]) -> Times:
    """The median and the fifths of some samples."""
    ordered = sorted(samples)

    def at(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return Times(at(0.2), statistics.median(ordered), at(0.8), len(ordered))


def interleaved(
    runs: Mapping[str, Run], device: torch.device, *, seconds: float, least_rounds: int = 7
) -> dict[str, Times]:
    """Time all variants in turns until ``seconds`` have passed and ``least_rounds`` are done.

    Args:
        runs: name → a call.
        device: whose clock counts: events on a GPU, with a cold L2 cache, else the host's.
        seconds: least time for all of them together.
        least_rounds: least number of turns of each.

    Returns:
        name → Times, in milliseconds per call.
    """
    once = _on_gpu(device) if device.type == "cuda" else _on_cpu
    for run in runs.values():
        begin = time.perf_counter()
        run()
        while time.perf_counter() - begin < WARM_UP_S:
            run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    shuffle = random.Random(0)
    begin, rounds = time.perf_counter(), 0
    while rounds < least_rounds or time.perf_counter() - begin < seconds:
        order = list(runs)
        shuffle.shuffle(order)
        for name in order:
            samples[name].append(once(runs[name]))
        rounds += 1
    return {name: quantiles(values) for name, values in samples.items()}


def _on_cpu(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def _on_gpu(device: torch.device) -> Callable[[Run], float]:
    """GPU time between two events around one call, after the L2 cache was filled with something else."""
    other = torch.empty(L2_BYTES, dtype=torch.uint8, device=device)

    def once(run: Run) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        other.zero_()  # keeps the GPU busy while the host enqueues, so that no event times the host
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    return once
