"""Arrays in one file of the safetensors layout, written as a stream and read memory-mapped.

    8 bytes   length of the header, little endian
    header    JSON: {name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}, padded with spaces
    data      the arrays, little endian, row by row, without holes

The header takes a fixed 16 KiB: room is left for it, rows are appended, and it is written when their number is known.
Until then the file begins with zeros, which no reader takes for a header. Each array has a SHA-256 over its bytes, its
dtype and its shape in the metadata; it is checked when the array is first looked at. SHA-256, because processors have
instructions for it.

Source: https://huggingface.co/docs/safetensors (the format's description); tests/test_cache_files.py opens these files
with the safetensors package.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfid.errors import CacheError
from fastfid.runtime.files import open_regular, reading
from fastfid.runtime.output import Target

HEADER_BYTES = 16384
_DIGESTS = "sha256"
_ALIGNMENT = 8
_PADDING = "padding"
_PIECE_BYTES = 1 << 24

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class Extent(NamedTuple):
    """One array of a file: dtype, shape and where its bytes begin and end behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Rows:
    """The rows of an array [n, d] on their way into a file whose header is written later.

    Attributes:
        n: rows so far.
        dim: d; None before the first rows.
        dtype: their name in the header, "F32" or "F64"; "" before the first rows.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.n = 0
        self.dim: int | None = None
        self.dtype = ""
        self._sha256 = hashlib.sha256()
        file.seek(0)
        file.truncate()
        file.write(bytes(HEADER_BYTES))

    @classmethod
    def resume(cls, file: IO[bytes], state: Mapping[str, Any]) -> Rows:
        """Go on behind the rows that ``state()`` described; what the file holds beyond them is cut off.

        Raises:
            CacheError: the file does not hold these rows.
        """
        rows = cls.__new__(cls)
        rows.file, rows._sha256 = file, hashlib.sha256()
        rows.n, rows.dim, rows.dtype = int(state["n"]), state["dim"], str(state["dtype"])
        left = rows._bytes()
        file.seek(HEADER_BYTES)
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            rows._sha256.update(piece)
            left -= len(piece)
        if left or rows._sha256.hexdigest() != state["sha256"]:
            raise CacheError(f"the unfinished file does not hold the {rows.n} rows that its checkpoint speaks of")
        file.seek(HEADER_BYTES + rows._bytes())
        file.truncate()
        return rows

    def so_far(self) -> NDArray[Any]:
        """[n, d], read back from the file."""
        at = self.file.tell()
        self.file.seek(HEADER_BYTES)
        made = np.frombuffer(bytearray(self.file.read(self._bytes())), _DTYPES[self.dtype or "F32"])
        self.file.seek(at)
        return made.reshape(self.n, self.dim or 0)

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows [b, d], float32 or float64, of the dtype and d of the first ones."""
        name = _NAMES.get(rows.dtype, str(rows.dtype))
        if name not in ("F32", "F64") or rows.ndim != 2:
            raise TypeError(f"features: {rows.dtype} {list(rows.shape)}; accepted: float32 or float64 [b, d]")
        if self.dim is None:
            self.dim, self.dtype = rows.shape[1], name
        if (self.dim, self.dtype) != (rows.shape[1], name):
            raise ValueError(f"features: {name} [b, {rows.shape[1]}]; those before were {self.dtype} [b, {self.dim}]")
        view = _bytes_of(rows)
        self.file.write(view)
        self._sha256.update(view)
        self.n += len(rows)

    def state(self) -> dict[str, Any]:
        """What ``resume`` needs to know."""
        return {"n": self.n, "dim": self.dim, "dtype": self.dtype, "sha256": self._sha256.hexdigest()}

    def extent(self) -> Extent:
        """Where they lie."""
        return Extent(self.dtype or "F32", (self.n, self.dim or 0), 0, self._bytes())

    def digest(self) -> str:
        """Of the rows as a finished array."""
        return _sealed(self._sha256.copy(), self.extent())

    def _bytes(self) -> int:
        return self.n * (self.dim or 0) * _DTYPES[self.dtype or "F32"].itemsize


def seal(
    file: IO[bytes], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], rows: Rows | None = None
) -> None:
    """Complete a file: ``rows``, if any, as "features", then ``arrays``, then the header."""
    extents, digests = {}, {}
    at = 0
    if rows is None:
        file.write(bytes(HEADER_BYTES))
    else:
        extents["features"], digests["features"] = rows.extent(), rows.digest()
        at = rows.extent().end
        if at % _ALIGNMENT:  # float64 behind an odd number of float32: readers want it at a multiple of its size
            arrays = {_PADDING: np.zeros(-at % _ALIGNMENT, dtype=np.uint8), **arrays}
    for name, array in sorted(arrays.items(), key=lambda item: (item[0] != _PADDING, -item[1].dtype.itemsize)):
        view = _bytes_of(array)
        file.write(view)
        extents[name] = Extent(_NAMES[array.dtype], array.shape, at, at + len(view))
        digests[name] = _sealed(hashlib.sha256(view), extents[name])
        at += len(view)
    header: dict[str, Any] = {"__metadata__": {**metadata, _DIGESTS: json.dumps(digests)}}
    for name, extent in extents.items():
        header[name] = {"dtype": extent.dtype, "shape": extent.shape, "data_offsets": (extent.begin, extent.end)}
    text = json.dumps(header).encode()
    if len(text) > HEADER_BYTES - 8:
        raise ValueError(f"metadata: its header has {len(text)} bytes; accepted: at most {HEADER_BYTES - 8}")
    file.seek(0)
    file.write((HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(HEADER_BYTES - 8))
    file.flush()


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """A file of whole arrays; it appears complete or not at all.

    Args:
        path: where; its folder exists.
        arrays: float64, float32, float16, int64, int32, uint8 or bool, of any shape.
        metadata: at most about 14 KiB.
    """
    with Target(path).writing() as file:
        seal(file, arrays, metadata)


class TensorFile:
    """A file that ``seal`` completed, memory-mapped.

    Attributes:
        path: where it was; it may be replaced or removed meanwhile.
        metadata: the strings it was given.
        extents: its arrays.

    Raises:
        FileNotFoundError: not there.
        CacheError: cut short, not of this layout, or of contradictory sizes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        damaged = "{place!r} is damaged or not a file of fastfid's cache: {reason}"
        with reading(path, error=CacheError, say=damaged), open_regular(path) as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._start, header = _header(self._map)
            self.metadata = _texts(header.pop("__metadata__"))
            self.extents = {name: _extent(entry) for name, entry in header.items()}
            self._digests = _texts(json.loads(self.metadata.pop(_DIGESTS)))
            _require_contiguous(list(self.extents.values()), len(self._map) - self._start)
        self._sound: set[str] = set()

    def array(self, name: str) -> NDArray[Any]:
        """One array, read-only, in the file's own memory; its checksum is checked the first time.

        Raises:
            CacheError: there is none of that name, or its bytes are not those that were written.
        """
        extent = self.extents.get(name)
        if extent is None:
            raise CacheError(f"{os.fspath(self.path)!r} holds no {name!r}, only {', '.join(self.extents)}")
        if name not in self._sound:
            digest = hashlib.sha256()
            with memoryview(self._map) as view:
                for at in range(self._start + extent.begin, self._start + extent.end, _PIECE_BYTES):
                    digest.update(view[at : min(at + _PIECE_BYTES, self._start + extent.end)])
            if _sealed(digest, extent) != self._digests.get(name):
                raise CacheError(f"{os.fspath(self.path)!r} is damaged: the checksum of {name!r} is wrong")
            self._sound.add(name)
        dtype = _DTYPES[extent.dtype]
        flat: NDArray[Any] = np.frombuffer(self._map, dtype, prod(extent.shape), self._start + extent.begin)
        return flat.reshape(extent.shape)


def _header(content: mmap.mmap) -> tuple[int, dict[str, Any]]:
    """Where the data begin, and the parsed header."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= len(content) - 8:
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}; was the file written to its end?")
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError(f"its header is a {type(header).__name__}")
    return 8 + length, header


def _texts(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its metadata are not texts by name")
    return found


def _extent(entry: Mapping[str, Any]) -> Extent:
    dtype, (begin, end), shape = entry["dtype"], entry["data_offsets"], tuple(entry["shape"])
    if any(type(number) is not int for number in (begin, end, *shape)):
        raise ValueError(f"an array at {begin!r} to {end!r} of shape {list(shape)!r}; these are whole numbers")
    if dtype not in _DTYPES:
        raise ValueError(f"an array of dtype {dtype!r}")
    if min((*shape, begin), default=0) < 0 or end - begin != prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"bytes {begin} to {end} can't be {dtype} {list(shape)}")
    return Extent(dtype, shape, begin, end)


def _require_contiguous(extents: list[Extent], size: int) -> None:
    edges = sorted((extent.begin, extent.end) for extent in extents)
    whole = [(0, 0), *edges, (size, size)]
    if any(before[1] != after[0] for before, after in pairwise(whole)):
        raise ValueError(f"its arrays cover bytes {edges} of {size}; was it cut short?")


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array, row by row."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _sealed(digest: Any, extent: Extent) -> str:
    """The digest of an array whose bytes went into ``digest``: dtype and shape belong to it."""
    digest.update(f"{extent.dtype} {list(extent.shape)}".encode())
    return str(digest.hexdigest())
