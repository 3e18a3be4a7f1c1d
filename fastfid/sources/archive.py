"""A zip archive of image files."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from typing import IO, Any, ClassVar

from fastfid.errors import EmptySourceError
from fastfid.runtime.files import open_regular, open_zip, reading
from fastfid.sources.base import Content, Pixels
from fastfid.sources.decode import Decode, bad_image, decode_image
from fastfid.sources.loader import DecodedSource
from fastfid.sources.members import opened_member
from fastfid.sources.reader import Reader
from fastfid.sources.unread import (
    FORKS,
    HIDDEN,
    TWICE,
    by_reason,
    extension_of,
    images_lost,
    listed,
    looks_like_image,
)


class ZipSource(DecodedSource):
    """The images of a zip archive at every depth, in the order of their member names.

    Left out are what ``decode`` does not accept and the resource forks that macOS adds under ``__MACOSX/``, which have
    images' names but are none. Of members of the same name the last is read. ``unread`` counts all of these.

    Raises:
        ValueError: not a zip archive, or a damaged one.
        EmptySourceError: no member that ``decode`` accepts.
    """

    kind: ClassVar[str] = "zip"

    def __init__(self, path: str, decode: Decode) -> None:
        self.path = path
        self.description = path
        unreadable = "{place} is not a readable zip archive ({reason}); was it copied whole?"
        with reading(path, say=unreadable), open_zip(path) as archive:
            members = Counter(name for name in archive.namelist() if not name.endswith("/"))
        decode = decode.in_archives()
        self.names, unread = _read_and_unread(members, decode)
        self.unread = by_reason(unread)
        if not self.names:
            raise EmptySourceError(
                f"no images in archive {path!r}: looked for {decode.looked_for()} among its {len(members)} members"
                + (f", which are {listed(self.unread)}" if self.unread else "")
            )
        self.count = len(self.names)
        lost = images_lost(self.unread)
        if lost:
            self.remarks = (f"{path}: left unread: {listed(lost)}. Read are {decode.looked_for()}",)

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
        self.opened: tuple[int, zipfile.ZipFile, IO[bytes]] | None = None  # with the process that did

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "names": self.names, "opened": None}

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Pixels:
        name = self.names[index]
        archive = self._archive()
        with bad_image(name, self.path), opened_member(archive, name) as content:
            pixels, wide = decode_image(content, name, self.path)
        self.wide += wide
        return pixels

    def _archive(self) -> zipfile.ZipFile:
        if self.opened is None or self.opened[0] != os.getpid():
            with reading(self.path):
                file = open_regular(self.path)
                self.opened = (os.getpid(), zipfile.ZipFile(file), file)
        return self.opened[1]

    def close(self) -> None:
        if self.opened is not None and self.opened[0] == os.getpid():
            self.opened[1].close()
            self.opened[2].close()
        self.opened = None


def _read_and_unread(members: Counter[str], decode: Decode) -> tuple[list[str], Counter[str]]:
    """The members to read, in order, and how many others there are, by reason."""
    names, unread, accepts = [], Counter[str](), decode.rule()
    for name, times in members.items():
        image = accepts(name)
        if image and name.startswith("__MACOSX/"):
            unread[FORKS] += times
        elif not decode.hidden and _is_hidden(name) and (image or looks_like_image(name)):
            unread[HIDDEN] += times
        elif image:
            names.append(name)
            unread[TWICE] += times - 1
        else:
            unread[extension_of(name, decode.any_case)] += times
    return sorted(names), unread


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
