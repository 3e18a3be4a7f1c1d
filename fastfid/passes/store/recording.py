"""What a pass keeps while it is under way: its features, if there is a cache, and checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from fastfid.errors import CacheError, CacheWarning
from fastfid.passes.store import tensorfile
from fastfid.passes.store.checkpoint import EVERY_S, Checkpoint, metadata
from fastfid.passes.store.content import Identity, Warn, to_caller
from fastfid.passes.store.key import Key
from fastfid.passes.store.state import PassState, to_arrays
from fastfid.runtime.output import publish

_PIECE_BYTES = 1 << 23  # features that gather on the device before they are copied to the disk in one go
_ROWS = "rows"


class Draft(NamedTuple):
    """An entry under way: its open file, where that is, where it shall be."""

    file: IO[bytes]
    path: Path
    target: Path


class Recording:
    """Keeps one pass, so that it can go on after an interruption and need not be repeated; a context manager.

    Made by ``FeatureCache.record`` (features and checkpoints) and ``record_checkpoints`` (checkpoints alone). Use::

        with recording:
            begin = recording.resumed                    # where an earlier attempt stopped, or None
            for batch in ...:                            # from there on
                recording.append(features)
                recording.offer(lambda: PassState(...))  # saves it if it is time
            recording.finish(PassState(...))             # completes the entry
        recording.discard()                              # once the result is safe

    Left without ``finish``, it keeps the last checkpoint for the next attempt. ``finish`` puts the complete pass into
    the entry, and removes the checkpoint; without a cache, into the checkpoint, which stays until ``discard``, so that
    what comes after the pass (another pass, the distance, a file to be written) may fail. A disk that is full, or
    fails, ends the recording with a CacheWarning, not the pass.

    Attributes:
        resumed: where to begin; None means at the first image.

    Raises:
        CacheError: without a cache: the checkpoint is damaged or of another run. (With one, that is a warning, and the
            pass begins anew.)
    """

    def __init__(
        self,
        key: Key,
        checkpoint: Checkpoint | None,
        draft: Draft | None = None,
        identity: Identity | None = None,
        warn: Warn = to_caller,
    ) -> None:
        self.resumed: PassState | None = None
        self._key, self._checkpoint, self._draft, self._identity, self._warn = key, checkpoint, draft, identity, warn
        self._features: _Features | None = None
        self._kept = self._failed = False
        if draft is not None:
            self._features = _Features(self._rows(draft.file))
        elif checkpoint is not None:
            found = checkpoint.load()
            self.resumed = found[0] if found else None

    def _rows(self, file: IO[bytes]) -> tensorfile.Rows:
        """Those of an earlier attempt, or none yet."""
        if self._checkpoint is not None:
            try:
                found = self._checkpoint.load()
                if found is not None:
                    rows = tensorfile.Rows.resume(file, found[1][_ROWS])
                    self.resumed, self._kept = found[0], True
                    return rows
            except (CacheError, KeyError) as error:
                self._warn(CacheWarning, f"an interrupted run can't be gone on with: {error}. It begins anew")
                self._checkpoint.remove()
        return tensorfile.Rows(file)

    @property
    def keeps_rows(self) -> bool:
        """Whether the features themselves are recorded."""
        return self._features is not None

    def earlier(self) -> torch.Tensor:
        """The features [n, d] of an earlier attempt."""
        assert self._features is not None
        return torch.from_numpy(self._features.rows.so_far())

    def begin_anew(self) -> None:
        """Forget where an earlier attempt stopped."""
        self.resumed, self._kept = None, False
        if self._draft is not None:
            assert self._features is not None
            self._features.close()
            self._features = _Features(tensorfile.Rows(self._draft.file))

    def append(self, features: torch.Tensor) -> None:
        """Add the features [b, d] of the next images; waits for a GPU once in 8 MiB of them. They may change later."""
        kept = self._features
        if kept is not None and not self._failed:
            self._attempt(lambda: kept.append(features))

    def offer(self, make: Callable[[], PassState]) -> None:
        """After a batch: save the state that ``make`` gives, if it is time for a checkpoint."""
        checkpoint, features = self._checkpoint, self._features
        if checkpoint is None or self._failed or not checkpoint.due():
            return

        def save() -> None:
            checkpoint.offer(make, lambda: {} if features is None else {_ROWS: features.flush()})
            self._kept = True

        self._attempt(save)

    def finish(self, state: PassState) -> None:
        """The pass is complete: its entry appears, and its checkpoint goes; or its checkpoint holds all of it.

        Warns:
            CacheWarning: files of the set changed meanwhile, so that nobody can say which content these features are
                of; no entry appears.
        """
        changed = None if self._identity is None else self._identity.changed()
        if changed is not None:
            self._warn(CacheWarning, f"{changed!r} changed while the set was read; its features are not kept")
        elif self._draft is not None and not self._failed:
            self._attempt(lambda: self._publish(state))
        checkpoint = self._checkpoint
        if self._features is None and checkpoint is not None and not self._failed:
            self._attempt(lambda: checkpoint.save(state))
        elif not self._failed:  # else the next run goes on from the last checkpoint
            self.discard()
            self._kept = False

    def discard(self) -> None:
        """What the pass came to is safe elsewhere: the checkpoint goes."""
        if self._checkpoint is not None:
            try:
                self._checkpoint.remove()
            except OSError as error:
                self._warn(CacheWarning, f"the checkpoint can't be removed: {error}")

    def _publish(self, state: PassState) -> None:
        assert self._features is not None
        assert self._draft is not None
        self._features.flush()
        rows, (file, path, target) = self._features.rows, self._draft
        tensorfile.seal(file, to_arrays(state), metadata(self._key, "features"), rows)
        publish(file, path, target)
        self._draft = None

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, ValueError, TypeError) as error:
            self._failed = True
            self._warn(CacheWarning, f"from here on this run is not recorded: {error}")

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._features is not None:
            self._features.close()
        if self._draft is None:
            return
        file, path, _ = self._draft
        try:
            if not self._kept:  # under the lock, so that no other run has begun to go on with it
                path.unlink(missing_ok=True)
            file.close()
        except OSError as error:  # a full disk fails again at the last bytes
            self._warn(CacheWarning, f"{str(path)!r} could not be closed: {error}")


def record_checkpoints(
    path: str | os.PathLike[str], key: Key, *, every_s: float = EVERY_S, warn: Warn = to_caller
) -> Recording:
    """A recording of checkpoints alone: what is kept does not grow with the number of images.

    Args:
        path: the checkpoint's file; gone after ``discard``.
        key: what the pass depends on; its content may be that of ``identify(source, read=False)``.
        every_s: as in ``Checkpoint``.
        warn: gets the warnings.

    Raises:
        CacheError: the file is damaged, no checkpoint, or of another run; it is left as it is.
        OutputError: the file can't be written.
    """
    return Recording(key, Checkpoint(path, key, every_s=every_s), warn=warn)


class _Features:
    """Gathers features on their device, and writes and hashes them on a thread of its own."""

    def __init__(self, rows: tensorfile.Rows) -> None:
        self.rows = rows
        self._waiting: list[torch.Tensor] = []
        self._bytes = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fastfid-cache")
        self._sent: Future[None] | None = None

    def append(self, features: torch.Tensor) -> None:
        self._waiting.append(features.detach().clone())
        self._bytes += features.numel() * features.element_size()
        if self._bytes >= _PIECE_BYTES:
            self._send()

    def _send(self) -> None:
        piece = torch.cat(self._waiting).cpu().numpy() if self._waiting else None
        self._waiting, self._bytes = [], 0
        if self._sent is not None:
            self._sent.result()
        self._sent = None if piece is None else self._thread.submit(self.rows.append, piece)

    def flush(self) -> dict[str, Any]:
        """All rows so far on the disk; how ``Rows.resume`` finds them again."""
        self._send()
        if self._sent is not None:
            self._sent.result()
            self._sent = None
        self.rows.file.flush()
        os.fsync(self.rows.file.fileno())
        return self.rows.state()

    def close(self) -> None:
        self._thread.shutdown(wait=True)
