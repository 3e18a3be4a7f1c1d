"""Which implementation of an operation runs.

One table, resolved lazily: ``{operation: {backend: Backend(function, available)}}``. The choice is, in this order, the
caller's ``backend`` argument, the variable ``FASTFID_BACKEND_<OPERATION>``, the first backend in the table's order that
can run on the device. A choice made by name is never replaced by another, and a kernel that fails raises: it is not
tried elsewhere.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from fastfid.errors import BackendUnavailableError


class Backend(NamedTuple):
    """One implementation: where its function is, and where the function that says why it can't run.

    ``available`` names a function ``(device_type: str) -> str | None`` that returns None where the backend can run on
    tensors of that device type ("cpu", "cuda", …), else the reason as a sentence.
    """

    function: str
    available: str


BACKENDS: dict[str, dict[str, Backend]] = {
    "resize_normalize": {
        "cuda": Backend("fastfid.resample._engines:run_cuda", "fastfid._native:why_no_cuda"),
        "cpp": Backend("fastfid.resample._engines:run_cpp", "fastfid._native:why_no_cpp"),
        "reference": Backend("fastfid.reference.resample:run", "fastfid.reference.resample:why_not"),
    },
    "scatter": {
        "triton": Backend("fastfid.scatter.engine_triton:accumulate", "fastfid.scatter.engine_triton:why_not"),
        "torch": Backend("fastfid.scatter.engine_torch:accumulate", "fastfid.scatter.engine_torch:why_not"),
    },
    "polar_products": {
        "torch": Backend("fastfid.linalg.engine_torch:products", "fastfid.linalg.engine_torch:why_not"),
        "triton": Backend("fastfid.linalg.engine_triton:products", "fastfid.linalg.engine_triton:why_not"),
    },
}


def _load(path: str) -> Callable[..., Any]:
    module, _, function = path.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def report(operation: str, device_type: str) -> dict[str, str | None]:
    """``{backend: None or why it can't run}`` on one kind of device, in order of preference."""
    return {name: _load(entry.available)(device_type) for name, entry in BACKENDS[operation].items()}


def backend_for(operation: str, device_type: str, asked: str | None = None) -> str:
    """The name of the backend that would run; raises BackendUnavailableError where the one asked for can't."""
    variable = f"FASTFID_BACKEND_{operation.upper()}"
    wanted = asked or os.environ.get(variable) or "auto"
    reasons = report(operation, device_type)
    usable = [name for name, reason in reasons.items() if reason is None]
    if wanted == "auto":
        if not usable:
            listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise BackendUnavailableError(f"no backend can run {operation} on {device_type}. {listed}")
        return usable[0]
    if wanted not in reasons:
        origin = "backend" if asked else variable
        raise ValueError(f"{origin}={wanted!r} is not a backend of {operation}; accepted: auto, {', '.join(reasons)}")
    if reasons[wanted] is not None:
        raise BackendUnavailableError(
            f"backend {wanted!r} cannot run {operation} on {device_type}: {reasons[wanted]} "
            f"Available here: {', '.join(usable) or 'none'}."
        )
    return wanted


def function_for(operation: str, device_type: str, asked: str | None = None) -> Callable[..., Any]:
    """The function of the backend that ``backend_for`` names."""
    return _load(BACKENDS[operation][backend_for(operation, device_type, asked)].function)
