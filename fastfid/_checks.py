"""Argument checks that several rooms share; each message names the argument, what came and what is accepted."""

from __future__ import annotations

import operator
from typing import Any


def whole_number(name: str, value: Any, *, least: int) -> int:
    """``value`` as an int, or an error that says what is accepted."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__} {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
