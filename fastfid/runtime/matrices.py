"""Means, covariances and matrices as they come from outside, checked once and turned into float64 tensors.

Every message names the argument, says what came and what is accepted. No input is modified; what is returned may share
memory with it and is only read.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from fastfid.runtime.checks import dense, plain_array, shared_tensor
from fastfid.runtime.device import float64_device

EPS = float(torch.finfo(torch.float64).eps)

_ASYMMETRY = 1e-6
"""Largest |Σ − Σᵀ| / max|Σ| that is taken for rounding: a few float32 ones, for matrices that passed through it."""


class Covariance(NamedTuple):
    """A checked covariance: float64 [d, d], exactly symmetric, and what had to be done to it."""

    matrix: torch.Tensor
    note: str | None


def real_tensor(value: Any, argument: str) -> torch.Tensor:
    """Anything array-like and real as a float64 tensor (on the CPU where its device has no float64), all finite."""
    if isinstance(value, torch.Tensor):
        tensor = dense(argument, value)
        if tensor.is_complex():
            raise TypeError(f"{argument}: dtype {tensor.dtype}; accepted: real numbers")
        tensor = tensor.to(float64_device(tensor.device)).to(torch.float64)
    else:
        array = plain_array(argument, value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{argument}: {type(value).__name__} of dtype {array.dtype}; accepted: real numbers")
        array = np.ascontiguousarray(array, dtype=np.float64).reshape(array.shape)
        tensor = shared_tensor(array)
    if math.isfinite(float(tensor.sum())):  # one pass; a sum that overflows only costs the closer look
        return tensor
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        bad = tuple(int(i) for i in (~finite).nonzero()[0])
        raise ValueError(f"{argument}: NaN or infinity at index {bad} of shape {list(tensor.shape)}; accepted: finite")
    return tensor


def covariance(value: Any, argument: str, d: int | None = None) -> Covariance:
    """A covariance matrix [d, d], symmetric to rounding; returns it exactly symmetric."""
    matrix = real_tensor(value, argument)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"{argument}: shape {list(matrix.shape)}; accepted: [d, d] with d ≥ 1 ([1, 1] for d = 1)")
    if d is not None and matrix.shape[0] != d:
        raise ValueError(f"{argument}: shape {list(matrix.shape)}; accepted: [{d}, {d}], as the other covariance has")
    return symmetric(matrix, argument)


def symmetric(matrix: torch.Tensor, argument: str) -> Covariance:
    """The symmetric part of [..., d, d], refused where it isn't the whole but for rounding."""
    mirrored = matrix.mT
    if torch.equal(matrix, mirrored):
        return Covariance(matrix, None)
    gap = float((matrix - mirrored).abs().max())
    scale = float(matrix.abs().max())
    if gap > _ASYMMETRY * scale:
        raise ValueError(
            f"{argument}: not symmetric: |Σ − Σᵀ| reaches {gap:.3e} where max|Σ| is {scale:.3e}; "
            f"accepted: up to {_ASYMMETRY:g} of it, as rounding leaves"
        )
    note = None
    if gap > matrix.shape[-1] * EPS * scale:
        note = f"{argument} was symmetrised: |Σ − Σᵀ| reached {gap / scale:.1e} of max|Σ|"
    return Covariance(matrix / 2 + mirrored / 2, note)


def mean_vector(value: Any, argument: str, d: int) -> torch.Tensor:
    """A mean [d]; scalars are refused, since they hide features that were flattened."""
    vector = real_tensor(value, argument)
    if vector.ndim != 1:
        raise ValueError(
            f"{argument}: shape {list(vector.shape)}; accepted: [d], one entry per feature ([1] for d = 1)"
        )
    if vector.shape[0] != d:
        raise ValueError(f"{argument}: {vector.shape[0]} entries; accepted: {d}, as its covariance is [{d}, {d}]")
    return vector
