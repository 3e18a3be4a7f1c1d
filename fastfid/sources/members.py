"""The content of a zip archive's member for a decoder: small ones whole, large ones as a stream.

A member of zeros packs a thousandfold and more, so that nothing of a large one is unpacked before its decoder asks for
it, and never more than a bound at once.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from fastfid.runtime.files import member_size

WHOLE_BYTES = 1 << 26
"""Members up to this size are unpacked whole, against their CRC."""

AT_ONCE_BYTES = 1 << 28
"""What a decoder may ask of a larger member in one piece."""

_PIECE_BYTES = 1 << 20


@contextmanager
def opened_member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """A member's content, which can be sought; its CRC is checked, of a large one when the block ends well."""
    info = archive.getinfo(name)
    if member_size(archive, info) <= WHOLE_BYTES:
        yield io.BytesIO(archive.read(info))
        return
    with archive.open(info) as stream:
        yield _Bounded(stream, info.file_size)  # type: ignore[misc]
    with archive.open(info) as stream:  # a decoder goes back and forth, and so past the check
        while stream.read(_PIECE_BYTES):
            pass


class _Bounded(io.RawIOBase):
    """A stream of known size that refuses to give too much in one piece."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._stream.tell(), 0)
        asked = left if size is None or size < 0 else min(size, left)
        if asked > AT_ONCE_BYTES:
            raise ValueError(
                f"its decoder asks for {asked} bytes in one piece; of an archive's member at most {AT_ONCE_BYTES} are "
                "unpacked at once: if it is a real image, unpack the archive"
            )
        return self._stream.read(asked)
