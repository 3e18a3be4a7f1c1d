"""What kinds of device can: where float64 is to be had, and where it is fast."""

from __future__ import annotations

import torch


def float64_device(device: torch.device) -> torch.device:
    """The device itself where it has float64, else the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def has_fast_float64(device: torch.device) -> bool:
    """Whether float64 products run at the speed of tensor cores, or on a CPU."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0))
