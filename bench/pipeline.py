"""Images per second from a folder to moments: fastfid's pipeline beside pytorch-fid's, same folder, same weights.

    python bench/pipeline.py [--count 200] [--size 256] [--repeat 3] [--json FILE]

The gate comes first: both packages' means and covariances must agree before anything is timed. Runs alternate; medians
are printed, with the rate of the bare network on a batch in memory as the floor. Weights are random (one seeded state
dict for both), since speed does not depend on them. pytorch-fid runs as its command line would, batch size 50.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fastfid
from fastfid.extractors import inception_extractor, load_weights

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracles"))
from conftest import _import

BATCH = 50
GATE = 1e-5
"""Largest difference of means and covariances, relative to the largest entry."""


def write_set(folder: Path, count: int, size: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.png")


def commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    with tempfile.TemporaryDirectory() as scratch:
        home, folder = Path(scratch) / "home", Path(scratch) / "images"
        checkpoint = home / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
        checkpoint.parent.mkdir(parents=True)
        folder.mkdir()
        torch.save(load_weights("random")[0], checkpoint)
        os.environ["TORCH_HOME"] = str(home)
        write_set(folder, options.count, options.size)

        score = _import("pytorch_fid.fid_score")
        inception = _import("pytorch_fid.inception").InceptionV3
        theirs = inception([inception.BLOCK_INDEX_BY_DIM[2048]]).eval()
        extractor = inception_extractor(weights=checkpoint)
        half = inception_extractor(weights=checkpoint, precision="bf16")
        workers = min(8, os.cpu_count() or 1)

        def by_pytorch_fid() -> tuple[np.ndarray, np.ndarray]:
            mean, cov = score.compute_statistics_of_path(str(folder), theirs, BATCH, 2048, "cpu", workers)
            return mean, cov

        def by_fastfid() -> tuple[np.ndarray, np.ndarray]:
            moments = fastfid.stats(folder, extractor=extractor, batch_size=BATCH)
            return moments.mean.numpy(), moments.cov().numpy()

        def by_fastfid_bf16() -> tuple[np.ndarray, np.ndarray]:
            moments = fastfid.stats(folder, extractor=half, batch_size=BATCH)
            return moments.mean.numpy(), moments.cov().numpy()

        want, got = by_pytorch_fid(), by_fastfid()
        errors = [float(np.abs(g - w).max() / np.abs(w).max()) for g, w in zip(got, want, strict=True)]
        print(f"gate: mean {errors[0]:.1e}, covariance {errors[1]:.1e} (bound {GATE:.0e})")
        if not max(errors) <= GATE:
            sys.exit("gate is red: no times")

        variants: dict[str, Callable[[], object]] = {
            "pytorch-fid 0.3.0": by_pytorch_fid,
            "fastfid fp32": by_fastfid,
            "fastfid bf16": by_fastfid_bf16,
        }
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(options.repeat):
            for name, run in variants.items():
                begin = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - begin)
        batch = torch.zeros(BATCH, 3, 299, 299).to(memory_format=torch.channels_last)
        floor = []
        for _ in range(options.repeat + 1):
            begin = time.perf_counter()
            extractor(batch)
            floor.append(BATCH / (time.perf_counter() - begin))
        network = statistics.median(floor[1:])

    rows = []
    for name, taken in times.items():
        rates = sorted(options.count / t for t in taken)
        rows.append({"variant": name, "metric": "images/s", "p50": statistics.median(rates), "all": rates})
        print(f"{name:20s} {rows[-1]['p50']:6.2f} images/s")
    print(f"{'bare network, fp32':20s} {network:6.2f} images/s")
    if options.json:
        facts = {
            "commit": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
            "case": f"{options.count} PNG of {options.size}², batch {BATCH}",
            "gate": {"mean": errors[0], "cov": errors[1], "bound": GATE},
            "network_images_per_s": network,
            "rows": rows,
        }
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
