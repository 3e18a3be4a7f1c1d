"""Argument checks that several rooms share; each message names the argument, what came and what is accepted."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

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
