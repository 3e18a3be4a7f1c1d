"""A file from which an interrupted pass goes on: the moments so far and the position in the set.

It holds no features, so its size depends on their dimension only (33 MB at d = 2048), not on the number of images.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastfid.errors import CacheError
from fastfid.passes.store import tensorfile
from fastfid.passes.store.key import CACHE_FORMAT, Key
from fastfid.passes.store.state import PassState, from_file, to_arrays
from fastfid.passes.store.tensorfile import TensorFile
from fastfid.runtime.files import reading
from fastfid.runtime.output import Target

EVERY_S = 30.0
_SHARE = 0.01
"""The largest part of the time that saving may take: whatever a save cost, the next waits a hundred times as long."""


class Checkpoint:
    """Saves the state of a pass now and then, and gives it back to the next attempt at the same pass.

    Args:
        path: the file. A kill while it is written leaves the one before.
        key: what the pass depends on.
        every_s: seconds between two saves, at least; more where saving is slow. 0 saves whenever it is asked.

    Raises:
        OutputError: no file can be written there.
    """

    def __init__(self, path: str | os.PathLike[str], key: Key, *, every_s: float = EVERY_S) -> None:
        Target(path).prove()
        self.path = Path(path)
        self.key = key
        self.every_s = every_s
        self._next = time.monotonic() + every_s

    def load(self) -> tuple[PassState, dict[str, Any]] | None:
        """The state of an earlier attempt and what was saved with it, or None where there is no file.

        Raises:
            CacheError: the file is no checkpoint, is damaged, or is one of another pass (the message says what
                differs). It is left as it is.
        """
        try:
            file = TensorFile(self.path)
        except FileNotFoundError:
            return None
        facts, run = stated(file, "checkpoint")
        differences = self.key.differences(facts, run)
        if differences:
            raise CacheError(
                f"checkpoint {str(self.path)!r} is of another run: {differences}. Repeat that run to go on with it, "
                "or remove the file to begin anew"
            )
        return from_file(file)

    def due(self) -> bool:
        """Whether it is time for the next save."""
        return time.monotonic() >= self._next

    def offer(self, make: Callable[[], PassState], more: Callable[[], Mapping[str, Any]] = dict) -> bool:
        """Save what ``make`` (and, before it, ``more``) gives if it is time; whether it was."""
        if not self.due():
            return False
        begin = time.monotonic()
        extra = more()
        self.save(make(), **extra)
        end = time.monotonic()
        self._next = end + (max(self.every_s, (end - begin) / _SHARE) if self.every_s else 0.0)
        return True

    def save(self, state: PassState, **more: Any) -> None:
        """Save a state now."""
        tensorfile.write(self.path, to_arrays(state, **more), metadata(self.key, "checkpoint"))

    def remove(self) -> None:
        """Nobody needs it any more."""
        self.path.unlink(missing_ok=True)


def metadata(key: Key, kind: str) -> dict[str, str]:
    """What a file says of itself."""
    return {
        "format": f"fastfid {kind} {CACHE_FORMAT}",
        "facts": json.dumps(dict(key.facts)),
        "run": json.dumps(dict(key.run)),
    }


def stated(file: TensorFile, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The key's facts and run that a file of this kind says it was made with; CacheError where it is of another."""
    wanted, found = f"fastfid {kind} {CACHE_FORMAT}", file.metadata.get("format")
    if found != wanted:
        raise CacheError(f"{str(file.path)!r} is not a {wanted!r} file but {found!r}; remove it, or name another")
    said = "{place!r} is damaged: it does not say what it was made with ({reason})"
    with reading(file.path, error=CacheError, say=said):
        facts, run = json.loads(file.metadata["facts"]), json.loads(file.metadata["run"])
        if not (isinstance(facts, dict) and isinstance(run, dict)):
            raise ValueError("no JSON objects")
        return facts, run
