"""Which passes a job keeps, and which it need not make because they were kept: its cache or its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from fastfid._atomic import require_folder
from fastfid.cache import Entry, FeatureCache, Recording, features_key, identify, record_checkpoints, refusal
from fastfid.errors import CacheWarning
from fastfid.extractors import Extractor
from fastfid.pipeline import Reading
from fastfid.protocols import Protocol
from fastfid.sources import WHOLE, Source


class Keeping:
    """A cache, a place for checkpoints, or neither.

    Args:
        cache: a folder for features and checkpoints.
        checkpoint: CHECKPOINT of the files CHECKPOINT.<role>, without a cache.
        warn: gets the warnings.
    """

    def __init__(
        self,
        cache: str | os.PathLike[str] | None,
        checkpoint: str | os.PathLike[str] | None,
        warn: Callable[..., Any],
    ) -> None:
        if cache is not None and checkpoint is not None:
            raise ValueError("checkpoint: a cache keeps checkpoints as well; give one of the two")
        if checkpoint is not None:
            require_folder(checkpoint)
        self.cache = None if cache is None else FeatureCache(cache, warn=warn)
        self.checkpoint = None if checkpoint is None else os.fspath(checkpoint)
        self.warn = warn

    def of(
        self,
        role: str,
        source: Source,
        extractor: Extractor,
        protocol: Protocol,
        reading: Reading,
        device: torch.device,
    ) -> tuple[Entry | None, Recording | None]:
        """What is known of a pass from earlier ones, or what keeps it for later ones; neither where nobody asked."""
        if self.cache is None and self.checkpoint is None:
            return None, None
        reason, identity = refusal(source, extractor.name, extractor.weights), None
        if reason is None:
            identity = self.cache.identify(source) if self.cache else identify(source, read=False, warn=self.warn)
        if identity is None or extractor.weights is None:
            self.warn(CacheWarning, reason or f"{source.description}: what it holds can't be known without reading it")
            return None, None
        shard = None if reading.shard == WHOLE else f"{reading.shard.index}of{reading.shard.of}"
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
            path = f"{self.checkpoint}.{role}" + (f".{shard}" if shard else "")
            return None, record_checkpoints(path, key, warn=self.warn)
        entry = self.cache.open(key)
        if entry is None:
            return None, self.cache.record(key, identity)
        made = ", ".join(f"{name} {value}" for name, value in entry.made.items())
        source.notes = (*source.notes, f"features of {source.description} from the cache, made with {made}")
        return entry, None
