"""Every metric as a function of features: ``fastfid.metrics.NAME(ref, gen, …)``, resolved when it is first used.

Functions take arrays or tensors [n, d] of 16, 32 or 64-bit floats, on any device (``Moments`` where moments suffice),
and give a ``Result`` or a dict of them by name. They know nothing of images, files, networks, ranks or progress.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastfid.metrics.gaussian_distance import fid, mifid
    from fastfid.metrics.inception_scores import inception_score
    from fastfid.metrics.kernel_mmd import kid, mmd
    from fastfid.metrics.manifold import (
        authenticity,
        nearest_training,
        prdc,
        precision_recall,
        realism,
        realism_scores,
    )
    from fastfid.metrics.result import Result
    from fastfid.metrics.sliced import mind
    from fastfid.metrics.spectral import vendi

_PUBLIC = {
    "authenticity": "fastfid.metrics.manifold",
    "nearest_training": "fastfid.metrics.manifold",
    "prdc": "fastfid.metrics.manifold",
    "precision_recall": "fastfid.metrics.manifold",
    "realism": "fastfid.metrics.manifold",
    "realism_scores": "fastfid.metrics.manifold",
    "Result": "fastfid.metrics.result",
    "fid": "fastfid.metrics.gaussian_distance",
    "inception_score": "fastfid.metrics.inception_scores",
    "kid": "fastfid.metrics.kernel_mmd",
    "mifid": "fastfid.metrics.gaussian_distance",
    "mind": "fastfid.metrics.sliced",
    "mmd": "fastfid.metrics.kernel_mmd",
    "vendi": "fastfid.metrics.spectral",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'fastfid.metrics' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
