"""The products of the polar iteration by torch, on any device that torch multiplies on."""

from __future__ import annotations

import torch

from fastfid.linalg.iteration import Products


def why_not(device_type: str) -> str | None:
    """None: torch multiplies everywhere."""
    del device_type
    return None


def products() -> Products:
    """The engine's table."""
    return Products(_gram, _quadratic, _multiply)


def _gram(x: torch.Tensor) -> torch.Tensor:
    return x.mT @ x


def _quadratic(a: torch.Tensor, constant: float, linear: float, square: float) -> torch.Tensor:
    out = torch.baddbmm(a, a, a, beta=linear, alpha=square)
    out.diagonal(dim1=-2, dim2=-1).add_(constant)
    return out


def _multiply(x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    return x @ r
