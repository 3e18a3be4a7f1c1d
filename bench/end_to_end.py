"""Whole evaluations: a folder to moments, tensors in host memory to FID, and the growth with the number of images.

    python bench/run.py --end-to-end pipeline,tensors,growth [--device cpu|cuda] [--count N] [--size 256] [--batch 50]
                        [--repeat 3] [--precision fp32,bf16] [--baselines pytorch-fid,torch-fidelity] [--out FOLDER]

pipeline    PNG files → moments, beside pytorch-fid and torch-fidelity on the same folder and the bare network.
tensors     uint8 images in host memory → FID against given statistics, with the time split and peak memory, beside
            the packages' own networks, statistics and distance on the same tensors.
growth      time and memory for 1,000 … ``--count`` images, and how straight the line is.

Equal first: means and covariances (distances, for ``tensors``) must agree within ``evaluation.GATES`` before anything
is timed. Variants take turns. Weights are one set of seeded random ones for all packages: speed does not depend on
them. Rows go to ``bench/results/<machine>/<commit>-end-to-end.json`` in the form of run.py's.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import growth
import torch
from evaluation import Row, row
from machine import machine, save
from pipeline import pipeline
from references import PRECISIONS
from tensors import tensors


def growing(options: argparse.Namespace) -> list[Row]:
    """Time and memory against the number of images."""
    most = options.count or growth.COUNTS[-1]
    counts = [count for count in growth.COUNTS if count < most] + [most]
    found = growth.run(counts, str(options.device))
    rows = []
    for count, one in zip(counts, found, strict=True):
        rows.append(row("growth", f"n={count}", "fastfid", "ms", [one["seconds"] / count * 1e3], count))
        rows.append(row("growth", f"n={count}", "fastfid", "bytes", [float(one["peak_bytes"])], count))
        if one["gpu_peak_bytes"]:
            rows.append(row("growth", f"n={count}", "fastfid, GPU", "bytes", [float(one["gpu_peak_bytes"])], count))
        print(f"  n={count}: {one['seconds']:.2f} s, peak {one['peak_bytes'] / 2**20:.0f} MiB", flush=True)
    if len(counts) > 2:
        print(f"  {growth.line_through(counts, [one['seconds'] for one in found])}")
    return rows


RUNS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "pipeline": pipeline,
    "tensors": tensors,
    "growth": growing,
}


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--end-to-end", type=_words, default=list(RUNS), metavar="RUNS")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--count", type=int, default=0, help="images [200; tensors on a GPU and growth: 50000]")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=0, help="[50 on a CPU, 256 on a GPU]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--precision", type=_words, default=list(PRECISIONS))
    parser.add_argument("--baselines", type=_words, default=["pytorch-fid", "torch-fidelity"])
    parser.add_argument("--out", type=Path, help="folder of the result file [bench/results/<machine>]")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args(arguments)
    unknown = set(options.end_to_end) - set(RUNS)
    if unknown or not options.end_to_end:
        parser.error(f"--end-to-end: {', '.join(sorted(unknown)) or 'nothing'}; accepted: {', '.join(RUNS)}")
    options.batch = options.batch or (256 if options.device.type == "cuda" else 50)
    warnings.simplefilter("ignore")
    facts = machine(options.device)
    rows = [one for name in options.end_to_end for one in RUNS[name](options)]
    if not options.no_save:
        suffix = "-end-to-end" if options.end_to_end == list(RUNS) else f"-{'-'.join(options.end_to_end)}"
        print(f"written: {save(facts, rows, suffix, options.out)}")
    return 0
