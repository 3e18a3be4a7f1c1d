"""The border between the files that users name and the code that reads them.

A damaged file makes zipfile, NumPy, json, torch or a decompressor stumble in any way they know; here it becomes one
line with the name of the file and of its member. Only what is the process's own trouble (no memory, no descriptors)
passes, with that name.
"""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fastfid.errors import FastFIDError

_OWN = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_OF_THE_PATH = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_PROBE_BYTES = 1 << 26
_DEFLATE_RATIO = 1040  # 258 bytes of output to two bits of input, and what a block costs
_PIECE_BYTES = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(ValueError):
    """A pipe, socket or device, where a regular file is read."""


def is_own(error: BaseException) -> bool:
    """Whether an error is the process's own trouble and not a file's.

    ``MemoryError`` comes of both: a damaged length asks for petabytes. It is the file's where 64 MiB are to be had.
    """
    if isinstance(error, MemoryError):
        try:
            bytearray(_PROBE_BYTES)
        except MemoryError:
            return True
        return False
    return isinstance(error, OSError) and error.errno in _OWN


def named(error: BaseException, path: str) -> OSError:
    """The process's own trouble, with the file that met it."""
    number = (error.errno if isinstance(error, OSError) else None) or errno.ENOMEM
    return OSError(number, f"{os.strerror(number)} (of this process, not a fault of the file) while reading", path)


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, KeyError) and error.args:
        return f"no {error.args[0]!r}" if isinstance(error.args[0], str) else str(error.args[0])
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def reading(
    path: str | os.PathLike[str],
    member: str = "",
    *,
    error: type[Exception] = ValueError,
    say: str = "{place}: {reason}",
) -> Iterator[None]:
    """Whatever is raised inside becomes an ``error`` that begins with the file's name and, in brackets, its member's.

    Errors of fastfid's own types pass; so do those that speak of the path rather than of what is in the file (not
    there, not permitted, a folder), and ``OSError`` with ENOMEM, EMFILE or ENFILE, to which the name is added.

    Args:
        path: the file.
        member: a part of it, "" for the whole.
        error: what is raised.
        say: the message; ``{place}`` and ``{reason}`` are filled in.
    """
    name = os.fspath(path)
    try:
        yield
    except (FastFIDError, *_OF_THE_PATH):
        raise
    except Exception as raised:
        if is_own(raised):
            raise named(raised, name) from raised
        place = f"{name} [{member}]" if member else name
        raise error(say.format(place=place, reason=reason(raised))) from raised


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading; never waits, as opening a named pipe would.

    Raises:
        NotRegularError: a pipe, socket or device; the message says which, without the name.
        OSError: as ``open``.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if kind != stat.S_IFREG:
            raise NotRegularError(f"{_KINDS.get(kind, 'something special')}, not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def open_zip(path: str | os.PathLike[str]) -> Generator[zipfile.ZipFile, None, None]:
    """A zip archive, opened for reading; to be used inside ``reading``."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def member_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """How many bytes a member unpacks to, as the archive says; ValueError where its packed bytes can't hold them."""
    file: Any = archive.fp
    there = os.fstat(file.fileno()).st_size
    if info.compress_size > there:
        raise ValueError(f"claims {info.compress_size} packed bytes in a file of {there}; was it copied whole?")
    ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE_RATIO}.get(info.compress_type)
    if ratio is not None and info.file_size > ratio * (info.compress_size + 8):
        raise ValueError(f"claims {info.file_size} bytes, more than its {info.compress_size} packed ones can hold")
    return info.file_size


def check_sums(path: Path) -> None:
    """Read every member of a zip archive against its CRC, in pieces; files of another kind pass unread.

    So does an archive without any CRC, which ``torch.serialization.set_crc32_options(False)`` makes.

    Raises:
        ValueError and others: a member is damaged; to be used inside ``reading``.
    """
    with open_regular(path) as file:
        if file.read(4) != b"PK\3\4":
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if not any(info.CRC for info in members):
                return
            for info in members:
                member_size(archive, info)
                with archive.open(info) as member:
                    while member.read(_PIECE_BYTES):
                        pass
