"""One checked call of resize_normalize, in the form every engine takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fastfid.resample._filters import Table


@dataclass(frozen=True, eq=False)
class Request:
    """What an engine computes, with nothing left to decide or to check.

    Attributes:
        base: the tensor whose memory holds all images, uint8 or float32.
        images: int64 [n, 6]: offset into the memory of ``base`` (from its first element), height, width and the
            strides of y, x and the channel, in elements. A channel stride of 0 repeats one channel.
        channels: of the output, 1, 3 or 4.
        tables: the distinct tables, for x and y alike.
        x, y: int64 [n], index into ``tables`` per image.
        out: [n, channels, height, width] with dense rows; the engine writes all of it.
        quantize: the uint8 contract.
        clamp: (low, high), infinite where nothing is clamped.
        scale, bias: one number per channel.
        num_threads: at least 1.
    """

    base: torch.Tensor
    images: npt.NDArray[np.int64]
    channels: int
    tables: tuple[Table, ...]
    x: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    out: torch.Tensor
    quantize: bool
    clamp: tuple[float, float]
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    num_threads: int
