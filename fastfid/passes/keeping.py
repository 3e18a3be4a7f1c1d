"""Which passes a job keeps, and which it need not make because they were kept: its cache or its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastfid.errors import CacheWarning
from fastfid.extractors import Extractor
from fastfid.passes.pipeline import Reading
from fastfid.passes.store import (
    Entry,
    FeatureCache,
    Identity,
    Key,
    Recording,
    features_key,
    identify,
    record_checkpoints,
    refusal,
)
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
        self, role: str, source: Source, networks: Mapping[str, Extractor], protocol: Protocol, reading: Reading
    ) -> tuple[dict[str, Entry], dict[str, Recording]]:
        """By tap, what is known of a pass from earlier ones, and of the others what keeps it for later ones.

        Args:
            role: of the set, for a checkpoint's name.
            source: the set.
            networks: an Extractor of one tap for each.
            protocol: of all of them; its tap is not looked at.
            reading: how the set is read.

        Raises:
            CacheError: the checkpoint is damaged or of another run.
            OutputError: it can't be written. (Troubles with a cache are warnings.)
        """
        known, recordings = self._of(role, source, networks, protocol, reading)
        self._recordings += recordings.values()
        return known, recordings

    def _of(
        self, role: str, source: Source, networks: Mapping[str, Extractor], protocol: Protocol, reading: Reading
    ) -> tuple[dict[str, Entry], dict[str, Recording]]:
        known: dict[str, Entry] = {}
        recordings: dict[str, Recording] = {}
        try:
            keys, identity = self._keys(source, networks, protocol, reading)
            for tap, key in keys.items():
                entry = None if self.cache is None else self.cache.open(key)
                if entry is not None:
                    known[tap] = entry
                    made = ", ".join(f"{name} {value}" for name, value in entry.made.items())
                    note = f"features of {source.description} from the cache, made with {made}"
                    source.notes = tuple(dict.fromkeys((*source.notes, note)))
                elif self.cache is not None:
                    recordings[tap] = self.cache.record(key, identity)
                else:
                    path = self._path(role, reading, tap if len(networks) > 1 else "")
                    recordings[tap] = record_checkpoints(path, key, warn=self.warn)
        except OSError as error:
            if self.cache is None:
                raise
            self._without(self.cache.folder, error)
            for one in recordings.values():
                one.__exit__()
            return known, {}
        positions = {one.resumed and one.resumed.read for one in recordings.values()}
        if len(positions) > 1:  # killed between the checkpoints of two taps
            for one in recordings.values():
                one.begin_anew()
        return known, recordings

    def prove(
        self, role: str, source: Source, networks: Mapping[str, Extractor], protocol: Protocol, reading: Reading
    ) -> None:
        """Before the work, raising as ``of``: the checkpoint can be written, and one that is there is this run's."""
        if self.checkpoint is None:
            return
        for tap, network in networks.items():
            path = self._path(role, reading, tap if len(networks) > 1 else "")
            Target(path).prove(8 * ((network.dim or 0) ** 2 + 8192))
        self._of(role, source, networks, protocol, reading)

    def done(self) -> None:
        """The result is safe: checkpoints go."""
        for recording in self._recordings:
            recording.discard()

    def _path(self, role: str, reading: Reading, tap: str) -> str:
        return ".".join(part for part in (self.checkpoint, role, tap, _shard(reading)) if part)

    def _keys(
        self, source: Source, networks: Mapping[str, Extractor], protocol: Protocol, reading: Reading
    ) -> tuple[dict[str, Key], Identity | None]:
        """The key of each tap's features of this set; none, with a warning, where they can't be kept."""
        if self.cache is None and self.checkpoint is None:
            return {}, None
        one = next(iter(networks.values()))
        reason, identity = refusal(source, one.name, one.weights), None
        if reason is None:
            try:
                identity = self.cache.identify(source) if self.cache else identify(source, read=False, warn=self.warn)
            except OSError as error:  # whether that file is an image is for its decoder to say
                if is_own(error):
                    raise
                reason = f"{source.description}: not kept, since a file of it can't be read: {error}"
        if identity is None or one.weights is None:
            self.warn(CacheWarning, reason or f"{source.description}: what it holds can't be known without reading it")
            return {}, None
        made = {
            tap: features_key(
                content=identity.digest,
                protocol=replace(protocol, tap=tap or protocol.tap),
                extractor=network.name,
                weights_sha256=one.weights.sha256,
                precision=network.precision,
                limit=reading.limit,
                seed=reading.seed,
                skip_bad=reading.skip_bad,
                batch_size=reading.batch_size,
                device=str(network.device),
                shard=_shard(reading),
            )
            for tap, network in networks.items()
        }
        return made, identity


def _shard(reading: Reading) -> str | None:
    return None if reading.shard == WHOLE else f"{reading.shard.index}of{reading.shard.of}"
