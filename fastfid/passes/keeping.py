"""Which passes a job keeps, and which it need not make because they were kept: its cache or its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from fastfid.errors import CacheWarning
from fastfid.extractors import Extractor
from fastfid.passes.pipeline import Reading
from fastfid.passes.store import Entry, FeatureCache, Recording, features_key, identify, record_checkpoints, refusal
from fastfid.protocols import Protocol
from fastfid.runtime.files import is_own
from fastfid.runtime.output import Target
from fastfid.sources import WHOLE, Source


class Keeping:
    """A cache, a place for checkpoints, or neither.

    Args:
        cache: a folder for features and checkpoints.
        checkpoint: CHECKPOINT of the files CHECKPOINT.<role>, without a cache.
        warn: gets the warnings.

    Raises:
        NotADirectoryError: the cache is a file. (A folder that can't be made or used is a CacheWarning: the run goes on
            without.)
    """

    def __init__(
        self,
        cache: str | os.PathLike[str] | None,
        checkpoint: str | os.PathLike[str] | None,
        warn: Callable[..., Any],
    ) -> None:
        if cache is not None and checkpoint is not None:
            raise ValueError("checkpoint: a cache keeps checkpoints as well; give one of the two")
        self.cache: FeatureCache | None = None
        self.checkpoint = None if checkpoint is None else os.fsdecode(checkpoint)
        self.warn = warn
        self._recordings: list[Recording] = []
        if cache is not None:
            try:
                self.cache = FeatureCache(cache, warn=warn)
            except OSError as error:
                if isinstance(error, NotADirectoryError) and error.errno is None:
                    raise  # a file: its own words
                self._without(cache, error)

    def _without(self, cache: object, error: OSError) -> None:
        self.warn(CacheWarning, f"the cache {os.fspath(cache)!r} is not used: {error}")  # type: ignore[call-overload]

    def of(
        self,
        role: str,
        source: Source,
        extractor: Extractor,
        protocol: Protocol,
        reading: Reading,
        device: torch.device,
    ) -> tuple[Entry | None, Recording | None]:
        """What is known of a pass from earlier ones, or what keeps it for later ones; neither where nobody asked.

        Raises:
            CacheError: the checkpoint is damaged or of another run.
            OutputError: it can't be written. (Troubles with a cache are warnings.)
        """
        try:
            entry, recording = self._of(role, source, extractor, protocol, reading, device)
        except OSError as error:
            if self.cache is None:
                raise
            self._without(self.cache.folder, error)
            return None, None
        if recording is not None:
            self._recordings.append(recording)
        return entry, recording

    def prove(
        self,
        role: str,
        source: Source,
        extractor: Extractor,
        protocol: Protocol,
        reading: Reading,
        device: torch.device,
    ) -> None:
        """Before the work, raising as ``of``: the checkpoint can be written, and one that is there is this run's."""
        if self.checkpoint is None:
            return
        Target(self._path(role, reading)).prove(8 * ((extractor.dim or 0) ** 2 + 8192))
        self._of(role, source, extractor, protocol, reading, device)

    def done(self) -> None:
        """The result is safe: checkpoints go."""
        for recording in self._recordings:
            recording.discard()

    def _path(self, role: str, reading: Reading) -> str:
        shard = _shard(reading)
        return f"{self.checkpoint}.{role}" + (f".{shard}" if shard else "")

    def _of(
        self,
        role: str,
        source: Source,
        extractor: Extractor,
        protocol: Protocol,
        reading: Reading,
        device: torch.device,
    ) -> tuple[Entry | None, Recording | None]:
        if self.cache is None and self.checkpoint is None:
            return None, None
        reason, identity = refusal(source, extractor.name, extractor.weights), None
        if reason is None:
            try:
                identity = self.cache.identify(source) if self.cache else identify(source, read=False, warn=self.warn)
            except OSError as error:  # whether that file is an image is for its decoder to say
                if is_own(error):
                    raise
                reason = f"{source.description}: not kept, since a file of it can't be read: {error}"
        if identity is None or extractor.weights is None:
            self.warn(CacheWarning, reason or f"{source.description}: what it holds can't be known without reading it")
            return None, None
        shard = _shard(reading)
        key = features_key(
            content=identity.digest,
            protocol=protocol,
            extractor=extractor.name,
            weights_sha256=extractor.weights.sha256,
            precision=extractor.precision,
            limit=reading.limit,
            seed=reading.seed,
            skip_bad=reading.skip_bad,
            batch_size=reading.batch_size,
            device=str(device),
            shard=shard,
        )
        if self.cache is None:
            return None, record_checkpoints(self._path(role, reading), key, warn=self.warn)
        entry = self.cache.open(key)
        if entry is None:
            return None, self.cache.record(key, identity)
        made = ", ".join(f"{name} {value}" for name, value in entry.made.items())
        source.notes = (*source.notes, f"features of {source.description} from the cache, made with {made}")
        return entry, None


def _shard(reading: Reading) -> str | None:
    return None if reading.shard == WHOLE else f"{reading.shard.index}of{reading.shard.of}"
