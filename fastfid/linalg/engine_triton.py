"""Whether the Triton products of the polar iteration can run; importing this file imports no Triton."""

from __future__ import annotations

import importlib.util
from typing import Any


def why_not(device_type: str) -> str | None:
    """None on CUDA with Triton installed, else the reason."""
    if device_type != "cuda":
        return f"its kernels run on NVIDIA GPUs; the tensors are on {device_type}."
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)."
    return None


def products() -> Any:
    """The engine's table, as ``Products`` lists it."""
    from fastfid.kernels import symmetric

    return symmetric.products()
