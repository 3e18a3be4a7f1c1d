"""What the end-to-end runs share: rows, gates, the bare network, and what is left out with its reason."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from references import extractor

from fastfid.speed.timing import quantiles

GATES = {"fp32": 1e-5, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference from fastfid in fp32 of means, covariances and distances, relative to the largest entry."""
ARITHMETIC = {"fp32": "float32", "tf32": "tf32", "fp16": "float16", "bf16": "bfloat16"}
Statistics = tuple[np.ndarray, np.ndarray]
Row = dict[str, Any]


def row(run: str, case: str, variant: str, unit: str, values: list[float], items: int, **more: Any) -> Row:
    """One row; times are per item in milliseconds, everything else is a peak in bytes."""
    times = quantiles(values)
    metric = "time per item" if unit == "ms" else "peak_bytes"
    return {
        "op": run,
        "case": case,
        "variant": variant,
        "metric": metric,
        "unit": unit,
        "p20": times.p20,
        "p50": times.p50,
        "p80": times.p80,
        "rounds": times.rounds,
        "items": items,
        **more,
    }


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Wall time until the device is done."""
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def gate(name: str, got: tuple[Any, ...], want: tuple[Any, ...], bound: float) -> list[float]:
    """Relative differences, each within the bound, or the end."""
    found = [float(np.abs(np.asarray(g) - w).max() / np.abs(w).max()) for g, w in zip(got, want, strict=True)]
    print(f"  {name}: differs by {', '.join(f'{error:.1e}' for error in found)} (bound {bound:.0e})", flush=True)
    if not all(error <= bound for error in found):
        raise SystemExit(f"{name} is not equal; nothing was timed")
    return found


def bare_network(precision: str, device: torch.device, batch: int) -> list[float]:
    """Milliseconds per image of the network on a batch that lies on the device; calls follow without waiting."""
    network = extractor(precision, str(device))
    assert not isinstance(network, str)
    x = torch.zeros(batch, 3, 299, 299, device=device).to(memory_format=torch.channels_last)
    calls = 20 if device.type == "cuda" else 1

    def run() -> None:
        for _ in range(calls):
            network(x)

    run()
    return [seconds_of(run, device) / calls / batch * 1e3 for _ in range(3)]


def available(options: argparse.Namespace) -> list[str]:
    """The precisions that were asked for and can be had; the others are named."""
    found = []
    for precision in options.precision:
        made = extractor(precision, str(options.device))
        if isinstance(made, str):
            print(f"  fastfid {precision}: not measured: {made}")
        else:
            found.append(precision)
    return found


def missing(name: str, made: object, options: argparse.Namespace) -> bool:
    """Whether a baseline is left out; says why."""
    if name not in options.baselines:
        return True
    if isinstance(made, str):
        print(f"  {name}: not measured: {made}")
    return isinstance(made, str)
