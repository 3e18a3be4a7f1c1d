"""fastfid: exact and fast Fréchet Inception Distance.

``import fastfid`` loads nothing but this file: public names are resolved when they are first used (PEP 562), so that
neither CUDA nor Triton is touched and the import costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastfid.api import fid, stats
    from fastfid.distance import FrechetResult, frechet, frechet_distance, frechet_many, frechet_moments
    from fastfid.evaluator import Evaluator
    from fastfid.extractors import Extractor, as_extractor, inception_extractor
    from fastfid.gaussian import FrechetReference
    from fastfid.grouped import GroupedMoments
    from fastfid.linalg.polar_factor import nuclear_norm, polar
    from fastfid.linalg.products import trace_sqrtm_product
    from fastfid.linalg.roots import sqrtm
    from fastfid.loss import frechet_loss
    from fastfid.moments import Moments
    from fastfid.protocols import PROTOCOLS, Protocol, protocol
    from fastfid.resample import RaggedImages, resize_normalize
    from fastfid.results import FIDResult

_PUBLIC = {
    "Evaluator": "fastfid.evaluator",
    "Extractor": "fastfid.extractors",
    "as_extractor": "fastfid.extractors",
    "inception_extractor": "fastfid.extractors",
    "FrechetReference": "fastfid.gaussian",
    "FrechetResult": "fastfid.distance",
    "GroupedMoments": "fastfid.grouped",
    "Moments": "fastfid.moments",
    "frechet": "fastfid.distance",
    "frechet_distance": "fastfid.distance",
    "frechet_loss": "fastfid.loss",
    "frechet_many": "fastfid.distance",
    "frechet_moments": "fastfid.distance",
    "nuclear_norm": "fastfid.linalg.polar_factor",
    "polar": "fastfid.linalg.polar_factor",
    "sqrtm": "fastfid.linalg.roots",
    "trace_sqrtm_product": "fastfid.linalg.products",
    "FIDResult": "fastfid.results",
    "PROTOCOLS": "fastfid.protocols",
    "Protocol": "fastfid.protocols",
    "fid": "fastfid.api",
    "protocol": "fastfid.protocols",
    "stats": "fastfid.api",
    "RaggedImages": "fastfid.resample",
    "resize_normalize": "fastfid.resample",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'fastfid' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
