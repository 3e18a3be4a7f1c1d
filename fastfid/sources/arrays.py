"""Image sets that are one array: NumPy, torch, DLPack, or a memory-mapped ``.npy`` file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.errors import EmptySourceError
from fastfid.runtime.checks import plain_array
from fastfid.runtime.files import open_regular, reading
from fastfid.runtime.npz import read_header
from fastfid.sources.base import Batches, Content, ImageBatch, Layout, Plan, Source, chunks

REPEATED = "one channel, repeated to three"

_CONVERT = {
    "float": (
        "Rounding is a choice that moves FID (truncating darkens every pixel by half a level on average), so fastfid "
        "does not make it. Convert first: (x * 255).round().clip(0, 255) for x in [0, 1], "
        "(x * 127.5 + 128).clip(0, 255) as StyleGAN does for x in [-1, 1], then cast to uint8."
    ),
    "bool": "Convert first: x.astype(uint8) * 255 makes True white.",
    "int": "If the values lie in 0–255, cast to uint8 first; 16-bit images need a scale of your choice (x // 257).",
}


_FEATURES = (
    "If these are features [n, d], take their moments, fastfid.Moments.from_features(x), and pass those in place of "
    "the images"
)
_NO_IMAGES = {
    (True, 2): f"{_FEATURES}; if a covariance, see fastfid.Moments.from_statistics(mean, cov).",
    (True, 1): "If this is a mean, see fastfid.Moments.from_statistics(mean, cov).",
    (True, 0): "It is a single number.",
    (False, 2): f"{_FEATURES}, as float32.",
    (False, 1): "These look like labels: the images are in another array, or another file.",
    (False, 0): "It is a single value.",
}


class ArraySource(Source):
    """Images held in memory or memory-mapped.

    Args:
        array: uint8 [n, H, W, C] or [n, C, H, W] as ``layout`` says, C = 1 or 3; any device.
        layout: the order of the axes.
        description: for messages and results.
        kind: "array" or "npy".
    """

    kind: ClassVar[str] = "array"

    def __init__(self, array: NDArray[Any] | torch.Tensor, layout: Layout, description: str = "") -> None:
        array = plain_array("images", array) if isinstance(array, np.ndarray) else array
        self.description = description or described(array)
        self.count, channels = check_images(array.shape, array.dtype, layout, self.description)
        self.array = array
        self.layout = layout
        if channels == 1:
            self.notes = (REPEATED,)

    def content(self) -> Content:
        """The array itself."""
        return Content("", (self.kind, self.layout, str(list(self.array.shape))), array=self.array)

    def _batches(self, plan: Plan) -> Batches:
        image_bytes = 3 * prod(self.array.shape[1:]) // self.array.shape[self.layout.index("C")]
        for part in chunks(self._order(plan), plan, image_bytes):
            first, last = int(part[0]), int(part[-1])
            piece = self.array[first : last + 1] if last - first + 1 == len(part) else self.array[part]
            yield ImageBatch(to_rgb(piece, self.layout), tuple(str(index) for index in part))


class NpySource(ArraySource):
    """The images of a ``.npy`` file, memory-mapped: read as they are needed."""

    kind: ClassVar[str] = "npy"

    def __init__(self, path: str, layout: Layout) -> None:
        with reading(path, say="{place} is not a readable .npy array of images: {reason}"), open_regular(path) as file:
            header = read_header(file, os.fstat(file.fileno()).st_size)
            array: NDArray[Any] = np.empty(header.shape if header.size == 0 else 0, header.dtype)
            if header.size:
                order: Literal["F", "C"] = "F" if header.fortran else "C"
                array = np.memmap(file, header.dtype, "r", file.tell(), header.shape, order)
        check_order(header.fortran and array.ndim > 1, path)
        super().__init__(array, layout, path)

    def content(self) -> Content:
        """The file."""
        return Content(self.description, (self.kind, self.layout), (("", self.description),))


def check_images(shape: Sequence[int], dtype: Any, layout: Layout, what: str) -> tuple[int, int]:
    """Fail unless these are uint8 images; returns (number, channels)."""
    kind = _kind(dtype)
    if kind != "uint8" and len(shape) < 3:
        raise TypeError(f"{what}: {kind} {list(shape)} is no set of images. {_NO_IMAGES['float' in kind, len(shape)]}")
    if kind != "uint8":
        family = next((key for key in _CONVERT if key in kind), "int")
        raise TypeError(f"{what}: images must be uint8, got {kind}. {_CONVERT[family]}")
    axis = layout.index("C")
    if len(shape) != 4:
        hint = " One image needs a leading axis of length 1; greyscale needs a channel axis of length 1."
        raise ValueError(f"{what}: images must be [{_axes(layout)}], got shape {list(shape)}.{hint}")
    if shape[0] == 0:
        raise EmptySourceError(f"{what}: holds no images (shape {list(shape)})")
    if shape[axis] not in (1, 3) or 0 in shape:
        other = "NHWC" if layout == "NCHW" else "NCHW"
        message = f"{what}: expected [{_axes(layout)}] with 1 or 3 channels, got shape {list(shape)}."
        if shape[other.index("C")] in (1, 3):
            turn = "permute" if str(dtype).startswith("torch.") else "transpose"
            axes = ", ".join(str(other.index(name)) for name in layout)
            message += f" If the channels are axis {other.index('C')}, turn them: x.{turn}({axes})."
        elif shape[axis] == 4:
            message += " Alpha is not dropped silently: pass the first three channels."
        raise ValueError(message)
    return int(shape[0]), int(shape[axis])


def described(array: NDArray[Any] | torch.Tensor) -> str:
    """An array in a few words."""
    kind = "tensor" if isinstance(array, torch.Tensor) else "array"
    return f"{_kind(array.dtype)} {kind} {list(array.shape)}"


def _kind(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def check_order(fortran: bool, what: str) -> None:
    """Refuse column-major files: one image of them is spread over the whole file."""
    if fortran:
        raise ValueError(
            f"{what!r} is stored in Fortran order, so that no image lies in one piece; "
            "rewrite it with np.save(path, np.ascontiguousarray(array))"
        )


def to_rgb(images: NDArray[Any] | torch.Tensor, layout: Layout) -> torch.Tensor:
    """A checked batch as a uint8 tensor [n, H, W, 3] of its own memory, on its device."""
    if isinstance(images, np.ndarray):
        images = images.transpose(0, 2, 3, 1) if layout == "NCHW" else images
        return torch.from_numpy(np.array(np.broadcast_to(images, (*images.shape[:3], 3)), order="C"))
    images = images.permute(0, 2, 3, 1) if layout == "NCHW" else images
    return images.detach().expand(*images.shape[:3], 3).clone(memory_format=torch.contiguous_format)


def _axes(layout: Layout) -> str:
    return {"NHWC": "number, height, width, channels", "NCHW": "number, channels, height, width"}[layout]
