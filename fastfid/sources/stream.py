"""Image sets that come out of Python: Datasets, DataLoaders, generators and other iterables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torch.utils.dlpack import from_dlpack

from fastfid.errors import BadImageError
from fastfid.sources.arrays import REPEATED, check_images, to_rgb
from fastfid.sources.base import Batches, ImageBatch, Layout, Pixels, Plan, Source, pack, unpack
from fastfid.sources.decode import rgb_pixels
from fastfid.sources.loader import DecodedSource, Reader

_ACCEPTED = (
    "a uint8 tensor [n, 3, H, W] or array [n, H, W, 3], one such image without the first axis, a PIL image, a list of "
    "images, or a tuple whose first element is one of these"
)


class BatchesSource(Source):
    """An iterable of batches (or of single images): a generator, a DataLoader, a list.

    Each item is one of

    - a tensor [n, C, H, W], or an array [n, H, W, C], uint8, C = 1 or 3 (``layout`` overrides either order);
    - one image: a tensor [C, H, W], an array [H, W, C], or a PIL image (converted to RGB);
    - a tuple, whose first element is one of the above and whose rest (labels) is ignored; a list is read so, too, if
      its first element is a batch (what DataLoader makes of ``(image, label)``); else a list is a batch of images.

    Batches are cut anew to the size asked for. The iterable runs in the caller's thread, as far as it is needed.
    """

    kind: ClassVar[str] = "batches"

    def __init__(self, items: Iterable[Any], layout: Layout | None) -> None:
        self.items = items
        self.layout = layout
        self.once = isinstance(items, Iterator)
        self.read = False
        self.count = None
        self.description = f"{type(items).__name__} of batches"

    def _batches(self, plan: Plan) -> Batches:
        if self.once and self.read:
            raise ValueError(
                f"{self.description} is an iterator that has been read already; pass a list, a DataLoader or a new one"
            )
        self.read = True
        return self._rebatched(plan)

    def _rebatched(self, plan: Plan) -> Batches:
        index, of = plan.shard.index, plan.shard.of
        position, taken, waiting = 0, 0, _Waiting()
        for number, item in enumerate(self.items):
            for images, order in _image_batches(item, self.layout, f"item {number} of {self.description}"):
                if images.shape[order.index("C")] == 1:
                    self.notes = (REPEATED,)
                count = len(images) if plan.limit is None else min(len(images), plan.limit - position)
                mine = list(range((index - position) % of, count, of))
                skipped = min(len(mine), plan.start - taken)
                taken, mine = taken + skipped, mine[skipped:]
                if mine:
                    rgb = to_rgb(images, order)
                    waiting.add(rgb if len(mine) == len(rgb) else rgb[mine], [position + i for i in mine])
                position += count
            while waiting.count >= plan.batch_size:
                yield waiting.take(plan.batch_size)
            if position == plan.limit:
                break
        if plan.limit is not None and position < plan.limit:
            raise ValueError(f"limit={plan.limit}, but {self.description} held only {position} images")
        if waiting.count:
            yield waiting.take(waiting.count)


class DatasetSource(DecodedSource):
    """A map-style Dataset of single images: PIL images, uint8 [C, H, W] tensors or [H, W, C] arrays, or (image, label).

    Without worker processes its items are made in the calling thread. What Pillow raises of a damaged file counts as a
    bad image; any other exception is the Dataset's own and stops the run.
    """

    kind: ClassVar[str] = "dataset"
    threaded: ClassVar[bool] = False

    def __init__(self, dataset: Dataset[Any], layout: Layout | None) -> None:
        self.dataset = dataset
        self.layout = layout
        self.description = f"{type(dataset).__name__} dataset"
        self.count = len(dataset)  # type: ignore[arg-type]  # open_source saw its __len__

    def _reader(self) -> Reader:
        return _DatasetReader(self.dataset, self.layout, self.description)


class _DatasetReader(Reader):
    """Members are what a Dataset returns."""

    def __init__(self, dataset: Dataset[Any], layout: Layout | None, description: str) -> None:
        self.dataset = dataset
        self.layout = layout
        self.description = description

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> Pixels:
        try:
            found = list(_image_batches(self.dataset[index], self.layout, f"item {index} of {self.description}"))
        except (OSError, SyntaxError) as error:  # the latter is Pillow's word for a broken PNG
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BadImageError(str(index), str(error), self.description) from error
        if len(found) != 1 or len(found[0][0]) != 1:
            raise ValueError(f"item {index} of {self.description} holds several images; a Dataset gives one at a time")
        pixels: Pixels = to_rgb(*found[0])[0].cpu().numpy()
        return pixels


class _Waiting:
    """Images that have come and not yet left: a queue of tensors [k, H, W, 3], and where each stood in the stream."""

    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []
        self.positions: list[int] = []

    @property
    def count(self) -> int:
        return len(self.positions)

    def add(self, images: torch.Tensor, positions: list[int]) -> None:
        self.parts.append(images)
        self.positions += positions

    def take(self, size: int) -> ImageBatch:
        """The first ``size`` images."""
        taken: list[torch.Tensor] = []
        missing = size
        while missing:
            part = self.parts.pop(0)
            if len(part) > missing:
                self.parts.insert(0, part[missing:])
                part = part[:missing]
            taken.append(part)
            missing -= len(part)
        names, self.positions = tuple(map(str, self.positions[:size])), self.positions[size:]
        if len({part.shape[1:] for part in taken}) == 1:
            return ImageBatch(taken[0] if len(taken) == 1 else torch.cat(taken), names)
        return ImageBatch(unpack(*pack([image.cpu().numpy() for part in taken for image in part])), names)


def _image_batches(item: Any, layout: Layout | None, what: str) -> Iterator[tuple[NDArray[Any] | torch.Tensor, Layout]]:
    """The images of one item, checked, as arrays of four axes with their order."""
    if isinstance(item, (tuple, list)) and item:
        if isinstance(item, tuple) or getattr(item[0], "ndim", 0) == 4:
            yield from _image_batches(item[0], layout, what)
        else:
            for part in item:
                yield from _image_batches(part, layout, what)
        return
    if hasattr(item, "convert") and hasattr(item, "getbands"):  # a PIL image; Pillow need not be loaded to say so
        item, layout = rgb_pixels(item), "NHWC"
    if not isinstance(item, (np.ndarray, torch.Tensor)):
        if not hasattr(item, "__dlpack__"):
            raise TypeError(f"{what} is {type(item).__name__}; accepted: {_ACCEPTED}")
        item, layout = from_dlpack(item), layout or "NHWC"
    order: Layout = layout or ("NCHW" if isinstance(item, torch.Tensor) else "NHWC")
    images = item[None] if item.ndim == 3 else item
    check_images(images.shape, images.dtype, order, what)
    yield images, order
