"""What turns images into features: the FID Inception network, its weights, and adapters for any other network."""

from __future__ import annotations

from fastfid.extractors.adapters import Extractor, as_extractor, inception_extractor
from fastfid.extractors.inception import TAPS, InceptionV3
from fastfid.extractors.precision import PRECISIONS, accepted_precisions
from fastfid.extractors.weights import WeightsInfo, find_weights, load_weights, where_weights

__all__ = [
    "PRECISIONS",
    "TAPS",
    "Extractor",
    "InceptionV3",
    "WeightsInfo",
    "accepted_precisions",
    "as_extractor",
    "find_weights",
    "inception_extractor",
    "load_weights",
    "where_weights",
]
