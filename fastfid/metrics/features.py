"""Features as every metric takes them: checked once, finite, both sets on one device."""

from __future__ import annotations

import torch

from fastfid.moments.inputs import CLEAN, feature_matrix, first_bad_row
from fastfid.runtime.checks import whole_number
from fastfid.runtime.device import float64_device

SEEDS = 2**32 - 1
"""Largest seed of numpy.random.RandomState."""


def feature_set(features: object, argument: str, *, least: int = 1) -> torch.Tensor:
    """The features as a tensor [n ≥ least, d] of their own dtype, all finite, on a device that has float64.

    Raises:
        TypeError: not an array or tensor of 16, 32 or 64-bit floats.
        ValueError: not two-dimensional, fewer than ``least`` rows, NaN or infinity (the row is named).
    """
    x = feature_matrix(features, argument)
    if len(x) < least:
        raise ValueError(f"{argument}: {len(x)} rows; accepted: at least {least}")
    row = int(first_bad_row(x))
    if row < CLEAN:
        raise ValueError(f"{argument}: row {row} has NaN or infinity; accepted: finite features")
    return x.to(float64_device(x.device))


def feature_pair(ref: object, gen: object, *, least: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sets [n, d] and [m, d], each as ``feature_set`` gives it; gen on the device of ref."""
    x, y = feature_set(ref, "ref", least=least), feature_set(gen, "gen", least=least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"gen: {y.shape[1]} features; accepted: {x.shape[1]}, as ref has")
    return x, y.to(x.device)


def seed_number(seed: object) -> int:
    """A seed that NumPy's and torch's generators both take."""
    return whole_number("seed", seed, least=0, most=SEEDS)
