"""Which implementation of an operation runs.

One table, resolved lazily: ``{operation: {backend: Backend(function, available)}}``. The choice is, in this order, the
caller's ``backend`` argument, the variable ``FASTFID_BACKEND_<OPERATION>``, the first backend in the table's order that
can run on the device. A choice made by name is never replaced by another, and a kernel that fails raises: it is not
tried elsewhere. torch comes before Triton until a measurement on a GPU says otherwise; nobody is asked who comes after
the first that can, for Triton's answer takes seconds (``fastfid.kernels.probe``).
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
        "cuda": Backend("fastfid.resample._engines:run_cuda", "fastfid.runtime.native:why_no_cuda"),
        "cpp": Backend("fastfid.resample._engines:run_cpp", "fastfid.runtime.native:why_no_cpp"),
        "reference": Backend("fastfid.reference.resample:run", "fastfid.reference.resample:why_not"),
    },
    "scatter": {
        "torch": Backend("fastfid.moments.engine_torch:accumulate", "fastfid.moments.engine_torch:why_not"),
        "triton": Backend("fastfid.moments.engine_triton:accumulate", "fastfid.moments.engine_triton:why_not"),
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
    wanted = (os.environ.get(variable) or "auto") if asked is None else asked
    table = BACKENDS[operation]
    if not isinstance(wanted, str) or wanted not in {"auto", *table}:
        origin = variable if asked is None else "backend"
        raise ValueError(f"{origin}={wanted!r} is not a backend of {operation}; accepted: auto, {', '.join(table)}")
    if wanted == "auto":
        usable = next((name for name, entry in table.items() if _load(entry.available)(device_type) is None), None)
        if usable is None:
            listed = "; ".join(f"{name}: {reason}" for name, reason in report(operation, device_type).items())
            raise BackendUnavailableError(f"no backend can run {operation} on {device_type}. {listed}")
        return usable
    reason = _load(table[wanted].available)(device_type)
    if reason is not None:
        others = [name for name, why in report(operation, device_type).items() if why is None]
        raise BackendUnavailableError(
            f"backend {wanted!r} cannot run {operation} on {device_type}: {reason} "
            f"Available here: {', '.join(others) or 'none'}."
        )
    return wanted


def function_for(operation: str, device_type: str, asked: str | None = None) -> Callable[..., Any]:
    """The function of the backend that ``backend_for`` names."""
    return _load(BACKENDS[operation][backend_for(operation, device_type, asked)].function)
