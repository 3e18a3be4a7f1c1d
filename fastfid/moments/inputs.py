"""Feature matrices as they come from outside: their kind and shape, and which rows are not finite."""

from __future__ import annotations

import numpy as np
import torch

from fastfid.runtime.checks import dense, plain_array, shared_tensor

CLEAN = torch.iinfo(torch.int64).max
"""Where a search for bad samples stands that has found none."""


def feature_matrix(features: object, argument: str = "features") -> torch.Tensor:
    """The features as a floating-point tensor [b, d ≥ 1] on their own device; waits for nothing."""
    if isinstance(features, np.ndarray) and features.dtype.kind == "f" and features.dtype.itemsize <= 8:
        array = np.ascontiguousarray(plain_array(argument, features), dtype=features.dtype.newbyteorder("="))
        tensor = shared_tensor(array)
    elif isinstance(features, torch.Tensor) and features.dtype.is_floating_point and features.dtype.itemsize > 1:
        tensor = dense(argument, features)
    else:
        kind = getattr(features, "dtype", type(features).__name__)
        raise TypeError(f"{argument}: {kind}; accepted: NumPy array or tensor of 16, 32 or 64-bit floats, [b, d]")
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{argument}: shape {list(tensor.shape)}; accepted: [b, d], one row per sample, d ≥ 1")
    return tensor


def first_bad_row(x: torch.Tensor, start: int = 0) -> torch.Tensor:
    """int64 []: start + the first row of x [b ≥ 1, d] with NaN or infinity, CLEAN without one; waits for nothing.

    No temporary of x's size: the extremes of a row are finite only if all of it is.
    """
    finite = torch.isfinite(x.amin(1)) & torch.isfinite(x.amax(1))  # aminmax along a dimension takes 7 times as long
    return torch.arange(start, start + len(x), dtype=torch.int64, device=x.device).masked_fill_(finite, CLEAN).amin()
