"""Images decoded per second: fastfid's sources beside the DataLoader that pytorch-fid builds, on the same files.

    python bench/decode.py [--count 600] [--size 256] [--repeat 3]

Both deliver every batch to the consumer; the pixels of the first batch are compared before anything is timed. Times are
medians; variants alternate. ``idle`` is how long the consumer waits per image when it is itself busy for as long as
decoding takes (a network that keeps pace): 0 is perfect overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastfid.sources import open_source

BATCH = 50


def write_set(folder: Path, kind: str, count: int, size: int) -> None:
    """Photograph-like files: 1/f noise, so that PNG and JPEG have something to do."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    frequency[0, 0] = 1
    for index in range(count):
        waves = np.fft.rfft2(rng.normal(size=(3, size, size))) / frequency**1.1
        pixels = np.fft.irfft2(waves, s=(size, size)).transpose(1, 2, 0)
        pixels = np.clip(128 + 55 * pixels / pixels.std(), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.{kind}", quality=90)


class PathDataset(torch.utils.data.Dataset[torch.Tensor]):
    """What pytorch-fid 0.3.0 gives its DataLoader: Pillow, then torchvision's ToTensor (written out here)."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.files[index]).convert("RGB")
        return torch.from_numpy(np.array(image, np.uint8, copy=True)).permute(2, 0, 1).contiguous().float().div(255)


def theirs(folder: Path, workers: int) -> Iterator[torch.Tensor]:
    """pytorch-fid's batches."""
    loader = torch.utils.data.DataLoader(PathDataset(sorted(folder.iterdir())), BATCH, num_workers=workers)
    yield from loader


def ours(folder: Path, workers: int) -> Iterator[torch.Tensor]:
    """fastfid's batches."""
    for batch in open_source(folder).batches(BATCH, num_workers=workers):
        yield batch.images


def drain(make: Callable[[], Iterator[torch.Tensor]], busy: float = 0.0) -> float:
    """Seconds to read everything, with the consumer blocked (as by a GPU) ``busy`` seconds a batch."""
    begin = time.perf_counter()
    for _ in make():
        if busy:
            time.sleep(busy)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print one JSON row per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in ("png", "jpg"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_set(folder, kind, options.count, options.size)
            first = next(theirs(folder, 0)), next(ours(folder, 0))
            assert torch.equal((first[0] * 255).round().byte(), first[1].permute(0, 3, 1, 2))
            for workers in (0, 1, 2):
                seconds: dict[str, list[float]] = {"pytorch-fid": [], "fastfid": []}
                for _ in range(options.repeat):
                    seconds["pytorch-fid"].append(drain(lambda: theirs(folder, workers)))  # noqa: B023
                    seconds["fastfid"].append(drain(lambda: ours(folder, workers)))  # noqa: B023
                alone = statistics.median(seconds["fastfid"])
                busy = drain(lambda: ours(folder, workers), busy=alone / options.count * BATCH)  # noqa: B023
                row = {
                    "case": f"{options.count} {kind} {options.size}²",
                    "workers": workers,
                    "cores": os.cpu_count(),
                    **{f"{k} images/s": round(options.count / statistics.median(v), 1) for k, v in seconds.items()},
                    "idle": round((busy - alone) / alone, 3),
                }
                print(json.dumps(row, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
