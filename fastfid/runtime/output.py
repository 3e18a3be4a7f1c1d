"""Where results go: a place is proved before the work, and then written whole or through, as its kind asks.

    a regular file, or nothing yet    a temporary beside it takes its place when it is complete
    a symbolic link                   is followed; what it names is replaced, the link stays
    a pipe, a terminal, /dev/null     gets everything in one go when it is ready
    stdout or stderr of this process  the same, through its own descriptor, under whatever name (/dev/stdout, a log)
    a file that is a mount point      the same, since nothing can take its place (a file given to a container)
    a folder, a socket, a disk        is refused

A file that is replaced keeps its mode, owner and extended attributes; a new one has the mode that the umask gives. Its
other hard links keep the old content: to write through them would leave half a file where the disk is full.

Temporaries are locked by their run for as long as it lives, however it ends; what a killed run left is removed by the
next one with the same target. A file system without locks keeps them.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import select
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from fastfid.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

READER_S = 10.0
"""How long a pipe that nobody reads is waited for."""

_made: set[Path] = set()
"""Temporaries of this process that may be there still."""

_SUFFIX = ".fastfid"
_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{8}\.fastfid", re.DOTALL)
_STEM_BYTES = 200
_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0)
_NO_RESERVING = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_REFUSED = {stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device"}


class _Place(NamedTuple):
    """What a path leads to: the path without links, what is there, and whether only writing through it will do."""

    final: Path
    found: os.stat_result | None
    descriptor: int | None
    through: bool


class Target:
    """A place for one result.

    Args:
        path: a path, taken literally; links are followed whenever it is used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fsdecode(path)

    def prove(self, size: int = 4096) -> None:
        """Try everything that writing will need, and leave no trace; to be asked before long work.

        A temporary of ``size`` bytes is made beside the target and removed, so that a folder that may not be written
        to, a full disk, a quota and a limit on the size of files show. A pipe or a device is not opened.

        Raises:
            OutputError: it can't be written, and why.
        """
        with _blaming(self.path):
            place = self._place()
            if place.through:
                return
            sweep(place.final.parent, place.final.name)
            file, part = temporary(place.final)
            try:
                _reserve(file.fileno(), size)
            finally:
                _removed(part)
                file.close()

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[IO[bytes]]:
        """A seekable file whose content becomes the target's when the block ends well, and else leaves no trace.

        KeyboardInterrupt counts as not ending well, so Ctrl-C leaves the old file, or none. (Where it comes in the
        moment in which the temporary is made or removed, ``leave_nothing`` removes it, or the next run.)

        Args:
            durable: wait until the disk has it.

        Raises:
            OutputError: whatever the system said against it, in the block too.
        """
        with _blaming(self.path):
            place = self._place()
            if place.through:
                whole = io.BytesIO()
                yield whole
                _write_through(place, whole.getbuffer())
                return
            file, part = temporary(place.final)
            try:
                yield file
                _take_over(file.fileno(), place)
                publish(file, part, place.final, durable=durable)
            except BaseException:
                with suppress(OSError):
                    file.close()
                _removed(part)
                raise

    def _place(self) -> _Place:
        """What is there now; OutputError where it can't be written to."""
        final, descriptor = _followed(self.path)
        if descriptor is not None:
            return _Place(final, os.fstat(descriptor), descriptor, True)
        folder = final.parent
        try:
            found = final.lstat()
        except FileNotFoundError:
            if not folder.is_dir():
                raise OutputError(self.path, f"the folder {str(folder)!r} does not exist") from None
            return _Place(final, None, None, False)
        kind = stat.S_IFMT(found.st_mode)
        if kind in _REFUSED:
            raise OutputError(self.path, f"it is {_REFUSED[kind]}")
        if not os.access(final, os.W_OK):
            if not os.path.lexists(final):  # since it was looked at, another process has removed it
                return self._place()
            raise OutputError(self.path, "it may not be written to")
        if kind != stat.S_IFREG:
            return _Place(final, found, None, True)
        for standard in (1, 2):
            with suppress(OSError):
                if os.path.samestat(found, os.fstat(standard)):
                    return _Place(final, found, standard, True)
        above = folder.stat()
        if above.st_mode & stat.S_ISVTX and os.geteuid() not in (0, found.st_uid, above.st_uid):
            raise OutputError(
                self.path, f"it is another user's, and the folder {str(folder)!r} lets only them replace it"
            )
        return _Place(final, found, None, _is_mount_point(final))


def temporary(final: Path) -> tuple[IO[bytes], Path]:
    """A new file beside ``final``, open for reading and writing and locked by this run, and its path."""
    for _ in range(100):
        part = final.with_name(f".{_stem(final.name)}.{secrets.token_hex(4)}{_SUFFIX}")
        _made.add(part)
        try:
            handle = os.open(part, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            _made.discard(part)
            continue
        file = os.fdopen(handle, "w+b")
        if lock(file) is not False and os.fstat(handle).st_nlink:
            return file, part
        file.close()  # a run that was sweeping took it for abandoned before it was locked
        _removed(part)
    raise OutputError(str(final), "no temporary beside it stayed there")


def publish(file: IO[bytes], part: Path, final: Path, *, durable: bool = True) -> None:
    """Have a complete temporary take the place of ``final``, once the disk has it, and close it."""
    file.flush()
    if durable:
        os.fsync(file.fileno())
    if os.name == "nt":  # which moves no open file, and has no lock that closing would give up
        file.close()
    part.replace(final)
    _made.discard(part)
    file.close()
    if durable:
        _sync_folder(final.parent)


def leave_nothing() -> None:
    """For the end of an interrupted program: remove what it has made and not published."""
    while _made:
        _removed(_made.pop())


def sweep(folder: str | os.PathLike[str], name: str | None = None) -> int:
    """Remove the temporaries that killed runs left in a folder, all or those for the target ``name``; bytes freed."""
    freed, wanted = 0, None if name is None else _stem(name)
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            made = _TEMPORARY.fullmatch(entry.name)
            if made and wanted in (None, made[1]) and entry.is_file(follow_symlinks=False):
                freed += _removed_if_abandoned(Path(entry.path))
    return freed


def lock(file: IO[bytes]) -> bool | None:
    """Whether this run holds the lock of an open file from now on; None where the system or file system has none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _blaming(path: str) -> Iterator[None]:
    """Whatever the system says in the block is about this target."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(path, error.strerror or str(error)) from error


def _followed(given: str) -> tuple[Path, int | None]:
    """The path without links, or the number where it leads to a descriptor of this process (/dev/stdout, /dev/fd/3)."""
    if "\0" in given:
        raise OutputError(given, "a name can't hold a NUL character")
    path = Path(given)
    for _ in range(40):
        folder = os.path.realpath(path.parent)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder) and path.name.isdecimal():
            return path, int(path.name)
        path = Path(folder, path.name)
        if not path.is_symlink():
            return path, None
        with suppress(FileNotFoundError):  # removed since
            path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _is_mount_point(path: Path) -> bool:
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    points = (re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split(b" ")[4]) for line in lines)
    return os.fsencode(path) in points


def _stem(name: str) -> str:
    """As much of a target's name as leaves room for a temporary's own part."""
    while len(os.fsencode(name)) > _STEM_BYTES:
        name = name[:-1]
    return name


def _reserve(handle: int, size: int) -> None:
    """OSError where the file system, a quota or a limit has no room for a file of this size."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise


def _take_over(handle: int, place: _Place) -> None:
    """Give a new file the owner, the mode and the attributes of the one that it replaces, as far as that may be."""
    if place.found is None:
        return
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for name in os.listxattr(place.final):
                with suppress(OSError):
                    os.setxattr(handle, name, os.getxattr(place.final, name))
    if hasattr(os, "fchown"):
        for owner in (place.found.st_uid, -1):
            with suppress(OSError):
                os.fchown(handle, owner, place.found.st_gid)
                break
        os.fchmod(handle, stat.S_IMODE(place.found.st_mode) & 0o777)


def _write_through(place: _Place, content: memoryview) -> None:
    """Everything into what is there."""
    if place.descriptor is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.flush()  # what was said before comes before
        handle = os.dup(place.descriptor)
    else:
        handle = _opened(place)
    try:
        left = content
        while left:
            try:
                left = left[os.write(handle, left) :]
            except BlockingIOError:  # somebody who shares stdout with us does not like to wait
                select.select([], [handle], [])
        if place.descriptor is None and place.found is not None and stat.S_ISREG(place.found.st_mode):
            os.ftruncate(handle, len(content))
            os.fsync(handle)
    finally:
        os.close(handle)


def _opened(place: _Place) -> int:
    """What is no file, opened for writing; a pipe that nobody reads yet is waited for, but not for ever."""
    flags, until = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK, time.monotonic() + READER_S
    while True:
        try:
            handle = os.open(place.final, flags)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise OutputError(
                    str(place.final), f"nobody has opened this pipe for reading in {READER_S:g} s"
                ) from error
            time.sleep(0.05)
        else:
            os.set_blocking(handle, True)
            return handle


def _removed(path: Path) -> int:
    """Remove a file if it is there; its size in bytes."""
    with suppress(OSError):
        size = path.lstat().st_size
        path.unlink()
        _made.discard(path)
        return size
    return 0


def _removed_if_abandoned(path: Path) -> int:
    try:
        file = os.fdopen(os.open(path, _FLAGS | getattr(os, "O_NOFOLLOW", 0)), "r+b")
    except OSError:
        return 0
    with file:
        return _removed(path) if lock(file) else 0


def _sync_folder(folder: Path) -> None:
    """Have the disk know the new name too, where folders can be told so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
