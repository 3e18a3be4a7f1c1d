"""One state dict of the FID network that every test may share, in which every parameter matters.

``weights="random"`` has scale 1 everywhere; here scales, shifts and statistics differ from channel to channel, so that
a comparison would notice if one were left out or read from the wrong place.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastfid.extractors.random_weights import random_state

PUBLIC_NAME = "pt_inception-2015-12-05-6726825d.pth"
SEED = 20151205


@lru_cache(maxsize=1)
def shared_state() -> dict[str, Tensor]:
    """The state dict; callers must not write to it."""
    rng = np.random.default_rng(SEED)
    state = random_state(SEED)
    for name, value in state.items():
        if ".bn." not in name:
            continue
        spread = torch.from_numpy(rng.uniform(0.8, 1.25, value.shape).astype(np.float32))
        state[name] = value + (spread - 1) if name.endswith("running_mean") else value * spread
    return state


def save_as_published(folder: Path) -> Path:
    """Write it into ``folder``/hub/checkpoints under the published file's name, and return the file."""
    file = folder / "hub" / "checkpoints" / PUBLIC_NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(shared_state(), file)
    return file


def images(count: int, side: int = 299, seed: int = 0) -> Tensor:
    """Normalised images [count, 3, side, side] float32: gratings under discs, on multiples of 1/128 from -1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    made = np.empty((count, 3, side, side))
    for image in made:
        phase = 2 * np.pi * (x * rng.uniform(0, 8) + y * rng.uniform(0, 8) + rng.uniform())
        image[:] = rng.uniform(-1, 1, (3, 1, 1)) + 0.5 * np.sin(phase) * rng.uniform(0, 1, (3, 1, 1))
        for _ in range(4):
            centre_x, centre_y, size = rng.uniform(0, 1, 3)
            inside = (x - centre_x) ** 2 + (y - centre_y) ** 2 < (0.05 + 0.25 * size) ** 2
            image[:, inside] = rng.uniform(-1, 1, (3, 1))
        image += rng.normal(0, 0.02, image.shape)
    pixels = np.clip(np.round(made * 128 + 128), 0, 255)
    return torch.from_numpy(((pixels - 128) / 128).astype(np.float32))
