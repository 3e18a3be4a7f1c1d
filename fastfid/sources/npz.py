"""The images of an ``.npz`` archive (ADM's ``arr_0``), streamed: at no time is more than a batch of them in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np

from fastfid.sources.arrays import REPEATED, check_images, check_order, to_rgb
from fastfid.sources.base import Batches, ImageBatch, Layout, Order, Pixels, Plan, Source, chunks
from fastfid.sources.loader import ahead

_IMAGES = "arr_0"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError)


class Header(NamedTuple):
    """What a member of an ``.npz`` says of itself before its data."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


class NpzSource(Source):
    """``arr_0`` of an ``.npz`` file, or its only four-dimensional uint8 member; stored or deflated.

    Reading is sequential. Each image's bytes pass the archive's CRC check, whose failure stops the run at the end.

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
        self.header = headers[self.member]
        what = f"{path} [{self.member}]"
        check_order(self.header.fortran, what)
        self.count, channels = check_images(self.header.shape, self.header.dtype, layout, what)
        notes = [f"images read from member {self.member!r}"] if self.member != _IMAGES else []
        self.notes = (*notes, REPEATED) if channels == 1 else tuple(notes)

    def _batches(self, plan: Plan) -> Batches:
        order = self._order(plan)
        for part, images in ahead(lambda _: self._pieces(order, plan.batch_size)):
            yield ImageBatch(to_rgb(images, self.layout), tuple(str(index) for index in part))

    def _pieces(self, order: Order, size: int) -> Iterator[tuple[Order, Pixels]]:
        """Batches of raw pixels, read in one pass."""
        shape = self.header.shape[1:]
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member + ".npy") as file:
                _read_header(file)
                at = 0
                for part in chunks(order, size):
                    images = np.empty((len(part), *shape), dtype=np.uint8)
                    for begin, end in _runs(part):
                        first, number = int(part[begin]), end - begin
                        _skip(file, (first - at) * prod(shape))
                        _fill(file, images[begin:end])
                        at = first + number
                    yield part, images
                if at == self.count and file.read(1):
                    raise zipfile.BadZipFile("there is more data than the header says")
        except _DAMAGE as error:
            raise ValueError(f"{self.path} [{self.member}] is damaged: {error}") from error


def npz_headers(path: str) -> dict[str, Header]:
    """The headers of an archive's members, by name; no data is read.

    Raises:
        ValueError: not a readable ``.npz``.
    """
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        headers[name.removesuffix(".npy")] = _read_header(file)
    except (*_DAMAGE, ValueError) as error:
        raise ValueError(f"{path!r} is not a readable .npz archive ({error}); was it copied whole?") from error
    return headers


def _read_header(file: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return Header(*read(file))


def _member(path: str, headers: dict[str, Header]) -> str:
    """The member that holds the images."""
    if _IMAGES in headers:
        return _IMAGES
    likely = [name for name, header in headers.items() if header.dtype == np.uint8 and len(header.shape) == 4]
    if len(likely) == 1:
        return likely[0]
    listed = ", ".join(f"{name}: {header.dtype} {list(header.shape)}" for name, header in headers.items()) or "nothing"
    if {"mu", "sigma"} <= headers.keys():
        raise ValueError(f"{path!r} holds statistics, not images ({listed}); load it with fastfid.Moments.load")
    raise ValueError(
        f"{path!r} has no images: looked for a member {_IMAGES!r}, or a single one that is uint8 [n, height, width, "
        f"channels], and found {listed}"
    )


def _runs(part: Order) -> Iterator[tuple[int, int]]:
    """Where consecutive indices begin and end in an ascending list."""
    edges = [0, *(np.flatnonzero(np.diff(part) != 1) + 1).tolist(), len(part)]
    yield from pairwise(edges)


def _skip(file: IO[bytes], size: int, block: int = 1 << 22) -> None:
    """Read past ``size`` bytes: seeking would give up the CRC check and is no faster in a deflated member."""
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
