"""What one pass over an image set has gathered so far: moments, what was skipped, where it stands."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastfid.errors import BadImageError
from fastfid.moments import Moments


class FeatureBatch(NamedTuple):
    """The features of one batch of images.

    Attributes:
        rows: [n, d] on the network's device; None where no image of the batch could be read.
        names: the n images' names.
        bad: the errors of images that were left out.
    """

    rows: torch.Tensor | None
    names: tuple[str, ...]
    bad: tuple[BadImageError, ...]


class Tally:
    """Adds up batches of features; a protocol that leaves out an incomplete last block has it left out.

    Args:
        block: 0, or the size of the blocks of which only whole ones count, unless the rest is all there ever was.

    Attributes:
        moments: of the features so far, in float64.
        skipped: the images that could not be read and were left out.
        read: images that were read or skipped: where a resumed pass goes on.
        seconds: wall time so far; the caller adds to it.
    """

    def __init__(self, block: int = 0) -> None:
        self.block = block
        self.moments = Moments()
        self.skipped: list[BadImageError] = []
        self.read = 0
        self.seconds = 0.0
        self.rest: torch.Tensor | None = None

    def add(self, batch: FeatureBatch) -> None:
        """One batch more. Nothing waits for a GPU: a feature that is not finite is reported when moments are read."""
        self.skipped.extend(batch.bad)
        self.read += len(batch.names) + len(batch.bad)
        if batch.rows is not None:
            self._push(batch.rows)

    @property
    def dropped(self) -> int:
        """Images of an incomplete last block, which are in no statistics."""
        return 0 if self.rest is None or self.moments.n == 0 else len(self.rest)

    def finish(self) -> None:
        """The set is at its end: a block that stayed incomplete counts only where there is nothing else."""
        if self.moments.n == 0 and self.rest is not None and len(self.rest):
            rest, self.rest = self.rest, None
            self._update(rest)

    def _push(self, rows: torch.Tensor) -> None:
        if self.block == 0:
            self._update(rows)
            return
        if self.rest is not None:
            rows = torch.cat([self.rest, rows])
        whole = len(rows) - len(rows) % self.block
        self.rest = rows[whole:].clone()
        if whole:
            self._update(rows[:whole])

    def _update(self, rows: torch.Tensor) -> None:
        self.moments.update(rows, deferred=rows.is_cuda)
