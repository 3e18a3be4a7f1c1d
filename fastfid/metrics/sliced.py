"""The sliced Wasserstein distance between two sets of features: MIND."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastfid.metrics.features import feature_pair, seed_number
from fastfid.metrics.result import Result
from fastfid.runtime.arithmetic import stated
from fastfid.runtime.checks import LONGEST, whole_number

SCALE = 3.0
"""MIND is this times the dimension times the mean over directions (arXiv:2605.06797; alpha = 3 d)."""
_SHORTEST = 1e-12
"""Length below which torch-fidelity does not normalise a direction."""
_ENTRIES = 2**24
"""Most projections of one set in memory at once."""
_ROWS = 4096
"""Rows that are in float64 at a time."""


def mind(ref: object, gen: object, projections: int = 1000, seed: int = 2020) -> Result:
    """The Monge Inception distance: the squared 2-Wasserstein distance along random lines, times 3 d.

        MIND = 3 d · mean over directions u, |u| = 1, of  mean over j of (sort(X u)ⱼ − sort(Y u)ⱼ)²

    Args:
        ref, gen: features [n, d] and [m, d], NumPy or torch, 16, 32 or 64-bit floats, any device. Of the larger set
            min(n, m) rows are drawn, as torch-fidelity does.
        projections: number of directions.
        seed: of rows and directions, in this order from one generator; 2020 is torch-fidelity's.

    Returns:
        Result "mind"; ``extra`` has projections, samples, and projections_se: the standard error that the choice of
        directions alone leaves (None for one direction).

    Raises:
        TypeError: not features, or a count that is no whole number.
        ValueError: NaN or infinity, an empty set, dimensions that differ, projections below 1.

    Numerics:
        Directions are torch-fidelity's float32 ones; projections, sorting and sums in float64: within 1e-12 of the
        formula (tests/test_metrics_spectral.py::test_mind_is_the_formula).

    Source: Berthet et al., arXiv:2605.06797; toshas/torch-fidelity, torch_fidelity/metric_mind.py.
    """
    count, seed = whole_number("projections", projections, least=1, most=LONGEST), seed_number(seed)
    x, y = feature_pair(ref, gen)
    generator, n, notes = torch.Generator().manual_seed(seed), min(len(x), len(y)), []
    sides = []
    for rows, name in ((x, "ref"), (y, "gen")):
        if len(rows) > n:
            notes.append(f"{n} of the {len(rows)} rows of {name} were drawn, as many as the other set has")
            rows = rows[torch.randperm(len(rows), generator=generator)[:n].to(rows.device)]
        sides.append(rows)
    directions = torch.randn(count, x.shape[1], generator=generator)
    directions = (directions / directions.norm(dim=1, keepdim=True).clamp_min(_SHORTEST)).to(x.device, torch.float64)
    with torch.no_grad(), stated(x.device):
        parts = torch.split(directions, max(_ENTRIES // n, 1))
        squares = torch.cat([(_sorted(sides[0], u) - _sorted(sides[1], u)).square_().mean(dim=0) for u in parts])
    squares *= SCALE * x.shape[1]
    value, se = float(squares.mean()), float(squares.std()) / math.sqrt(count) if count > 1 else None
    if not math.isfinite(value):
        raise ValueError("ref, gen: so large that the distance overflows float64; scale them down")
    extra = {"projections": count, "samples": n, "projections_se": se}
    return Result(value, "mind", display_name="MIND", convention="torch-fidelity", extra=extra, notes=tuple(notes))


def _sorted(rows: Tensor, directions: Tensor) -> Tensor:
    """Projections [n, directions], each column ascending."""
    made = torch.cat([rows[at : at + _ROWS].to(torch.float64) @ directions.T for at in range(0, len(rows), _ROWS)])
    return made.sort(dim=0).values
