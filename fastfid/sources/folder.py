"""A folder of image files."""

from __future__ import annotations

import os
from collections import Counter, deque
from pathlib import Path, PurePosixPath
from typing import ClassVar

from fastfid.errors import BadImageError, EmptySourceError
from fastfid.runtime.files import is_own, reason
from fastfid.sources.base import Content, Pixels
from fastfid.sources.decode import Decode, decode_image
from fastfid.sources.loader import DecodedSource
from fastfid.sources.reader import Reader
from fastfid.sources.unread import (
    BELOW,
    CLOSED,
    HIDDEN,
    LINKS,
    SPECIAL,
    by_reason,
    extension_of,
    images_lost,
    listed,
    looks_like_image,
)

_LOOKED_BELOW = 100_000  # entries of folders that are not read in which images are counted


class FolderSource(DecodedSource):
    """The images of a folder, in the order of their paths relative to it (compared as strings, "/" between parts).

    Only regular files are read. What the operating system says of one entry belongs to that entry: a link to nothing,
    or a folder that can't be opened, is an image that can't be read, by that name.

    Raises:
        EmptySourceError: no file that ``decode`` accepts.
        OSError: the folder itself can't be opened.
    """

    kind: ClassVar[str] = "folder"

    def __init__(self, path: str, decode: Decode) -> None:
        self.path = path
        self.description = path
        found = _Listing(path, decode)
        self.names = sorted(found.names)
        self.closed = found.closed
        self.unread = by_reason(found.unread)
        if not self.names:
            raise EmptySourceError(_nothing_found(path, decode, found))
        self.count = len(self.names)
        lost = images_lost(self.unread)
        if lost:
            where = "it and its subfolders" if decode.recursive else "it, not in subfolders"
            least = ", at least" if found.more else ""
            self.remarks = (f"{path}: left unread{least}: {listed(lost)}. Read are {decode.looked_for()} in {where}",)

    def content(self) -> Content:
        """The files, by name."""
        return Content(self.path, (self.kind,), tuple((name, os.path.join(self.path, name)) for name in self.names))  # noqa: PTH118  # ten times as fast as Path

    def _reader(self) -> Reader:
        return _FileReader(self.path, self.names, self.closed)


class _FileReader(Reader):
    """Members are files."""

    def __init__(self, path: str, names: list[str], closed: dict[str, str]) -> None:
        self.path = path
        self.names = names
        self.closed = closed

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Pixels:
        name = self.names[index]
        if name in self.closed:
            raise BadImageError(name, self.closed[name], self.path)
        pixels, wide = decode_image(Path(self.path, name), name, self.path)
        self.wide += wide
        return pixels


class _Listing:
    """What is in a folder, by the rules of ``decode``.

    Attributes:
        names: relative paths ("/" between parts) of what is to be read, unordered; a folder that can't be opened ends
            in "/".
        closed: why these folders can't be opened.
        unread: counts of everything else, by reason; of folders that are not entered, the images in them.
        below: some of the images in folders that are not entered.
        more: there is more in those than was looked at.
    """

    def __init__(self, path: str, decode: Decode) -> None:
        self.decode, self.accepts = decode, decode.rule()
        self.names: list[str] = []
        self.closed: dict[str, str] = {}
        self.unread: Counter[str] = Counter()
        self.below: list[str] = []
        self.looked = 0
        waiting = deque([(path, "", frozenset[str]())])
        others: list[tuple[str, str, str]] = []
        while waiting:
            folder, prefix, above = waiting.popleft()
            if decode.follow_links:
                here = os.path.realpath(folder)
                if here in above:  # a link back to a folder on this path
                    continue
                above = above | {here}
            for entry in self._entries(folder, prefix):
                name, hidden = prefix + entry.name, entry.name.startswith(".") and not decode.hidden
                if not _is_folder(entry):
                    self._file(entry, name, hidden)
                elif entry.is_symlink() and (hidden or not (decode.recursive and decode.follow_links)):
                    self.unread[LINKS] += 1
                elif hidden or not decode.recursive:
                    others.append((HIDDEN if hidden else BELOW, entry.path, f"{name}/"))
                else:
                    waiting.append((entry.path, f"{name}/", above))
        for why, folder, prefix in sorted(others, key=lambda one: one[2].startswith(".")):
            self._count_below(why, folder, prefix)
        self.more = self.looked >= _LOOKED_BELOW

    def _entries(self, folder: str, prefix: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except OSError as error:
            if not prefix or is_own(error):
                raise
            self.names.append(prefix)
            self.closed[prefix] = f"a folder that can't be opened: {reason(error)}"
            return []

    def _file(self, entry: os.DirEntry[str], name: str, hidden: bool) -> None:
        if hidden:
            self.unread[HIDDEN if self._image(name) else extension_of(entry.name, self.decode.any_case)] += 1
        elif _is_special(entry):
            self.unread[SPECIAL] += 1
        elif self.accepts(name):
            self.names.append(name)
        else:
            self.unread[extension_of(entry.name, self.decode.any_case)] += 1

    def _image(self, name: str) -> bool:
        return self.accepts(name) or looks_like_image(name)

    def _count_below(self, why: str, folder: str, prefix: str) -> None:
        """Count the images under a folder that is not entered; links in it are not followed."""
        waiting = deque([(folder, prefix)])
        while waiting and self.looked < _LOOKED_BELOW:
            inner, prefix = waiting.popleft()
            try:
                with os.scandir(inner) as entries:
                    for entry in entries:
                        self.looked += 1
                        if _is_folder(entry):
                            if not entry.is_symlink():
                                waiting.append((entry.path, f"{prefix}{entry.name}/"))
                        elif self._image(entry.name) and not _is_special(entry):
                            self.unread[why] += 1
                            self.below.append(prefix + entry.name)
                        if self.looked >= _LOOKED_BELOW:
                            return
            except OSError as error:
                if is_own(error):
                    raise
                self.unread[CLOSED] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one; what can't be looked at is left to the reader, who says why."""
    try:
        return entry.is_dir()
    except OSError as error:
        if is_own(error):
            raise
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, a socket or a device, or a link to one: reading it could take for ever."""
    try:
        if entry.is_file():
            return False
        entry.stat()  # nothing regular is there: something else, or nothing
    except OSError as error:
        if is_own(error):
            raise
        return False
    return True


def _nothing_found(path: str, decode: Decode, found: _Listing) -> str:
    """The message about a folder without images: what was looked for, what is there, and where images may be."""
    message = f"no images in folder {path!r}: looked for {decode.looked_for()}"
    message += " in it and its subfolders." if decode.recursive else ", not in subfolders."
    below = found.unread[BELOW]
    here = by_reason({kind: n for kind, n in found.unread.items() if kind not in (BELOW, CLOSED)})
    if here:
        message += f" It holds {sum(here.values())} other files: {listed(here, 5)}."
    if not decode.any_case and any(decode.accepts(kind.lower()) for kind in here):
        message += (
            " Case matters here, as it does to the package: rename them, or use a protocol that reads any case "
            "(torch-fidelity, edm, stylegan3), or Decode(any_case=True)."
        )
    if below:
        folders = sorted({str(PurePosixPath(name).parent) for name in found.below})
        more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
        message += (
            f" Its subfolders hold {below} images ({', '.join(folders[:3])}{more}): name one of these folders, or use "
            "a protocol that reads subfolders (clean, edm, stylegan3, adm), or Decode(recursive=True)."
        )
    if not found.unread and (decode.recursive or not any(Path(path).iterdir())):
        message += " It is empty."
    return message
