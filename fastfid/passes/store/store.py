"""A folder of finished features.

    FOLDER/<key>.safetensors     features [n, d] and the state of the pass at its end: complete, or not there
    FOLDER/<key>.partial         the features of a pass that is under way, locked by it, or was interrupted
    FOLDER/<key>.checkpoint      its moments and position
    FOLDER/hashes/               digests of the sets' files (fastfid.passes.store.content)
    FOLDER/.<name>.<…>.fastfid   one of these while it is written (fastfid.runtime.output)

Any number of runs, on any number of machines, may use one folder. An entry is written beside its place and moved there,
so a reader sees a whole one or none, and goes on reading an old one that is replaced. The first run that fills an entry
owns ``<key>.partial`` by a lock that the system takes back when the run ends, however it ends; another one that fills
the same entry at that time, or on a system without such locks, writes a file of its own that no later run goes on with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.errors import CacheError, CacheWarning
from fastfid.passes.store.checkpoint import EVERY_S, Checkpoint, stated
from fastfid.passes.store.content import Identity, Warn, identify, to_caller
from fastfid.passes.store.key import Key
from fastfid.passes.store.recording import Draft, Recording
from fastfid.passes.store.state import from_file
from fastfid.passes.store.tensorfile import TensorFile
from fastfid.runtime.output import lock, sweep, temporary
from fastfid.sources import Source

HASHES = "hashes"
_SUFFIX, _PARTIAL, _CHECKPOINT = ".safetensors", ".partial", ".checkpoint"


@dataclass(frozen=True)
class Listed:
    """One entry of a cache, as ``FeatureCache.entries`` lists it.

    Attributes:
        name: of its key.
        size_bytes: of its file.
        modified: when it was completed, seconds since 1970.
        facts: what it was made from; see ``Key``.
        n, dim: its features.
    """

    name: str
    size_bytes: int
    modified: float
    facts: dict[str, Any]
    n: int
    dim: int


class Entry:
    """The features of a set from an earlier run, and where that run's pass ended.

    Attributes:
        state: of the pass after its last batch; ``Moments.from_state(state.moments)`` has the bits of that run.
        made: batch size, device and versions of that run.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self.facts, self.made = stated(file, "features")
        self.state, _ = from_file(file)
        if "features" not in file.extents or len(file.extents["features"].shape) != 2:
            raise CacheError(f"{str(file.path)!r} is damaged: it holds no features [n, d]")

    @cached_property
    def features(self) -> NDArray[Any]:
        """[n, d] float32 (float64 where the network gives that), read-only, memory-mapped; CacheError if damaged."""
        return self._file.array("features")

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """The rows in order, ``size`` at a time, each batch in memory of its own."""
        for at in range(0, len(self.features), size):
            yield torch.from_numpy(np.array(self.features[at : at + size]))


class FeatureCache:
    """Features kept in a folder, by what they depend on.

    Args:
        folder: made if it is not there.
        warn: gets the warnings.

    Raises:
        NotADirectoryError: it is a file.
        OSError: it can't be made.
    """

    def __init__(self, folder: str | os.PathLike[str], *, warn: Warn = to_caller) -> None:
        self._warn = warn
        self.folder = Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"cache: {os.fspath(folder)!r} is a file; accepted: a folder, there or not")
        self.folder.mkdir(parents=True, exist_ok=True)

    def identify(self, source: Source) -> Identity | None:
        """The identity of a set by its content; digests of files are kept in this folder for the next time."""
        return identify(source, hashes=self.folder / HASHES, warn=self._warn)

    def open(self, key: Key) -> Entry | None:
        """The entry of this key, or None.

        Warns:
            CacheWarning: there is one, but it is damaged or can't be read, and so counts as missing.
        """
        try:
            entry = Entry(TensorFile(self._path(key)))
            if Key(entry.facts, {}).name != key.name:
                raise CacheError(
                    f"{str(self._path(key))!r} is damaged: what it was made from is not what its name says"
                )
        except FileNotFoundError:
            return None
        except (CacheError, OSError) as error:
            self._warn(CacheWarning, f"{error}; its features are computed again")
            return None
        if self._path(key).with_suffix(_CHECKPOINT).exists():  # of a run that was killed as its entry had appeared
            with suppress(OSError):
                self._forget(key.name)
        return entry

    def record(self, key: Key, identity: Identity | None = None, *, every_s: float = EVERY_S) -> Recording:
        """A recording of the pass that fills this entry; see ``Recording``.

        Args:
            key: what the pass depends on.
            identity: of the set, to be looked at again before the entry is completed.
            every_s: as in ``Checkpoint``.

        Raises:
            OSError: nothing can be written to the folder.
        """
        target = self._path(key)
        sweep(self.folder)
        partial, checkpoint = target.with_suffix(_PARTIAL), None
        file = _claimed(partial)
        owned = file is not None
        if file is None:
            file, partial = temporary(target)
        fresh = os.fstat(file.fileno()).st_size == 0
        try:
            if owned:
                checkpoint = Checkpoint(target.with_suffix(_CHECKPOINT), key, every_s=every_s)
            return Recording(key, checkpoint, Draft(file, partial, target), identity, self._warn)
        except BaseException:
            if not owned or fresh:  # under the lock
                _removed(partial)
            with suppress(OSError):
                file.close()
            raise

    def entries(self) -> list[Listed]:
        """All complete entries, the oldest first; damaged ones are left out with a warning."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # removed meanwhile
                try:
                    file, about = TensorFile(path), path.stat()
                    n, dim = file.extents["features"].shape
                    facts, _ = stated(file, "features")
                except (CacheError, KeyError, ValueError) as error:
                    self._warn(CacheWarning, f"{path.name} is left out of the list: {error}")
                    continue
                found.append(Listed(path.stem, about.st_size, about.st_mtime, facts, n, dim))
        return sorted(found, key=lambda entry: entry.modified)

    def remove(self, name: str) -> bool:
        """Remove an entry by the name of its key; whether there was one. Runs that read it go on doing so."""
        try:
            (self.folder / f"{name}{_SUFFIX}").unlink()
        except FileNotFoundError:
            return False
        return True

    def prune(self) -> int:
        """Remove what interrupted runs left (they begin anew then) and no run is using; how many bytes that freed."""
        freed = 0
        left = (*self.folder.glob(f"*{_PARTIAL}"), *self.folder.glob(f"*{_CHECKPOINT}"))
        for name in {path.stem for path in left}:
            freed += self._forget(name)
        return freed + sweep(self.folder) + sweep(self.folder / HASHES)

    def _forget(self, name: str) -> int:
        """Remove an interrupted pass unless a run owns it; how many bytes that freed."""
        partial = self.folder / f"{name}{_PARTIAL}"
        owned = _claimed(partial)
        if owned is None:
            return 0
        with owned:
            return _removed(partial, self.folder / f"{name}{_CHECKPOINT}")

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key.name}{_SUFFIX}"


def _claimed(path: Path) -> IO[bytes] | None:
    """The file, opened and locked for this run, or None where another run owns it or no run can."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        held = lock(file)
        if not held:
            if held is None and not os.fstat(file.fileno()).st_size:  # no locks here: nobody has any use for it
                _removed(path)
            file.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # between opening and locking, its owner completed it and moved it away


def _removed(*paths: Path) -> int:
    """Remove files that are there; their size in bytes."""
    freed = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            freed += size
    return freed
