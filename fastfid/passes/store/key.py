"""What must be equal for features to be taken over from an earlier run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import PIL
import torch

from fastfid.extractors import WeightsInfo
from fastfid.protocols import Protocol
from fastfid.runtime.version import VERSION
from fastfid.sources import Source

CACHE_FORMAT = 1
"""Goes up when fastfid's own arithmetic changes features by more than rounding, or its files change their form."""


@dataclass(frozen=True)
class Key:
    """The facts that features depend on.

    Attributes:
        facts: what decides them; features of equal facts differ at most by the rounding of float32.
        run: what decides that rounding, too. A finished entry is used whatever these are (it says what they were), but
            an interrupted run goes on only where they are equal, so that its result has the same bits.
    """

    facts: Mapping[str, Any]
    run: Mapping[str, Any]

    @property
    def name(self) -> str:
        """32 hex digits over ``facts``."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:32]

    def differences(self, facts: Mapping[str, Any], run: Mapping[str, Any]) -> str:
        """In words: where others, read from a file, are not these; "" where they are the same."""
        mine, theirs = json.loads(json.dumps({**self.facts, **self.run})), {**facts, **run}
        told = [
            f"{name} was {theirs.get(name)!r} and is now {mine.get(name)!r}"
            for name in dict.fromkeys([*mine, *theirs])
            if mine.get(name) != theirs.get(name)
        ]
        return "; ".join(told)


def features_key(
    *,
    content: str,
    protocol: Protocol,
    extractor: str,
    weights_sha256: str,
    precision: str,
    limit: int | None,
    seed: int,
    skip_bad: bool,
    batch_size: int,
    device: str,
    shard: str | None = None,
) -> Key:
    """The key of one pass over a set.

    Args:
        content: ``Identity.digest`` of the set.
        protocol: its fingerprint, its decoding and its block count; neither its name nor its root.
        extractor, weights_sha256, precision: the network, as ``Extractor`` names them.
        limit, seed, skip_bad, batch_size: as in ``fid``. The seed counts only where there is a limit.
        device: where the network runs; only its type ("cpu", "cuda") counts, and only for checkpoints.
        shard: which part of the set, or None for all of it.
    """
    decode = asdict(protocol.decode)
    decode["extensions"] = sorted(decode["extensions"])
    facts = {
        "cache_format": CACHE_FORMAT,
        "content": content,
        "fingerprint": protocol.fingerprint(),
        "decode": decode,
        "block": protocol.statistics.block,
        "extractor": extractor,
        "weights_sha256": weights_sha256,
        "precision": precision,
        "limit": limit,
        "seed": None if limit is None else seed,
        "skip_bad": skip_bad,
        "shard": shard,
        **({"bad": "replaced"} if skip_bad and limit is not None else {}),
        "Pillow": PIL.__version__,  # decoders of two versions may differ by a level, which is more than rounding
    }
    run = {
        "batch_size": batch_size,
        "device": torch.device(device).type,
        "torch": torch.__version__,
        "fastfid": VERSION,
    }
    return Key(facts, run)


def refusal(source: Source, extractor: str, weights: WeightsInfo | None) -> str | None:
    """Why the features of this set by this network can't be kept, as a sentence; None where they can.

    A module's parameters are known but not what its code does with them, and nobody would notice when it changed.
    """
    if source.content() is None:
        return (
            f"{source.description}: its features are not kept, since what a {source.kind} source yields is known only "
            "by reading it; a folder, zip, .npz, .npy or array can be kept"
        )
    if weights is None or weights.origin == "module":
        return (
            f"{source.description}: its features are not kept, since what {extractor} computes is known to its own "
            "code only; the Inception network and TorchScript files can be kept"
        )
    return None
