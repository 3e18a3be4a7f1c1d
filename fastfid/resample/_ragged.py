"""Images of different sizes as one buffer, so that one call resizes and one copy moves them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastfid.runtime.checks import LONGEST, dense, plain_array, whole_number


def _side(pixels: Any) -> int:
    return whole_number("sizes: every height and width", pixels, least=1, most=LONGEST)


@dataclass(frozen=True, eq=False)
class RaggedImages:
    """A batch of uint8 images of different sizes, packed one after the other.

    Attributes:
        pixels: uint8 [Σ height·width·channels], image after image, each [height, width, channels].
        sizes: (height, width) of each image, in pixels.
        channels: 1, 3 or 4, the same for all.
    """

    pixels: torch.Tensor
    sizes: tuple[tuple[int, int], ...]
    channels: int

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, torch.Tensor) or self.pixels.dtype != torch.uint8 or self.pixels.ndim != 1:
            kind = type(self.pixels).__name__
            got = f"{self.pixels.dtype} {list(self.pixels.shape)}" if kind == "Tensor" else f"a {kind}"
            raise ValueError(f"pixels must be a flat uint8 tensor, got {got}")
        if whole_number("channels", self.channels, least=1) not in (1, 3, 4):
            raise ValueError(f"channels must be 1, 3 or 4, got {self.channels}")
        if not isinstance(self.sizes, Sequence) or not all(isinstance(s, Sequence) and len(s) == 2 for s in self.sizes):
            raise TypeError(f"sizes must be pairs (height, width), got {self.sizes!r}")
        sizes = tuple((_side(height), _side(width)) for height, width in self.sizes)
        object.__setattr__(self, "sizes", sizes)
        if not self.pixels.is_contiguous():
            raise ValueError("pixels must be contiguous; call .contiguous() on it")
        needed = sum(height * width for height, width in self.sizes) * self.channels
        if needed != self.pixels.numel():
            raise ValueError(f"pixels has {self.pixels.numel()} values, the sizes ask for {needed}")

    @classmethod
    def pack(cls, images: Sequence[Any]) -> RaggedImages:
        """Copy images into one buffer on the CPU.

        Args:
            images: uint8 arrays or tensors, each [height, width, channels] or [height, width] (one channel), all with
                the same number of channels.

        Raises:
            ValueError: an image is not uint8, has another number of channels, or has no pixels.
        """
        arrays = [_array(f"images[{index}]", image) for index, image in enumerate(images)]
        arrays = [array[:, :, None] if array.ndim == 2 else array for array in arrays]
        for index, array in enumerate(arrays):
            if array.dtype != np.uint8 or array.ndim != 3:
                raise ValueError(
                    f"images[{index}] must be uint8 [height, width, channels], got {array.dtype} {list(array.shape)}"
                )
            if array.shape[2] != arrays[0].shape[2]:
                raise ValueError(
                    f"images[{index}] has {array.shape[2]} channels, images[0] has {arrays[0].shape[2]}; "
                    "convert them to one kind"
                )
        sizes = tuple((int(array.shape[0]), int(array.shape[1])) for array in arrays)
        pixels = torch.empty(sum(array.size for array in arrays), dtype=torch.uint8, device="cpu")
        view, begin = pixels.numpy(), 0
        for array in arrays:
            view[begin : begin + array.size].reshape(array.shape)[...] = array
            begin += array.size
        return cls(pixels, sizes, int(arrays[0].shape[2]) if arrays else 3)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Index into ``pixels`` where each image begins."""
        return tuple(itertools.accumulate((h * w * self.channels for h, w in self.sizes[:-1]), initial=0))[: len(self)]

    @property
    def device(self) -> torch.device:
        """Where the pixels lie."""
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One image, uint8 [height, width, channels]; a view, not a copy."""
        height, width = self.sizes[index]
        begin = self.offsets[index]
        return self.pixels[begin : begin + height * width * self.channels].view(height, width, self.channels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RaggedImages:
        """The same images on another device."""
        return RaggedImages(self.pixels.to(device, non_blocking=non_blocking), self.sizes, self.channels)

    def pin_memory(self, device: torch.device | str | None = None) -> RaggedImages:
        """The same images in page-locked memory, from where copies to a GPU can overlap (DataLoader calls this)."""
        del device
        return RaggedImages(self.pixels.pin_memory(), self.sizes, self.channels)


def _array(name: str, image: Any) -> np.ndarray[Any, Any]:
    return dense(name, image).cpu().numpy() if isinstance(image, torch.Tensor) else plain_array(name, image)
