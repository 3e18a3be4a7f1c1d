"""A batch of rows added to running means and scatter matrices, by the engine of the device.

For each group g with n rows, mean m and scatter S so far, and b rows of mean m' in the batch, delta = m' − m (Chan,
Golub & LeVeque, doi:10.1080/00031305.1983.10483115):

    m ← m + delta · b / (n + b)
    S ← S + Σ (x − m')(x − m')ᵀ + delta deltaᵀ · n b / (n + b)

Every batch is shifted by its own mean, not by the running one, so no digits are lost where the rows come sorted; the
extra pass over the batch costs a hundredth of its products.
"""

from __future__ import annotations

import torch

from fastfid.moments.segments import Segments
from fastfid.runtime.arithmetic import ordinary
from fastfid.runtime.dispatch import function_for


def accumulate(
    x: torch.Tensor,
    n: int | torch.Tensor,
    mean: torch.Tensor,
    scatter: torch.Tensor,
    segments: Segments | None = None,
) -> None:
    """Add a batch to ``mean`` and ``scatter`` in place, without waiting for a GPU.

    Args:
        x: [b, d] float16, bfloat16, float32 or float64 on the device of the accumulators; any row stride.
        n: rows so far: an int without segments, else int64 [G].
        mean: float64 [G, d], zeros where n is 0.
        scatter: float64 [G, d, d] contiguous, of which the lower triangle is read and written.
        segments: the group of each row; None puts all of them into the only group.
    """
    if x.shape[0]:
        function_for("scatter", x.device.type)(x, n, mean, scatter, segments)


def combine(
    n: int, mean: torch.Tensor, scatter: torch.Tensor, b: int, other_mean: torch.Tensor, other_scatter: torch.Tensor
) -> None:
    """Add b ≥ 1 samples' mean [d] and scatter [d, d] (any device) to those of n, in place, lower triangles only."""
    delta = other_mean.to(mean.device) - mean
    scatter.add_(other_scatter.to(scatter.device)).addr_(delta, delta, alpha=n * (b / (n + b)))
    mean.add_(delta, alpha=b / (n + b))


_MIRRORED = 256
"""Rows mirrored at once: copies of 256 × d read along memory and take no second matrix."""


def mirrored(lower: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix whose lower triangle is given, [d, d]."""
    full = lower.clone()
    for start in range(0, len(full), _MIRRORED):
        end = start + _MIRRORED
        part = full[start:end, start:end].tril()
        full[start:end, start:end] = part + part.tril(-1).T
        full[start:end, end:] = full[end:, start:end].T
    return full


def in_range(made: torch.Tensor, extremes: torch.Tensor) -> torch.Tensor:
    """``made``, or ValueError where ``extremes`` (a mean, or a scatter matrix's diagonal) show that it overflowed.

    |S_ij| ≤ ½ (S_ii + S_jj), so that a finite diagonal means a finite matrix.
    """
    if not bool(torch.isfinite(extremes).all()):
        raise ValueError("features: so large that their sums overflow float64; scale them down")
    return made


def no_moments(d: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean [d], scatter [d, d]) of no rows, to add to."""
    with ordinary():
        made = torch.zeros(d + 1, d, dtype=torch.float64, device=device)
    return made[d], made[:d]


def moments_of(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean [d], scatter [d, d], its lower triangle) of rows [n, d]."""
    mean, scatter = no_moments(rows.shape[1], rows.device)
    accumulate(rows, 0, mean[None], scatter[None])
    return mean, scatter


def mean_of(rows: torch.Tensor) -> torch.Tensor:
    """Mean of float64 rows [n ≥ 1, d], summed relative to the first one."""
    return rows[0] + (rows - rows[0]).mean(dim=0)
