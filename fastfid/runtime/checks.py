"""Argument checks that several rooms share; each message names the argument, what came and what is accepted."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

import numpy as np
import torch

from fastfid.errors import BackendUnavailableError

LONGEST = 2**31 - 1
"""Largest side of an image in pixels, and largest number of anything that the compiled code counts."""


def whole_number(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """``value`` as an int, or an error that says what is accepted."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__} {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}")
    return number


def real_number(name: str, value: Any) -> float:
    """``value`` as a float, not NaN, or an error that says what is accepted."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be within the range of float64, got an integer beyond it") from None
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return number


def a_tolerance(name: str, value: Any) -> float:
    """``value`` as a float of at least 0, infinity included, or an error that says what is accepted."""
    number = real_number(name, value)
    if number < 0.0:
        raise ValueError(f"{name} must be at least 0, got {value!r}")
    return number


def a_device(name: str, value: Any, *, with_values: bool = True) -> torch.device:
    """``value`` as a device that values can lie on: ValueError for no device, BackendUnavailableError for none here."""
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not a device; accepted: cpu, cuda, cuda:<index>") from None
    if with_values and device.type == "meta":
        raise ValueError(f"{name}={str(device)!r} holds no values; accepted: cpu, cuda, cuda:<index>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise BackendUnavailableError(
            f"{name}={str(device)!r}: this machine has {count} CUDA devices that torch can use"
        )
    return device


def dense(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without its gradient; TypeError where it is sparse, or on a device without values."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        kind = str(tensor.layout).removeprefix("torch.") if tensor.layout != torch.strided else "meta"
        raise TypeError(f"{name}: {kind} tensor; accepted: dense tensors with values")
    return tensor.detach()


def plain_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """``value`` as an array; TypeError where entries are masked, ValueError where it has no shape."""
    if np.ma.is_masked(value):
        raise TypeError(f"{name}: masked array with masked entries; fill or remove them first")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name}: {type(value).__name__} that is no array ({error}); accepted: real numbers"
        ) from error


def shared_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """An array's memory as a tensor, copied only where torch can't take it: read-only, or an axis runs backwards."""
    backwards = any(stride < 0 for stride in array.strides)
    return torch.from_numpy(array.copy() if backwards or not array.flags.writeable else array)
