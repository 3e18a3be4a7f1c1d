"""Rows of a batch sorted by the group they belong to, on the device that holds them."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Segments(NamedTuple):
    """Which rows belong to which group.

    Attributes:
        order: int64 [b], row numbers, those of group 0 first, each group's in their own order.
        group: int64 [b], the group of each row in that order.
        offsets: int64 [G + 1]; group g has the rows order[offsets[g] : offsets[g + 1]].
    """

    order: torch.Tensor
    group: torch.Tensor
    offsets: torch.Tensor

    @classmethod
    def of(cls, group: torch.Tensor, groups: int) -> Segments:
        """Segments of int64 ids [b] in [0, groups); waits for nothing."""
        ordered, order = torch.sort(group, stable=True)
        edges = torch.arange(groups + 1, device=group.device, dtype=ordered.dtype)
        return cls(order, ordered, torch.searchsorted(ordered, edges))

    @property
    def counts(self) -> torch.Tensor:
        """int64 [G], rows of each group."""
        return self.offsets.diff()
