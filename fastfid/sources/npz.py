"""The images of an ``.npz`` archive (ADM's ``arr_0``), streamed: at no time is more than a batch of them in memory."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from math import prod
from typing import IO, ClassVar

import numpy as np

from fastfid.runtime.files import open_regular, open_zip, reading
from fastfid.runtime.npz import Header, archive_headers, like_statistics
from fastfid.sources.arrays import REPEATED, check_images, check_order, to_rgb
from fastfid.sources.base import Batches, Content, ImageBatch, Layout, Order, Pixels, Plan, Source, chunks
from fastfid.sources.loader import ahead

_IMAGES = "arr_0"
_DAMAGED = "{place} is damaged: {reason}"
_REFUSED = "{place}: {reason}"


class NpzSource(Source):
    """``arr_0`` of an ``.npz`` file, or its only four-dimensional uint8 member; stored or deflated.

    Reading is sequential. Each image's bytes pass the archive's CRC check, whose failure stops the run at the end; only
    where part of a stored (not deflated) member is read, a shard of a large file say, the rest is skipped unread, and
    with it the check.

    Raises:
        ValueError: not a readable archive, no member of images, Fortran order, wrong number of axes.
        TypeError: images that are not uint8.
    """

    kind: ClassVar[str] = "npz"

    def __init__(self, path: str, layout: Layout) -> None:
        self.path = path
        self.description = path
        self.layout = layout
        headers = npz_headers(path)
        self.member = _member(path, headers)
        what = f"{path} [{self.member}]"
        with reading(path, self.member, say=_REFUSED):
            header = headers[self.member]
            if isinstance(header, Exception):
                raise header
            self.header = header
        check_order(self.header.fortran, what)
        self.count, channels = check_images(self.header.shape, self.header.dtype, layout, what)
        notes = [f"images read from member {self.member!r}"] if self.member != _IMAGES else []
        self.notes = (*notes, REPEATED) if channels == 1 else tuple(notes)

    def content(self) -> Content:
        """The whole archive, and which member is read."""
        return Content(self.path, (self.kind, self.member, self.layout), (("", self.path),))

    def _batches(self, plan: Plan) -> Batches:
        order = self._order(plan)
        for part, images in ahead(lambda _: self._pieces(order, plan), size=lambda piece: piece[1].nbytes):
            yield ImageBatch(to_rgb(images, self.layout), tuple(str(index) for index in part))

    def _pieces(self, order: Order, plan: Plan) -> Iterator[tuple[Order, Pixels]]:
        """Batches of raw pixels, read in one pass."""
        shape = self.header.shape[1:]
        image_bytes = 3 * prod(shape) // shape[self.layout.index("C") - 1]
        with reading(self.path, self.member, say=_DAMAGED), ExitStack() as stack:
            file = self._open(stack.enter_context(open_zip(self.path)), len(order) == self.count, stack)
            _begin(file)
            at = 0
            for part in chunks(order, plan, image_bytes):
                images = np.empty((len(part), *shape), dtype=np.uint8)
                for begin, end in _runs(part):
                    first, number = int(part[begin]), end - begin
                    _skip(file, (first - at) * prod(shape))
                    _fill(file, images[begin:end])
                    at = first + number
                yield part, images
                del images
            if len(order) == self.count and file.read(1):
                raise ValueError("there is more data than the header says")

    def _open(self, archive: zipfile.ZipFile, whole: bool, stack: ExitStack) -> IO[bytes]:
        """The member, where it begins: as the archive gives it, or as bytes of the file that can be sought."""
        info = archive.getinfo(self.member + ".npy")
        member = stack.enter_context(archive.open(info))  # checks the local header
        if whole or info.compress_type != zipfile.ZIP_STORED:
            return member
        _begin(member)
        if info.file_size - member.tell() != prod(self.header.shape):
            raise ValueError(f"{info.file_size} bytes do not hold {list(self.header.shape)} pixels")
        file = stack.enter_context(open_regular(self.path))
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(30))
        file.seek(name + extra, os.SEEK_CUR)
        return file


def npz_headers(path: str) -> dict[str, Header | Exception]:
    """The headers of an archive's members, by name, or why one can't be read; no data is read.

    Raises:
        ValueError: not a readable ``.npz``.
    """
    with reading(path, say="{place} is not a readable .npz archive ({reason}); was it copied whole?"):
        with open_regular(path) as file:
            if file.read(6) == b"\x93NUMPY":
                raise ValueError("by its content it is a single array; name it .npy")
        with open_zip(path) as archive:
            return archive_headers(archive)


def _begin(file: IO[bytes]) -> None:
    """Go to where the data of an array begin; its header has been checked."""
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call, unused-ignore]
    (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)


def _member(path: str, headers: dict[str, Header | Exception]) -> str:
    """The member that holds the images."""
    first = headers.get(_IMAGES)
    likely = [name for name, header in headers.items() if _holds_images(header)]
    if first is not None and (_holds_images(first) or len(likely) != 1 or not _is_labels(first)):
        return _IMAGES
    if len(likely) == 1:
        return likely[0]
    listed = ", ".join(f"{name}: {header}" for name, header in headers.items()) or "nothing"
    if {"mu", "sigma"} <= headers.keys():
        raise ValueError(f"{path!r} holds statistics, not images ({listed}); load it with fastfid.Moments.load")
    statistics = like_statistics(headers)
    raise ValueError(
        f"{path!r} has no images: looked for a member {_IMAGES!r}, or a single one that is uint8 [n, height, width, "
        f"channels], and found {listed}" + (f". {statistics}" if statistics else "")
    )


def _holds_images(header: Header | Exception) -> bool:
    return isinstance(header, Header) and header.dtype == np.uint8 and len(header.shape) == 4


def _is_labels(header: Header | Exception) -> bool:
    return isinstance(header, Header) and len(header.shape) < 3


def _runs(part: Order) -> Iterator[tuple[int, int]]:
    """Where consecutive indices begin and end in an ascending list."""
    edges = [0, *(np.flatnonzero(np.diff(part) != 1) + 1).tolist(), len(part)]
    yield from pairwise(edges)


def _skip(file: IO[bytes], size: int, block: int = 1 << 22) -> None:
    """Go past ``size`` bytes; in a member that the archive unpacks, by reading, which also keeps its CRC check."""
    if isinstance(file, io.BufferedReader):
        file.seek(size, os.SEEK_CUR)
        return
    while size > 0:
        got = len(file.read(min(size, block)))
        if got == 0:
            raise EOFError("it ends before its last image")
        size -= got


def _fill(file: IO[bytes], images: Pixels) -> None:
    """Read exactly ``images``'s bytes into it."""
    view = images.reshape(-1).data
    while view:
        got = file.readinto(view)  # type: ignore[attr-defined]  # zip members are BufferedIOBase
        if not got:
            raise EOFError("it ends before its last image")
        view = view[got:]
