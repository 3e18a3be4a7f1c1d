"""What an image set is to the rest of fastfid: ``Source`` and the ``ImageBatch`` it yields."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.errors import BadImageError
from fastfid.resample import RaggedImages
from fastfid.runtime.checks import whole_number

MAX_PIXELS = 2**30
"""Images of more pixels (3 GB as RGB) are refused. Pillow's own limit, a sixth of this, is set aside: whoever measures
a set of images made or chose them, and 16384×16384 maps are evaluated as they are."""

BATCH_BYTES = 2**28
"""A batch is closed before its pixels are more than this, so that memory depends on the images' sizes no more than on
their number; an image of more is a batch by itself."""

Layout: TypeAlias = Literal["NHWC", "NCHW"]
Pixels: TypeAlias = NDArray[np.uint8]
Order: TypeAlias = NDArray[np.int64]
Batches: TypeAlias = "Generator[ImageBatch, None, None]"


@dataclass(frozen=True)
class ImageBatch:
    """Some images of a set, decoded.

    Attributes:
        images: uint8 RGB pixels: a tensor [n, H, W, 3] where all n images have one size, else ``RaggedImages``.
        names: the n images' names: path relative to the folder, archive member, or index.
        bad: the errors of images that belong here but could not be read; only ``skip_bad=True`` lets any through.
            A batch all of whose images are bad has n = 0.
    """

    images: torch.Tensor | RaggedImages
    names: tuple[str, ...]
    bad: tuple[BadImageError, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Shard:
    """Which piece of a set one of several readers takes: number ``index`` of ``of``, counted from 0."""

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise ValueError(f"shard {self.index}/{self.of}: accepted: INDEX/OF with 0 ≤ INDEX < OF")

    @classmethod
    def parse(cls, text: str | Shard | tuple[int, int] | None) -> Shard:
        """From "INDEX/OF", a pair, or None for the whole set."""
        if text is None or isinstance(text, Shard):
            return text or WHOLE
        pair = text if isinstance(text, (tuple, list)) else ()
        parts = text.split("/") if isinstance(text, str) else [str(part) for part in pair]
        if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 20 for part in parts):
            raise ValueError(f"shard={str(text)[:50]!r}; accepted: INDEX/OF, such as 0/4, with 0 ≤ INDEX < OF")
        return cls(int(parts[0]), int(parts[1]))


WHOLE = Shard()


@dataclass(frozen=True)
class Plan:
    """The checked arguments of ``Source.batches``."""

    batch_size: int
    num_workers: int
    limit: int | None
    seed: int
    skip_bad: bool
    shard: Shard
    start: int
    block: int
    missed: int = 0


@dataclass(frozen=True)
class Content:
    """Where a set's pixels come from, so that sets can be told apart without decoding them; nothing is read for it.

    Attributes:
        path: the folder or file, or "" where there is none.
        facts: what decides, beside the bytes, which pixels are read and how: kind, axes, members.
        files: (name, path) of each file that is read, in order; the name is "" where the file is the set.
        array: the pixels, where they are in memory.
    """

    path: str
    facts: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    array: NDArray[Any] | torch.Tensor | None = None


class Source(ABC):
    """An image set.

    Attributes:
        kind: "folder", "zip", "npz", "npy", "array", "dataset" or "batches".
        description: the set in the user's words: the path as given, or the array's shape.
        count: how many images there are, or None where only reading to the end can tell.
        notes: what was done to every image beyond the protocol's decoding ("one channel, repeated to three"), and what
            was left unread on purpose; sentences for the result, complete when the set has been read.
        unread: what lies in the set and is not read, counted by reason: by extension (".avif"), "subfolders", "hidden",
            "duplicates" and so on. Known at the beginning, or, of a stream, when it has been read.
        remarks: what of ``unread``, or of how the set came, the user must be warned of; sentences.
    """

    kind: ClassVar[str]
    description: str
    count: int | None
    notes: tuple[str, ...] = ()
    unread: Mapping[str, int] = MappingProxyType({})
    remarks: tuple[str, ...] = ()
    _picked: Order | None = None

    def order(self, *, limit: int | None = None, seed: int = 0, shard: Shard = WHOLE, block: int = 0) -> Order:
        """The indices that ``batches`` with the same arguments reads, ascending; only where images can be indexed."""
        return self._order(Plan(1, 0, limit, seed, False, shard, 0, block))

    def picked(self, indices: Order) -> Source:
        """The same set, of which ``batches`` reads only these (ascending), under their own names."""
        made = copy.copy(self)
        made._picked = indices
        return made

    def batches(
        self,
        batch_size: int,
        *,
        num_workers: int = 0,
        limit: int | None = None,
        seed: int = 0,
        skip_bad: bool = False,
        shard: Shard = WHOLE,
        start: int = 0,
        block: int = 0,
        missed: int = 0,
    ) -> Batches:
        """Decode the set, in order; the last batch holds what is left.

        Args:
            batch_size: images per batch, at least 1.
            num_workers: processes that decode folders, zips and Datasets; 0 decodes in this process (files in a
                background thread, so that decoding overlaps what the caller does; Datasets in the calling thread).
                Other kinds need no decoding and ignore it. Workers never touch CUDA.
            limit: read only this many. Where images can be indexed, the subset is the one that EDM and StyleGAN take:
                ``RandomState(seed)`` shuffles the indices, the first ``limit`` of them are read in ascending order.
                Of a stream, the first ``limit`` images. With ``skip_bad``, what can't be read is replaced by the next
                images in the shuffled order, after the others, until there are ``limit`` or no more; shards take turns
                with these.
            seed: for that shuffle; nothing else is random.
            skip_bad: put what can't be read into ``ImageBatch.bad`` and go on.
            shard: read only one of ``shard.of`` pieces, which together are the set, each image once. Where images can
                be indexed, piece i of K is the run from n·i // K to n·(i + 1) // K of what ``limit`` leaves; of a
                stream, every K-th image from the i-th on.
            start: leave out this many images of the shard at its beginning, as a run that is resumed does. The
                batches are those of the whole shard: the first is the rest of the one that ``start`` falls into.
            block: leave out, before the pieces are made, what lies beyond the last whole multiple of this, unless that
                is everything; only for sets that can be indexed.
            missed: how many of the images before ``start`` could not be read; only limit and skip_bad look at it.

        Returns:
            A generator of ImageBatch. Closing it (leaving the loop and dropping it, ``contextlib.closing``, Ctrl-C)
            ends threads and worker processes.

        Raises:
            TypeError: batch_size, num_workers or limit is not a whole number.
            ValueError: an argument is out of range, the set holds fewer than ``limit`` images, or ``block`` is asked of
                a stream.
            BadImageError: an image can't be read and ``skip_bad`` is false; raised while iterating.
        """
        batch_size = whole_number("batch_size", batch_size, least=1)
        num_workers = whole_number("num_workers", num_workers, least=0)
        limit = None if limit is None else whole_number("limit", limit, least=1)
        if limit is not None and self.count is not None and limit > self.count:
            raise ValueError(f"limit={limit}, but {self.description} holds only {self.count} images")
        start, block = whole_number("start", start, least=0), whole_number("block", block, least=0)
        missed = whole_number("missed", missed, least=0)
        if block and self.count is None:
            raise ValueError(f"block={block}: how many images {self.description} holds is not known before its end")
        return self._batches(Plan(batch_size, num_workers, limit, seed, skip_bad, shard, start, block, missed))

    def content(self) -> Content | None:
        """Where the pixels come from; None where only reading tells (Datasets, DataLoaders, other iterables)."""
        return None

    @abstractmethod
    def _batches(self, plan: Plan) -> Batches: ...

    def _order(self, plan: Plan) -> Order:
        """The ascending indices to read: all, or the subset that EDM and StyleGAN take; of these, the shard's."""
        share, _ = self._drawn(plan)
        return share if self._picked is not None else share[plan.start :]

    def _drawn(self, plan: Plan) -> tuple[Order, Order]:
        """The indices of the shard from its beginning, and those that may replace what of them can't be read."""
        assert self.count is not None
        order, rest = np.arange(self.count, dtype=np.int64), np.arange(0, dtype=np.int64)
        if self._picked is not None:
            return self._picked, rest
        if plan.limit is not None and plan.limit < self.count:
            # The legacy generator on purpose: published numbers rest on its subsets.
            np.random.RandomState(plan.seed % 2**31).shuffle(order)
            order, rest = np.sort(order[: plan.limit]), order[plan.limit :]
        if plan.block and len(order) >= plan.block:
            order = order[: len(order) - len(order) % plan.block]
        index, of = plan.shard.index, plan.shard.of
        return order[len(order) * index // of : len(order) * (index + 1) // of], rest[index::of]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}, {'?' if self.count is None else self.count} images>"


def chunks(order: Order, plan: Plan, image_bytes: int = 1) -> Iterator[Order]:
    """``order`` in batches: those of the whole shard, whose first ``plan.start`` images ``order`` lacks.

    Each run of ``batch_size`` images of the shard is cut by itself where they have more than BATCH_BYTES, so that the
    batches are the same wherever a pass goes on. The last holds what is left.

    Args:
        order: the indices from ``plan.start`` on.
        plan: the size, and the start.
        image_bytes: of one image, where all have the same.
    """
    most = min(plan.batch_size, max(1, BATCH_BYTES // max(1, image_bytes)))
    begin, size = 0, plan.batch_size
    while begin < len(order):
        within = (plan.start + begin) % size
        end = begin + min(most, size - within)
        yield order[begin:end]
        begin = end


def pack(images: list[Pixels]) -> tuple[torch.Tensor, tuple[tuple[int, int], ...] | None]:
    """[H, W, 3] arrays → (one tensor [n, H, W, 3], None), or (their pixels end to end, their sizes) if these differ.

    ``images`` is empty afterwards: each is let go when it is copied, so that a batch is not held twice.
    """
    if not images:
        return torch.empty((0, 0, 0, 3), dtype=torch.uint8, device="cpu"), None
    if len(images) == 1:
        pixels = images.pop()[None]
        return torch.from_numpy(pixels if pixels.flags.writeable and pixels.flags.c_contiguous else pixels.copy()), None
    sizes = tuple((image.shape[0], image.shape[1]) for image in images)
    flat = np.empty(sum(image.size for image in images), np.uint8)
    end = len(flat)
    while images:
        image = images.pop()
        flat[end - image.size : end] = image.reshape(-1)
        end -= image.size
    if len(set(sizes)) == 1:
        return torch.from_numpy(flat.reshape(len(sizes), *sizes[0], 3)), None
    return torch.from_numpy(flat), sizes


def unpack(pixels: torch.Tensor, sizes: tuple[tuple[int, int], ...] | None) -> torch.Tensor | RaggedImages:
    """What ``pack`` made, as ``ImageBatch.images``."""
    return pixels if sizes is None else RaggedImages(pixels, sizes, 3)
