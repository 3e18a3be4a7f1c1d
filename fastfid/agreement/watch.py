"""During the work: what goes by is hashed, and compared between the ranks."""

from __future__ import annotations

import zlib
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.agreement.claims import ITEMS, OWN
from fastfid.agreement.digest import image_of, of_image, of_pixels, spread
from fastfid.distributed import World
from fastfid.moments import Moments
from fastfid.sources import ImageBatch, Layout, Order, Source

SHARE = 1000
"""One of so many items of a share is read by another rank, too."""

_SEED = 0x5EED


class Watch(Protocol):
    """Something that sees a pass go by, and is asked at its end, by all ranks, whether all was well."""

    def see(self, batch: ImageBatch) -> None:
        """The next decoded batch of this rank's share."""

    def finish(self) -> str | None:
        """Raises ValueError on every rank where they were not given the same; a sentence is a remark."""


class SharedItems:
    """A set that the ranks divide: a few items of each share are read by the next rank as well, and must be the same.

    Items that this pass did not read itself (a resumed one, features from a cache) or that stood in a batch with
    unreadable ones are read again by their owner.

    Args:
        world, source: whose.
        who: role and description, for errors.
        shares: the indices that this rank and the next one read.
        start: how many of its own this rank has read before.
        skip_bad: as in ``Source.batches``.
    """

    def __init__(
        self, world: World, source: Source, who: str, shares: tuple[Order, Order], start: int, skip_bad: bool
    ) -> None:
        self.world, self.source, self.who, self.skip_bad = world, source, who, skip_bad
        self._mine = _drawn(shares[0], world.index)
        self._next = _drawn(shares[1], (world.index + 1) % world.size)
        self._places = np.searchsorted(shares[0], self._mine)
        self._found: dict[int, tuple[str, int]] = {}
        self._at = start

    def see(self, batch: ImageBatch) -> None:
        """Hash those that were drawn."""
        size = len(batch.names) + len(batch.bad)
        if not batch.bad:
            for drawn in range(*np.searchsorted(self._places, [self._at, self._at + size]).tolist()):
                position = int(self._places[drawn]) - self._at
                self._found[drawn] = batch.names[position], of_image(image_of(batch, position))
        self._at += size

    def finish(self) -> None:
        """Read the next rank's, and compare."""
        unseen = [drawn for drawn in range(len(self._mine)) if drawn not in self._found]
        self._found.update(zip(unseen, self._read(self._mine[unseen]), strict=True))
        mine = [self._found[drawn] for drawn in range(len(self._mine))]
        told = self.world.gather("items read twice", (mine, self._read(self._next)))
        for rank, (_, read) in enumerate(told):
            owner = (rank + 1) % self.world.size
            for (name, one), (name_, two) in zip(told[owner][0], read, strict=True):
                if (name, one) != (name_, two):
                    raise ValueError(
                        f"{self.who}: item {name!r}, which rank {owner} read, is another one when rank {rank} reads it "
                        f"(as {name_!r}). Either the processes were given other sets, or the items change from one "
                        f"reading to the next (random augmentation, files being written). {OWN}"
                    )

    def _read(self, indices: Order) -> list[tuple[str, int]]:
        """(name, checksum) of each; of one that can't be read, what it is called."""
        found = []
        for index in indices:
            for batch in self.source.picked(np.array([index])).batches(1, skip_bad=self.skip_bad):
                found += [(name, of_image(image_of(batch, at))) for at, name in enumerate(batch.names)]
                found += [(bad.name, -1) for bad in batch.bad]
        return found


def _drawn(share: Order, rank: int) -> Order:
    """A thousandth of a share, and one item at least, in ascending order; the same on every rank."""
    count = min(len(share), max(1, len(share) // SHARE))
    rng = np.random.default_rng([_SEED, rank, len(share)])
    return np.sort(rng.choice(share, count, replace=False)) if count else share


class StreamWatch:
    """A stream that every rank walks whole, taking its residue: all must see the same images in the same order.

    Every image is hashed, taken or not, and the hashes are compared after 64 images, and at the end.
    """

    def __init__(self, world: World, who: str) -> None:
        self.world, self.who = world, who
        self.count = self._hash = 0
        self._form = ""
        self._early = False

    def see(self, batch: ImageBatch) -> None:
        """Nothing: the images came by before they were taken."""

    def __call__(self, images: NDArray[Any] | torch.Tensor, order: Layout) -> None:
        """The next images of the stream, [n, …]."""
        form = f"{order} {list(images.shape[1:])}"
        if form != self._form:
            self._form, self._hash = form, zlib.crc32(form.encode(), self._hash)
        head = min(max(ITEMS - self.count, 0), len(images))
        if head:
            self._add(images[:head])
        if self.count >= ITEMS and not self._early:
            self._compare("first images")
        if len(images) > head:
            self._add(images[head:])

    def finish(self) -> None:
        """The stream is at its end."""
        if not self._early:
            self._compare("first images")
        self._compare("stream")

    def _add(self, images: NDArray[Any] | torch.Tensor) -> None:
        self._hash = of_pixels(images, self._hash)
        self.count += len(images)

    def _compare(self, what: str) -> None:
        self._early = True
        (count, digest), *others = self.world.gather(what, (self.count, self._hash))
        for rank, (their_count, theirs) in enumerate(others, start=1):
            if (count, digest) != (their_count, theirs):
                had = f"{count} and {their_count}" if count != their_count else f"other ones among the first {count}"
                raise ValueError(
                    f"{self.who}: rank 0 and rank {rank} were given other images ({had}). Every process walks the "
                    "whole stream and takes its part of it, so all need the same images in the same order: not "
                    f"shuffled, not divided. {OWN}"
                )


def twins(world: World, moments: Moments) -> str | None:
    """Two ranks whose moments are the same to the last bit, as a sentence: they took the same images."""
    mean = moments.mean.cpu().numpy().tobytes() if moments.n else b""
    told = world.gather("means", (moments.n, zlib.crc32(mean), len(mean)))
    for rank, one in enumerate(told):
        if one[0] and one in told[:rank]:
            return (
                f"ranks {told.index(one)} and {rank} took {one[0]} images each whose features have the same mean to "
                "the last bit: the same images, it seems (a seed that is equal on all processes?), counted twice"
            )
    return None


class OwnItems:
    """Sets that each rank has for itself: remarks on ranks that gave the same images, in whatever order."""

    def __init__(self, world: World, who: str) -> None:
        self.world, self.who = world, who
        self.count = self._sum = 0
        self._kinds: set[int] = set()  # up to two different images: one alone is no reason to suspect anything
        self._waiting: list[torch.Tensor] = []

    def see(self, batch: ImageBatch) -> None:
        """Keep a kilobyte of each image; what is on a GPU stays there until the end."""
        if len(batch.names):
            self._waiting.append(spread(batch.images))
            if not self._waiting[-1].is_cuda:
                self._take()

    def finish(self) -> str | None:
        """How many images each rank had, and which had the same."""
        self._take()
        told = self.world.gather("own images", (self.count, self._sum, len(self._kinds) > 1))
        for rank, one in enumerate(told):
            if one[2] and one in told[:rank]:
                raise ValueError(
                    f"{self.who}: rank {told.index(one)} and rank {rank} gave the same {one[0]} images, which would be "
                    "counted twice. With distributed='own' every process gives images of its own; pass "
                    "distributed=True where all give the same set, which fastfid then divides"
                )
        return f"each of {self.world.size} processes gave images of its own: {', '.join(str(n) for n, *_ in told)}"

    def _take(self) -> None:
        for rows in self._waiting:
            for row in rows.cpu().numpy():
                digest = zlib.crc32(row.data)
                self._sum = (self._sum + digest) % 2**64
                if len(self._kinds) < 2:
                    self._kinds.add(digest)
            self.count += len(rows)
        self._waiting = []
