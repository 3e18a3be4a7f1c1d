"""A zip archive of image files."""

from __future__ import annotations

import os
import zipfile
import zlib
from io import BytesIO
from typing import Any, ClassVar

from fastfid.errors import BadImageError, EmptySourceError
from fastfid.sources.base import Content, Pixels
from fastfid.sources.decode import Decode, decode_image
from fastfid.sources.loader import DecodedSource, Reader


class ZipSource(DecodedSource):
    """The images of a zip archive at every depth, in the order of their member names.

    Left out are what ``decode`` does not accept and the resource forks that macOS adds under ``__MACOSX/``, which have
    images' names but are none (``notes`` counts them).

    Raises:
        ValueError: not a zip archive, or a damaged one.
        EmptySourceError: no member that ``decode`` accepts.
    """

    kind: ClassVar[str] = "zip"

    def __init__(self, path: str, decode: Decode) -> None:
        self.path = path
        self.description = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = {name for name in archive.namelist() if not name.endswith("/")}
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path!r} is not a readable zip archive ({error}); was it copied whole?") from error
        images = {name for name in members if decode.accepts(name)}
        forks = {name for name in images if name.startswith("__MACOSX/")}
        self.names = sorted(name for name in images - forks if decode.hidden or not _is_hidden(name))
        if forks:
            self.notes = (f"{len(forks)} macOS resource forks (__MACOSX/) in {path} were not read",)
        if not self.names:
            raise EmptySourceError(
                f"no images in archive {path!r}: looked for {decode.looked_for()} among its {len(members)} members"
            )
        self.count = len(self.names)

    def content(self) -> Content:
        """The whole archive, and which of its members are read."""
        return Content(self.path, (self.kind, *self.names), (("", self.path),))

    def _reader(self) -> Reader:
        return _MemberReader(self.path, self.names)


class _MemberReader(Reader):
    """Members of an archive that each process opens for itself."""

    def __init__(self, path: str, names: list[str]) -> None:
        self.path = path
        self.names = names
        self.opened: tuple[int, zipfile.ZipFile] | None = None  # and the process that did

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "names": self.names, "opened": None}

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Pixels:
        name = self.names[index]
        if self.opened is None or self.opened[0] != os.getpid():
            self.opened = (os.getpid(), zipfile.ZipFile(self.path))
        try:
            content = self.opened[1].read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            # Damaged, encrypted (RuntimeError) or packed by a method that Python lacks (NotImplementedError).
            raise BadImageError(name, str(error), self.path) from error
        pixels, wide = decode_image(BytesIO(content), name, self.path)
        self.wide += wide
        return pixels

    def close(self) -> None:
        if self.opened is not None and self.opened[0] == os.getpid():
            self.opened[1].close()
        self.opened = None


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
