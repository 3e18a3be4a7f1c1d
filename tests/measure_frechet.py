"""Measure what the distance's tests only bound: error, enclosure width and time per method, spectrum and size.

    python tests/measure_frechet.py [--sizes 64 512 2048] [--coverage 20000] [--output FILE.json]

The truth of the table is the singular values of the true factors; that of the coverage is Jacobi in extended precision.
Widths and errors are relative to tr(Σ₁Σ₂)^½. Run it on an idle machine if the times matter.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import spectra
import torch
from test_frechet_accuracy import ROUTES, coverage

import fastfid
from fastfid.errors import NumericalWarning
from fastfid.reference.linalg import nuclear_norm

LABELS = ("auto", "certify", "svd", "newton-schulz")


def row(name: str, d: int, label: str, method: str, certify: bool | None) -> dict[str, Any]:
    f1, f2 = spectra.pair(name, d)
    s1, s2 = spectra.covariance(f1), spectra.covariance(f2)
    want, zero = nuclear_norm(f1.T @ f2), np.zeros(d)
    begin = time.perf_counter()
    got = fastfid.frechet(zero, s1, zero, s2, method=method, certify=certify)
    seconds = time.perf_counter() - begin
    scale = want or 1.0
    return {
        "spectrum": name,
        "d": d,
        "asked": label,
        "method": got.method,
        "steps": got.steps,
        "ranks": [got.rank1, got.rank2],
        "error": abs(got.trace_root - want) / scale,
        "width": (got.upper - got.lower) / 2 / scale,
        "seconds": seconds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 512, 2048])
    parser.add_argument("--coverage", type=int, default=20_000, help="random pairs per small size")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    rows = []
    for d in arguments.sizes:
        for name in spectra.SPECTRA:
            for label, (method, certify) in zip(LABELS, ROUTES, strict=True):
                if label == "svd" or (d > 1024 and label == "newton-schulz" and not torch.cuda.is_available()):
                    continue  # svd is what certify runs; large products on a CPU take minutes and show nothing new
                made = row(name, d, label, method, certify)
                rows.append(made)
                sys.stdout.write(
                    f"{d:5d}  {name:24} {label:14} {made['method']:14} {made['steps']:3d} steps  "
                    f"error {made['error']:.1e}  width {made['width']:.1e}  {made['seconds']:8.3f} s\n"
                )
                sys.stdout.flush()
    counts = {}
    plan = {2: 1.0, 4: 1.0, 8: 1.0, 16: 0.2, 32: 0.05} if arguments.coverage else {}
    for d, share in plan.items():
        counts[str(d)] = coverage(d, int(arguments.coverage * share), 2)
        sys.stdout.write(f"coverage d={d}: {counts[str(d)]}\n")
        sys.stdout.flush()
    if arguments.output:
        facts = {
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"machine": facts, "rows": rows, "coverage": counts}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
