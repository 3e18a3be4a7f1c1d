"""Means and scatter matrices of many groups of features at once: classes, views, subsets.

The groups share one accumulator [G, d, d] and one batch may hold rows of any of them, in any order: on a GPU all groups
are updated in one launch (``fastfid.kernels.scatter``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastfid.moments import Moments
from fastfid.moments.inputs import CLEAN, feature_matrix, first_bad_row
from fastfid.moments.segments import Segments
from fastfid.moments.update import accumulate, combine
from fastfid.runtime.arithmetic import ordinary
from fastfid.runtime.checks import LONGEST, a_device, dense, plain_array, whole_number
from fastfid.runtime.device import float64_device


class GroupedMoments:
    """Moments of G groups of feature vectors.

    For each group on its own what ``fastfid.Moments`` is for one set. The samples are not kept, so distances between
    groups of n ≤ d samples go by the covariance, not by the low-rank route. Memory: G d² float64 (G = 20 with
    d = 2048: 0.67 GB).

    Args:
        groups: number of groups G, at least 1.
        dim: number of features d; None takes it from the first batch.
        device: where the accumulators live; None means the device of the first batch, or the CPU where that device has
            no float64 (MPS).

    Numerics:
        Each group within 1e-13 of two passes in float64, in the Frobenius norm
        (tests/test_moments_grouped.py::test_against_two_passes).

    Source: Chan, Golub & LeVeque, doi:10.1080/00031305.1983.10483115.
    """

    def __init__(self, groups: int, dim: int | None = None, *, device: torch.device | str | None = None) -> None:
        self.groups = whole_number("groups", groups, least=1, most=LONGEST)
        self._dim = None if dim is None else whole_number("dim", dim, least=1, most=LONGEST)
        self._device = None if device is None else float64_device(a_device("device", device))
        with ordinary():
            self._n = torch.zeros(self.groups, dtype=torch.int64, device=self._device or "cpu")
        self._sums: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def dim(self) -> int | None:
        """Number of features d; None before the first batch."""
        return self._dim

    @property
    def n(self) -> torch.Tensor:
        """Samples of each group, int64 [G], a copy."""
        return self._n.clone()

    def update(self, features: object, group: object) -> None:
        """Add a batch of feature vectors.

        Args:
            features: [b, d] NumPy array or tensor, float16, bfloat16, float32 or float64, any device; b may be 0.
            group: [b] NumPy array or tensor of integers in [0, G), any device: the group of each row.

        Raises:
            TypeError: features that are not floating-point, groups that are not integers.
            ValueError: shapes that don't fit, a group outside [0, G), NaN or infinity (the row is named); nothing was
                added then.
        """
        x = feature_matrix(features)
        b, d = x.shape
        if self._dim is not None and d != self._dim:
            raise ValueError(f"features: {d} features; these GroupedMoments have {self._dim}")
        ids = _integers(group)
        if tuple(ids.shape) != (b,):
            raise ValueError(f"group: shape {list(ids.shape)}; accepted: [{b}], one group for each row of features")
        if b:
            self._require_groups(ids)
            row = int(first_bad_row(x))
            if row < CLEAN:
                raise ValueError(f"features: row {row} of this batch has NaN or infinity")
        mean, scatter = self._accumulators(d, x.device)
        if b == 0:
            return
        segments = Segments.of(ids.to(mean.device, torch.int64), self.groups)
        accumulate(x.to(mean.device), self._n, mean, scatter, segments)
        self._n += segments.counts

    def moments(self, group: int) -> Moments:
        """The Moments of one group, a copy; empty ones where no sample came.

        Raises:
            TypeError: not a whole number.
            IndexError: no such group.
        """
        index = whole_number("group", group, least=0)
        if index >= self.groups:
            raise IndexError(f"group: {index}; accepted: 0 to {self.groups - 1}")
        n = int(self._n[index])
        held = (None, None) if self._sums is None or n == 0 else (self._sums[0][index], self._sums[1][index])
        state: dict[str, Any] = {"n": n, "dim": self._dim, "mean": held[0], "scatter": held[1], "rows": None}
        state |= {"cov": None, "seen": True, "keep_rows": False, "metadata": {}}
        return Moments.from_state(state, device=self._device)

    def merge(self, other: GroupedMoments) -> None:
        """Add the samples behind another ``GroupedMoments``, group by group; the other one is unchanged.

        Raises:
            TypeError: not a GroupedMoments.
            ValueError: the numbers of groups or of features differ.
        """
        if not isinstance(other, GroupedMoments):
            raise TypeError(f"other: {type(other).__name__}; accepted: GroupedMoments")
        if other.groups != self.groups:
            raise ValueError(f"other: {other.groups} groups; accepted: {self.groups}, as these GroupedMoments have")
        if other._sums is None:
            return
        d = other._sums[0].shape[1]
        if self._dim is not None and d != self._dim:
            raise ValueError(f"other: {d} features; these GroupedMoments have {self._dim}")
        mean, scatter = self._accumulators(d, other._sums[0].device)
        for group, (n, b) in enumerate(zip(self._n.tolist(), other._n.tolist(), strict=True)):
            if b:
                combine(n, mean[group], scatter[group], b, other._sums[0][group], other._sums[1][group])
        self._n += other._n.to(mean.device)

    def _require_groups(self, ids: torch.Tensor) -> None:
        outside = (ids < 0) | (ids >= self.groups)
        if bool(outside.any()):
            named = sorted(set(ids[outside].tolist()))
            listed = ", ".join(map(str, named[:10])) + (", …" if len(named) > 10 else "")
            row = int(outside.nonzero()[0, 0])
            raise ValueError(f"group: {listed} (first at row {row}); accepted: 0 to {self.groups - 1}")

    def _accumulators(self, d: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean [G, d], scatter [G, d, d], its lower triangle); takes d and the device from the first batch."""
        if self._sums is None:
            self._dim, self._device = d, self._device or float64_device(device)
            with ordinary():
                self._n = self._n.to(self._device)
                self._sums = (
                    torch.zeros(self.groups, d, dtype=torch.float64, device=self._device),
                    torch.zeros(self.groups, d, d, dtype=torch.float64, device=self._device),
                )
        return self._sums

    def __repr__(self) -> str:
        return f"GroupedMoments(groups={self.groups}, dim={self._dim}, n={int(self._n.sum())})"


def _integers(group: object) -> torch.Tensor:
    """Group ids as an integer tensor on their own device."""
    if isinstance(group, np.ndarray) and group.dtype.kind in "iu":
        return torch.from_numpy(plain_array("group", group).astype(np.int64))
    if isinstance(group, torch.Tensor) and not (
        group.is_floating_point() or group.is_complex() or group.dtype == torch.bool
    ):
        return dense("group", group).to(torch.int64)
    kind = getattr(group, "dtype", type(group).__name__)
    raise TypeError(f"group: {kind}; accepted: NumPy array or tensor of integers, [b]")
