"""What the spectrum of one set of features says of its diversity: the Vendi score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastfid.metrics.features import feature_set
from fastfid.metrics.result import Result

_ROWS = 4096
"""Rows that are in float64 at a time where the Gram matrix of columns is the smaller."""


def vendi(features: object) -> Result:
    """The Vendi score of a linear kernel: the effective number of different samples.

        VS = exp(−Σ λ ln λ),   λ the eigenvalues of K / n,   Kᵢⱼ = cos(xᵢ, xⱼ);   1 (all alike) ≤ VS ≤ min(n, d)

    Args:
        features: [n, d], NumPy or torch, 16, 32 or 64-bit floats, any device.

    Returns:
        Result "vendi"; ``extra`` has largest, the largest λ, and n.

    Raises:
        TypeError: not features.
        ValueError: NaN or infinity, an empty set, a row of zeros, which has no direction (vendi-score takes it for a
            sample that is not even like itself).

    Numerics:
        The smaller of the Gram matrices [n, n] and [d, d], whose eigenvalues above 0 are the same, in float64; those
        below 0 by rounding add nothing. Within 1e-10 of the singular values of the rows, relative
        (tests/test_metrics_spectral.py::test_vendi_is_the_formula).

    Source: Friedman & Dieng 2023, arXiv:2210.02410; package vendi-score 0.0.3, score_X and score_dual with q = 1.
    """
    x = feature_set(features, "features")
    longest = x.abs().amax(dim=1)
    if not bool(longest.all()):
        row = int((longest == 0).nonzero()[0])
        raise ValueError(f"features: row {row} is zero and has no direction; accepted: rows that are not")
    shares = torch.linalg.eigvalsh(_gram(x, longest)) / len(x)
    value = math.exp(float(torch.special.entr(shares[shares > 0]).sum()))
    extra = {"largest": float(shares[-1]), "n": len(x)}
    return Result(value, "vendi", display_name="Vendi score", convention="vendi-score", extra=extra)


def _gram(x: Tensor, longest: Tensor) -> Tensor:
    """X̂X̂ᵀ [n, n] or X̂ᵀX̂ [d, d] of rows of length one, whichever is smaller, in float64.

    Rows are divided by their largest entry first, so that no square over- or underflows.
    """
    n, d = x.shape
    made = torch.zeros(min(n, d), min(n, d), dtype=torch.float64, device=x.device)
    step = n if n <= d else _ROWS
    for at in range(0, n, step):
        rows = x[at : at + step].to(torch.float64)
        rows = rows / longest[at : at + len(rows), None].to(torch.float64)
        rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        made = rows @ rows.T if n <= d else made.addmm_(rows.T, rows)
    return made
