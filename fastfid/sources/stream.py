"""Image sets that come out of Python: Datasets, DataLoaders, generators and other iterables."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fastfid.errors import BadImageError
from fastfid.runtime.files import is_own
from fastfid.sources import base
from fastfid.sources.arrays import REPEATED, to_rgb
from fastfid.sources.base import Batches, ImageBatch, Layout, Pixels, Plan, Source, pack, unpack
from fastfid.sources.delivery import Delivery
from fastfid.sources.items import Key, image_batches
from fastfid.sources.loader import DecodedSource
from fastfid.sources.reader import Reader


class BatchesSource(Source):
    """An iterable of batches (or of single images): a generator, a DataLoader, a list.

    Each item is a batch (a tensor [n, C, H, W] or an array [n, H, W, C], uint8, C = 1 or 3), one image (without the
    first axis, or a PIL image), a list or tuple of images, or a list or tuple with one of these and labels;
    ``fastfid.sources.items`` has the rule. ``layout`` overrides either order of axes.

    Batches are cut anew to the size asked for. The iterable runs in the caller's thread, as far as it is needed.

    Args:
        items: the iterable.
        layout: the order of the axes.
        key: which element of an item holds the images, where the item alone does not say it.
        what: what an only item is called, where ``items`` is a list of one that the caller's caller knows nothing of.
    """

    kind: ClassVar[str] = "batches"
    watch: Callable[[NDArray[Any] | torch.Tensor, Layout], None] | None = None
    """Sees every image that comes, [n, …] as it is, whether the shard takes it or not."""

    def __init__(self, items: Iterable[Any], layout: Layout | None, key: Key = None, what: str = "") -> None:
        self.items = items
        self.layout = layout
        self.key = key
        self.what = what
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
        left = plan.batch_size - plan.start % plan.batch_size  # of the run of batch_size images, as ``base.chunks``
        delivery = Delivery(self.items, self.description)
        for number, item in enumerate(self.items):
            what = self.what or f"item {number} of {self.description}"
            for images, order in image_batches(item, self.layout, what, self.key):
                delivery.see(number, images, position)
                if images.shape[order.index("C")] == 1:
                    self.notes = (REPEATED,)
                count = len(images) if plan.limit is None else min(len(images), plan.limit - position)
                if self.watch is not None and count:
                    self.watch(images[:count], order)
                mine = list(range((index - position) % of, count, of))
                skipped = min(len(mine), plan.start - taken)
                taken, mine = taken + skipped, mine[skipped:]
                if mine:
                    rgb = to_rgb(images, order)
                    waiting.add(rgb if len(mine) == len(rgb) else rgb[mine], [position + i for i in mine])
                position += count
            while size := waiting.complete(left):
                yield waiting.take(size)
                left = left - size or plan.batch_size
            if position == plan.limit:
                break
        if plan.limit is not None and position < plan.limit:
            raise ValueError(f"limit={plan.limit}, but {self.description} held only {position} images")
        delivery.finish(position, plan.limit is None)
        self.unread, self.remarks = delivery.unread, delivery.remarks
        while waiting.positions:
            yield waiting.take(size := waiting.fitting(left))
            left = left - size or plan.batch_size


class DatasetSource(DecodedSource):
    """A map-style Dataset of single images: PIL images, uint8 [C, H, W] tensors or [H, W, C] arrays, or (image, label).

    Without worker processes its items are made in the calling thread. What Pillow raises of a damaged file counts as a
    bad image; any other exception is the Dataset's own and stops the run.
    """

    kind: ClassVar[str] = "dataset"
    threaded: ClassVar[bool] = False

    def __init__(self, dataset: Dataset[Any], layout: Layout | None, key: Key = None) -> None:
        self.dataset = dataset
        self.layout = layout
        self.key = key
        self.description = f"{type(dataset).__name__} dataset"
        self.count = len(dataset)  # type: ignore[arg-type]  # open_source saw its __len__

    def _reader(self) -> Reader:
        return _DatasetReader(self.dataset, self.layout, self.key, self.description)


class _DatasetReader(Reader):
    """Members are what a Dataset returns."""

    def __init__(self, dataset: Dataset[Any], layout: Layout | None, key: Key, description: str) -> None:
        self.dataset = dataset
        self.layout = layout
        self.key = key
        self.description = description

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> Pixels:
        what = f"item {index} of {self.description}"
        try:
            found = list(image_batches(self.dataset[index], self.layout, what, self.key))
        except (OSError, SyntaxError, EOFError, struct.error) as error:  # what Pillow says of broken files
            if is_own(error):
                raise
            raise BadImageError(str(index), str(error), self.description) from error
        if len(found) != 1 or len(found[0][0]) != 1:
            raise ValueError(
                f"{what} holds several images; a Dataset gives one at a time (of several, pass key=0 for the first)"
            )
        pixels: Pixels = to_rgb(*found[0])[0].cpu().numpy()
        return pixels


class _Waiting:
    """Images that have come and not yet left: a queue of tensors [k, H, W, 3], and where each stood in the stream."""

    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []
        self.positions: list[int] = []

    def fitting(self, left: int) -> int:
        """How many of the first ``left`` make a batch of at most BATCH_BYTES; at least one, where one is there."""
        found = size = 0
        for part in self.parts:
            each = part.nbytes // len(part)
            room = max(0, base.BATCH_BYTES - size) // max(1, each)
            took = min(len(part), left - found, room if found or room else 1)
            found, size = found + took, size + took * each
            if took < len(part):
                break
        return found

    def complete(self, left: int) -> int:
        """The same where nothing that is yet to come could be added to it, else 0."""
        found = self.fitting(left)
        return found if found == left or found < len(self.positions) else 0

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
