"""Checksums of images: CRC-32 of their bytes, 0.07 ms for 256² pixels, a thousandth of the network's time on a CPU.

It tells sets apart that differ by mistake. Nobody is kept from making two that have the same.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.resample import RaggedImages
from fastfid.sources import ImageBatch

_SPREAD_BYTES = 1024


def of_pixels(pixels: NDArray[Any] | torch.Tensor, before: int = 0) -> int:
    """Of all bytes in the order of the axes, after ``before``."""
    array = pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else pixels
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).data, before)


def of_image(image: NDArray[Any] | torch.Tensor) -> int:
    """Of one image and its shape."""
    return of_pixels(image, zlib.crc32(repr(tuple(image.shape)).encode()))


def image_of(batch: ImageBatch, position: int) -> torch.Tensor:
    """One image [H, W, 3] of a decoded batch."""
    return batch.images[position]


def spread(images: torch.Tensor | RaggedImages) -> torch.Tensor:
    """[n, ≤ 1024]: bytes of every image at even distances, where the images are; nothing waits for a GPU."""
    if isinstance(images, RaggedImages):
        rows = [_thinned(images[i].reshape(1, -1)) for i in range(len(images))]
        width = max(row.shape[1] for row in rows)
        return torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows])
    return _thinned(images.reshape(len(images), -1)).clone()


def _thinned(rows: torch.Tensor) -> torch.Tensor:
    return rows[:, :: -(-rows.shape[1] // _SPREAD_BYTES)]
