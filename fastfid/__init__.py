"""fastfid: exact and fast Fréchet Inception Distance.

``import fastfid`` loads nothing but this file: public names are resolved when they are first used (PEP 562), so that
neither CUDA nor Triton is touched and the import costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastfid.runtime.version import VERSION as __version__

if TYPE_CHECKING:
    from fastfid.api import evaluate, fid, stats
    from fastfid.distance.frechet import frechet, frechet_distance, frechet_many, frechet_moments
    from fastfid.distance.gaussian import FrechetReference
    from fastfid.distance.loss import frechet_loss
    from fastfid.distance.result import FrechetResult
    from fastfid.evaluation.report import Report
    from fastfid.evaluation.results import FIDResult
    from fastfid.evaluator import Evaluator
    from fastfid.extractors import Extractor, as_extractor, inception_extractor
    from fastfid.linalg.polar_factor import nuclear_norm, polar
    from fastfid.linalg.products import trace_sqrtm_product
    from fastfid.linalg.roots import sqrtm
    from fastfid.moments import Moments
    from fastfid.moments.grouped import GroupedMoments
    from fastfid.protocols import PROTOCOLS, Protocol, protocol
    from fastfid.resample import RaggedImages, resize_normalize

_PUBLIC = {
    "Evaluator": "fastfid.evaluator",
    "Extractor": "fastfid.extractors",
    "as_extractor": "fastfid.extractors",
    "inception_extractor": "fastfid.extractors",
    "FrechetReference": "fastfid.distance.gaussian",
    "FrechetResult": "fastfid.distance.result",
    "GroupedMoments": "fastfid.moments.grouped",
    "Moments": "fastfid.moments",
    "frechet": "fastfid.distance.frechet",
    "frechet_distance": "fastfid.distance.frechet",
    "frechet_loss": "fastfid.distance.loss",
    "frechet_many": "fastfid.distance.frechet",
    "frechet_moments": "fastfid.distance.frechet",
    "nuclear_norm": "fastfid.linalg.polar_factor",
    "polar": "fastfid.linalg.polar_factor",
    "sqrtm": "fastfid.linalg.roots",
    "trace_sqrtm_product": "fastfid.linalg.products",
    "FIDResult": "fastfid.evaluation.results",
    "Report": "fastfid.evaluation.report",
    "PROTOCOLS": "fastfid.protocols",
    "Protocol": "fastfid.protocols",
    "evaluate": "fastfid.api",
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
