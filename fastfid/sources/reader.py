"""Decoding members of a set, one after another: ``Reader`` and the batches that it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from fastfid.errors import BadImageError
from fastfid.sources import base
from fastfid.sources.base import Order, Pixels, pack


class Reader(ABC):
    """Decodes members of a set by index. Picklable; holds no open file when it is pickled.

    Attributes:
        wide: how many images ``read`` gave whose pixels had more than 8 bits, since someone set it to 0.
    """

    wide = 0

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call member ``index``."""

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """uint8 [H, W, 3]; raises BadImageError."""

    def close(self) -> None:  # noqa: B027  # most keep nothing open
        """Release what ``read`` keeps open."""


class Decoded(NamedTuple):
    """A decoded batch as it leaves a worker: ``base.pack``'s pair, names, errors (never raised there), Reader.wide."""

    pixels: torch.Tensor
    sizes: tuple[tuple[int, int], ...] | None
    names: tuple[str, ...]
    bad: tuple[BadImageError, ...]
    wide: int


class Stopped(Exception):
    """The consumer has left."""


def decode_batches(
    reader: Reader, order: Order, skip_bad: bool, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Decoded]:
    """Read members in order, as one batch, or several where their pixels are more than BATCH_BYTES.

    Without ``skip_bad`` the first bad one ends it. Where a batch ends depends on the images alone.
    """
    images: list[Pixels] = []
    names: list[str] = []
    bad: list[BadImageError] = []
    size, reader.wide = 0, 0
    for index in order:
        if stopped():
            raise Stopped
        wide = reader.wide
        try:
            image = reader.read(int(index))
        except BadImageError as error:
            bad.append(error)
            if not skip_bad:
                break
            continue
        if images and size + image.nbytes > base.BATCH_BYTES:
            yield Decoded(*pack(images), tuple(names), tuple(bad), wide)
            names, bad, size = [], [], 0
            reader.wide -= wide
        images.append(image)
        names.append(reader.name(int(index)))
        size += image.nbytes
        del image
    yield Decoded(*pack(images), tuple(names), tuple(bad), reader.wide)
