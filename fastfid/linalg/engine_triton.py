"""Whether the Triton products of the polar iteration can run; importing this file imports no Triton."""

from __future__ import annotations

from typing import Any

import torch

from fastfid.kernels import probe
from fastfid.runtime.device import has_fast_float64


def why_not(device_type: str) -> str | None:
    """None on an NVIDIA GPU for which this Triton compiles the kernels, else the reason."""
    missing = probe.why_no_triton(device_type)
    if missing is not None:
        return missing
    major, minor = torch.cuda.get_device_capability()
    return probe.why_not_compiled("polar_products", 10 * major + minor, has_fast_float64(torch.device("cuda")))


def products() -> Any:
    """The engine's table, as ``Products`` lists it."""
    from fastfid.kernels import symmetric

    return symmetric.products()
