"""Cases of reading files: fastfid's sources beside the DataLoader that pytorch-fid builds, on the same files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from cases import Case
from PIL import Image

from fastfid.sources import open_source

GATE = "tests/test_sources_decode.py"
BATCH = 50
_kept: list[tempfile.TemporaryDirectory[str]] = []


@lru_cache(maxsize=4)
def files(kind: str, count: int, size: int) -> Path:
    """A folder of photograph-like files: 1/f noise, so that PNG and JPEG have something to do."""
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name)
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    frequency[0, 0] = 1
    for index in range(count):
        waves = np.fft.rfft2(rng.normal(size=(3, size, size))) / frequency**1.1
        pixels = np.fft.irfft2(waves, s=(size, size)).transpose(1, 2, 0)
        pixels = np.clip(128 + 55 * pixels / pixels.std(), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.{kind}", quality=90)
    return folder


class PathDataset(torch.utils.data.Dataset[torch.Tensor]):
    """What pytorch-fid 0.3.0 gives its DataLoader: Pillow, then torchvision's ToTensor (written out here)."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.paths[index]).convert("RGB")
        return torch.from_numpy(np.array(image, np.uint8, copy=True)).permute(2, 0, 1).contiguous().float().div(255)


def _last_batch(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Read everything, as a consumer that takes no time; the last batch is compared."""
    last = torch.empty(0)
    for batch in batches:
        last = batch
    return last


def of_files(kind: str, count: int, size: int, workers: tuple[int, ...]) -> Case:
    """Every batch of a folder."""

    def ours(processes: int) -> Callable[[], object]:
        def run() -> torch.Tensor:
            source = open_source(files(kind, count, size))
            return _last_batch(b.images for b in source.batches(BATCH, num_workers=processes)).permute(0, 3, 1, 2)

        return run

    def theirs(processes: int) -> Callable[[], object]:
        def run() -> torch.Tensor:
            paths = sorted(files(kind, count, size).iterdir())
            loader = torch.utils.data.DataLoader(PathDataset(paths), BATCH, num_workers=processes)
            return _last_batch(loader).mul(255).round()

        return run

    variants: dict[str, Callable[[], object]] = {}
    for processes in workers:
        name = f"{processes} worker processes" if processes else "a thread"
        variants["fastfid" if not processes else f"fastfid, {name}"] = ours(processes)
        variants[f"pytorch-fid's DataLoader, {processes} workers"] = theirs(processes)
    return Case(
        op="decode",
        name=f"{count} {kind} of {size}²",
        origin="workload M1: folders of images",
        gate=GATE,
        items=count,
        bytes=count * size * size * 3,
        flops=0,
        dtype="uint8",
        threads=1,
        variants=variants,
        rounds=3,
    )


def cases(device: torch.device) -> list[Case]:
    """The same on every device: decoding is the CPU's."""
    del device
    workers = (0, min(8, os.cpu_count() or 1))
    return [of_files(kind, 400, 256, workers) for kind in ("png", "jpg")]
