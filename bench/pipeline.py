"""A folder of PNG files to moments: fastfid beside pytorch-fid and torch-fidelity, and the bare network."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from evaluation import GATES, Row, Statistics, available, bare_network, gate, missing, row, seconds_of
from PIL import Image
from references import extractor, package, pytorch_fid, torch_fidelity

import fastfid


def write_folder(folder: Path, count: int, size: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:05d}.png")


def folder_variants(folder: str, options: argparse.Namespace) -> dict[str, tuple[Callable[[], Statistics], str, float]]:
    """Name → (a pass over the folder, the protocol it follows, its bound)."""
    device, batch = options.device, options.batch

    def ours(precision: str) -> Callable[[], Statistics]:
        def run(protocol: str = "pytorch-fid") -> Statistics:
            made = fastfid.stats(
                folder, protocol=protocol, extractor=extractor(precision, str(device)), device=device, batch_size=batch
            )
            return made.mean.cpu().numpy(), made.cov().cpu().numpy()

        return run

    variants: dict[str, tuple[Callable[[], Statistics], str, float]] = {}
    for precision in available(options):
        variants[f"fastfid {precision}"] = ours(precision), "pytorch-fid", GATES[precision]
    theirs, workers = pytorch_fid(str(device)), min(8, os.cpu_count() or 1)
    loose = GATES["tf32"] if device.type == "cuda" else GATES["fp32"]
    if not missing("pytorch-fid", theirs, options):
        score: Any = package("pytorch_fid.fid_score")
        variants["pytorch-fid"] = (
            lambda: score.compute_statistics_of_path(folder, theirs, batch, 2048, device, workers),
            "pytorch-fid",
            loose,
        )
    fidelity = torch_fidelity(str(device))
    if not missing("torch-fidelity", fidelity, options):
        metric: Any = package("torch_fidelity.metric_fid")
        settings = {"input1": folder, "batch_size": batch, "cuda": device.type == "cuda", "cache": False}

        def by_torch_fidelity() -> Statistics:
            made = metric.fid_input_id_to_statistics(1, fidelity, "2048", verbose=False, **settings)
            return made["mu"], made["sigma"]

        variants["torch-fidelity"] = by_torch_fidelity, "torch-fidelity", loose
    return variants


def pipeline(options: argparse.Namespace) -> list[Row]:
    """A folder of PNG files to moments."""
    count = options.count or 200
    case = f"{count} PNG of {options.size}², batch {options.batch}"
    print(f"pipeline: {case}")
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), count, options.size)
        variants = folder_variants(folder, options)
        want = {}
        for protocol in {protocol for _, protocol, _ in variants.values()}:
            made = fastfid.stats(
                folder, protocol=protocol, extractor=extractor("fp32", str(options.device)), device=options.device
            )
            want[protocol] = made.mean.cpu().numpy(), made.cov().cpu().numpy()
        errors = {name: gate(name, run(), want[protocol], bound) for name, (run, protocol, bound) in variants.items()}
        taken: dict[str, list[float]] = {name: [] for name in variants}
        bare: dict[str, list[float]] = {name.split()[1]: [] for name in variants if name.startswith("fastfid")}
        for _ in range(options.repeat):
            for name, (run, _, _) in variants.items():
                taken[name].append(seconds_of(run, options.device) / count * 1e3)
            for precision, values in bare.items():
                values += bare_network(precision, options.device, options.batch)
    rows = [row("pipeline", case, name, "ms", v, count, max_difference=max(errors[name])) for name, v in taken.items()]
    rows += [row("pipeline", case, f"bare network {name}", "ms", v, options.batch) for name, v in bare.items()]
    for one in rows:
        print(f"  {one['variant']:24} {1e3 / one['p50']:8.1f} images/s")
    return rows
