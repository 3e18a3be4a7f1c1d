"""What ``.npy`` and ``.npz`` files say of themselves, checked before memory is taken or anything is unpickled.

Everything here raises what a damaged file makes it stumble over, and is to be used inside ``_files.reading``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from math import prod
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfid.runtime.files import member_size

_PIECE_BYTES = 1 << 22
_SUFFIX = ".npy"


class Header(NamedTuple):
    """What an array says of itself before its data."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_header(file: IO[bytes], size: int) -> Header:
    """The header of an array, from a file at its beginning that has ``size`` bytes; it is left where the data begin.

    Raises:
        ValueError: no array, an array of Python objects, or one of more bytes than there are.
    """
    magic = file.read(6)
    if magic[:4] == b"PK\3\4":
        raise ValueError("it is a zip archive by its content; if it is an .npz, name it so")
    if magic != b"\x93NUMPY":
        raise ValueError("the file is empty" if not magic else "it is no .npy array (the first bytes are others)")
    version = tuple(file.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"an .npy array of version {version}; accepted: 1.0, 2.0 and 3.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header = Header(*read(file))
    if header.dtype.hasobject:
        raise ValueError(
            "holds pickled Python objects (a dict or a list, say), which can't be loaded safely; save plain arrays: "
            "np.save(path, array), or np.savez(path, mu=mu, sigma=sigma) for statistics"
        )
    if min(header.shape, default=1) < 0 or header.size > size - file.tell():
        raise ValueError(f"its header promises {header}, but only {max(size - file.tell(), 0)} bytes follow")
    return header


def archive_headers(archive: zipfile.ZipFile) -> dict[str, Header | Exception]:
    """The headers of an archive's arrays, by name, or why one can't be read; no data is read."""
    found: dict[str, Header | Exception] = {}
    for info in archive.infolist():
        if info.filename.endswith(_SUFFIX):
            name = info.filename.removesuffix(_SUFFIX)
            try:
                with archive.open(info) as file:
                    found[name] = read_header(file, member_size(archive, info))
            except Exception as error:  # told where this array is needed
                found[name] = error
    return found


def read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array of an archive, whole and against its CRC; memory is used as its bytes come, not by what is promised.

    Raises:
        ValueError and others: it is not there, damaged, or holds more than its header says.
    """
    info = archive.getinfo(name + _SUFFIX)
    with archive.open(info) as file:
        header = read_header(file, member_size(archive, info))
        content = np.empty(header.size, np.uint8)  # of which the system gives what is written to
        view, at = content.data, 0
        while at < header.size and (got := file.readinto(view[at : at + _PIECE_BYTES])):  # type: ignore[attr-defined]
            at += got
        if at < header.size or file.read(1):  # at the end, the CRC is looked at
            there = at if at < header.size else "more"
            raise ValueError(f"its header promises {header}, {header.size} bytes; there are {there}")
    array: NDArray[Any] = np.ndarray(header.shape, header.dtype, content, order="F" if header.fortran else "C")
    return array


def like_statistics(headers: Mapping[str, Header | Exception]) -> str | None:
    """A sentence where an archive has a mean and a covariance under other names, else None."""
    whole = {
        name: header for name, header in headers.items() if isinstance(header, Header) and header.dtype.kind in "fiu"
    }
    for sigma, square in whole.items():
        if len(square.shape) == 2 and square.shape[0] == square.shape[1] and square.dtype.kind == "f":
            for mu, line in whole.items():
                if line.shape == square.shape[:1] and line.dtype.kind == "f":
                    return (
                        f"{mu!r} {line} and {sigma!r} {square} look like statistics under other names; rename them: "
                        f"f = np.load(path); np.savez(new_path, mu=f[{mu!r}], sigma=f[{sigma!r}])"
                    )
    return None
