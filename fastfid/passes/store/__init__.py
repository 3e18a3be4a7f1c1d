"""Features that need not be computed twice, and passes that go on after an interruption.

``FeatureCache`` keeps the features of image sets in a folder, by what decides them (``features_key``): the content of
the set (``identify``), the protocol, the network and its weights. ``record_checkpoints`` keeps the moments of a pass
alone. ``refusal`` says where neither can be done.
"""

from __future__ import annotations

from fastfid.passes.store.content import Identity, identify
from fastfid.passes.store.key import CACHE_FORMAT, Key, features_key, refusal
from fastfid.passes.store.recording import Recording, record_checkpoints
from fastfid.passes.store.state import PassState
from fastfid.passes.store.store import Entry, FeatureCache, Listed

__all__ = [
    "CACHE_FORMAT",
    "Entry",
    "FeatureCache",
    "Identity",
    "Key",
    "Listed",
    "PassState",
    "Recording",
    "features_key",
    "identify",
    "record_checkpoints",
    "refusal",
]
