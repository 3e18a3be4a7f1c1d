"""What identifies an image set: a digest of the bytes that its pixels are read from.

    folder      names and contents of the image files
    zip, npz    the content of the archive, and which members are read
    npy         the content of the file
    array       the pixels
    Dataset, DataLoader, iterator: none; what they yield isn't known before they are read, and is never guessed

Contents are hashed by several threads, large files in pieces of 4 MiB side by side. The digest of a file is kept with
its size, its inode, and the times of its last modification and last change, and is used again while these four are the
same, so that a second look at a set reads none of it. As git does in its index, a digest is kept only if the file was
last changed more than two seconds before it was read: a change within the same tick of the clock would not show.

What this does not see is a change that leaves all four as they were: a failing disk, a clock that was set back, a file
server whose clock is wrong by more than two seconds. A restored modification time alone does not hide a change, since
the time of the last change (ctime) can't be set. On Windows, where that is the time of creation, it does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.errors import CacheError, CacheWarning, FastFIDWarning
from fastfid.passes.store import tensorfile
from fastfid.runtime.files import NotRegularError, open_regular
from fastfid.runtime.output import sweep
from fastfid.sources import Content, Source

_LEAF_BYTES = 1 << 22
_GROUP = 64  # files to a task
_SETTLED_NS = 2 * 10**9
_SIZE, _MTIME, _CTIME = 0, 1, 2
_UNREADABLE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG}

Warn = Callable[[type[FastFIDWarning], str], None]
"""What to do with a warning; ``Job.warn`` is one."""

Stamps = NDArray[np.int64]
"""[n, 4]: size, time of modification and of change in ns, inode; size -1 where a file can't be looked at."""


def to_caller(category: type[FastFIDWarning], text: str) -> None:
    """A warning to the caller's filters."""
    warnings.warn(text, category, stacklevel=3)


@dataclass(frozen=True)
class Identity:
    """Which images a set holds.

    Attributes:
        digest: 64 hex digits; sets of equal digest hold the same images in the same order.
        paths: the files that were looked at.
        stamps: what the file system said of them before they were read.
    """

    digest: str
    paths: tuple[str, ...]
    stamps: Stamps

    def changed(self) -> str | None:
        """The first file that is not what it was when the set was identified; arrays are not looked at again."""
        with ThreadPoolExecutor() as pool:
            moved = np.flatnonzero((_stamps(self.paths, pool) != self.stamps).any(axis=1))
        return self.paths[moved[0]] if len(moved) else None


def identify(
    source: Source,
    *,
    hashes: str | os.PathLike[str] | None = None,
    read: bool = True,
    warn: Warn = to_caller,
) -> Identity | None:
    """The identity of an image set, or None where it can't be known.

    Args:
        source: the set.
        hashes: a folder in which digests of files are kept for the next time.
        read: whether files are told apart by their contents; where false, by their names, sizes and modification times
            alone, which is enough to go on with an interrupted run.
        warn: gets the warning.

    Raises:
        OSError: a file that is there can't be read to its end. (One that may not be read at all counts as such.)

    Warns:
        CacheWarning: the kept digests were damaged, and the files are read again; or digests can't be kept.
    """
    content = source.content()
    if content is None:
        return None
    paths = tuple(path for _, path in content.files)
    whole = hashlib.sha256(json.dumps([content.facts, [name for name, _ in content.files]]).encode())
    with ThreadPoolExecutor() as pool:
        if content.array is not None:
            whole.update(_array_digest(content.array, pool.map))
        stamps = _stamps(paths, pool)
        if read:
            kept = None if hashes is None else _Kept(Path(hashes), content.path, warn)
            whole.update(_digests(content, stamps, kept, pool).tobytes())
        else:
            whole.update(np.ascontiguousarray(stamps[:, [_SIZE, _MTIME]]).tobytes())
    return Identity(whole.hexdigest(), paths, stamps)


def _digests(content: Content, stamps: Stamps, kept: _Kept | None, pool: ThreadPoolExecutor) -> NDArray[np.uint8]:
    """[n, 32]: the digest of each file, from those that are kept, else from its content."""
    digests, known = np.zeros((len(stamps), 32), dtype=np.uint8), np.zeros(len(stamps), dtype=bool)
    names = [name for name, _ in content.files]
    if kept is not None:
        kept.look_up(names, stamps, digests, known)
    begun = time.time_ns()
    missing = np.flatnonzero(~known).tolist()
    if len(content.files) == 1 and missing:
        digests[0] = np.frombuffer(_file_digest(content.files[0][1], pool.map), dtype=np.uint8)
    elif missing:

        def work(group: list[int]) -> list[bytes]:
            return [_file_digest(content.files[index][1]) for index in group]

        made = [digest for part in pool.map(work, _groups(missing)) for digest in part]
        digests[missing] = np.frombuffer(b"".join(made), dtype=np.uint8).reshape(-1, 32)
    if kept is not None and missing:
        settled = stamps[:, [_MTIME, _CTIME]].max(axis=1) + _SETTLED_NS < begun
        kept.keep(names, stamps, digests, (known | settled) & (stamps[:, _SIZE] >= 0) & digests.any(axis=1))
    return digests


class _Kept:
    """The digests of a set's files from the last time it was looked at, in a file of its own."""

    def __init__(self, folder: Path, path: str, warn: Warn) -> None:
        self.warn = warn
        real = os.path.realpath(path)
        self.file = folder / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.safetensors"

    def look_up(
        self, names: Sequence[str], stamps: Stamps, digests: NDArray[np.uint8], known: NDArray[np.bool_]
    ) -> None:
        """Fill in the digests of files that are as they were, and mark them ``known``."""
        try:
            content = tensorfile.TensorFile(self.file)
            old = {name: row for row, name in enumerate(json.loads(content.array("names").tobytes()))}
            old_stamps, old_digests = content.array("stamps"), content.array("digests")
        except FileNotFoundError:
            return
        except (CacheError, OSError) as error:
            self.warn(CacheWarning, f"{error}; the set's files are read again")
            return
        rows = np.array([old.get(name, -1) for name in names], dtype=np.int64)
        here = np.flatnonzero(rows >= 0)
        here = here[(old_stamps[rows[here]] == stamps[here]).all(axis=1)]
        digests[here] = old_digests[rows[here]]
        known[here] = True

    def keep(self, names: Sequence[str], stamps: Stamps, digests: NDArray[np.uint8], which: NDArray[np.bool_]) -> None:
        """Write those that can be trusted later."""
        listed = json.dumps([names[row] for row in np.flatnonzero(which).tolist()]).encode()
        arrays: dict[str, NDArray[Any]] = {
            "stamps": stamps[which],
            "digests": digests[which],
            "names": np.frombuffer(listed, dtype=np.uint8),
        }
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.file.parent, self.file.name)
            tensorfile.write(self.file, arrays, {})
        except OSError as error:
            self.warn(CacheWarning, f"the digests of the set's files are not kept: {error}; they will be read again")


def _stamps(paths: Sequence[str], pool: ThreadPoolExecutor) -> Stamps:
    def work(group: Iterable[str]) -> list[tuple[int, int, int, int]]:
        return [_stamp(path) for path in group]

    found = [stamp for part in pool.map(work, _groups(paths)) for stamp in part]
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def _stamp(path: str) -> tuple[int, int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116  # of tens of thousands of files
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return -1, 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino % 2**63


def _file_digest(path: str, run: Callable[..., Iterable[bytes]] = map) -> bytes:
    """SHA-256 over the SHA-256 of each 4 MiB; 32 zeros for a file that may not be read, which is no image either."""

    def leaf(at: int) -> bytes:
        with open_regular(path) as part:
            part.seek(at)
            return _leaf(part)

    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _LEAF_BYTES:
                return hashlib.sha256(_leaf(file)).digest()
        return hashlib.sha256(b"".join(run(leaf, range(0, size, _LEAF_BYTES)))).digest()
    except NotRegularError:
        return bytes(32)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return bytes(32)


def _leaf(file: Any) -> bytes:
    """The digest of the next 4 MiB of a file, or of what is left of it."""
    digest, left = hashlib.sha256(), _LEAF_BYTES
    while left and (piece := file.read(min(left, 1 << 20))):
        digest.update(piece)
        left -= len(piece)
    return digest.digest()


def _array_digest(array: NDArray[Any] | torch.Tensor, run: Callable[..., Iterable[bytes]]) -> bytes:
    """SHA-256 over the SHA-256 of each few images, in the order of their axes."""
    step = max(1, _LEAF_BYTES // max(1, int(np.prod(array.shape[1:]))))

    def leaf(at: int) -> bytes:
        part = array[at : at + step]
        pixels = part.detach().cpu().numpy() if isinstance(part, torch.Tensor) else part
        return hashlib.sha256(np.ascontiguousarray(pixels).reshape(-1).data).digest()

    return hashlib.sha256(b"".join(run(leaf, range(0, len(array), step)))).digest()


def _groups(items: Sequence[Any]) -> Iterable[Any]:
    return (items[at : at + _GROUP] for at in range(0, len(items), _GROUP))
