"""Moments by two passes in float64: what ``fastfid.moments`` must agree with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def two_pass(features: npt.ArrayLike) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(n, mean [d], scatter [d, d]) of features [n, d], n ≥ 1."""
    x = np.asarray(features, dtype=np.float64)
    mean = x[0] + (x - x[0]).mean(axis=0)
    centred = x - mean
    return x.shape[0], mean, centred.T @ centred
