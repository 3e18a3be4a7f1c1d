"""``fid`` with everything on a GPU equals the CPU's: mixed sizes, workers, tensors that are already there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tolerances import FID_GPU, check

import fastfid

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp(f"set{seed}")
        rng = np.random.default_rng(seed)
        for index in range(90):
            size = (64, 64) if index % 3 else (40 + index, 120)
            pixels = rng.integers(0, 100 + 60 * seed, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        made.append(folder)
    return made[0], made[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_folders(folders: tuple[Path, Path], workers: int) -> None:
    settings = {"weights": "random", "tap": "64", "num_workers": workers}
    want = fastfid.fid(*folders, device="cpu", **settings)
    got = fastfid.fid(*folders, device="cuda", **settings)
    check(got.value, want.value, relative=FID_GPU, what="cuda against cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensors_on_the_gpu(device: str) -> None:
    """Also with the network on the CPU: the copy must be finished before the resampler reads it."""
    pixels = [torch.randint(0, top, (80, 3, 256, 256), dtype=torch.uint8) for top in (200, 256)]
    want = fastfid.fid(*pixels, weights="random", tap="64", device="cpu")
    got = fastfid.fid(*(p.cuda() for p in pixels), weights="random", tap="64", device=device)
    check(got.value, want.value, relative=FID_GPU, what=device)
