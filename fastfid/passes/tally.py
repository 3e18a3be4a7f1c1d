"""What one pass over an image set has gathered so far: moments, what was skipped, where it stands."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch

from fastfid.errors import BadImageError
from fastfid.moments import Moments
from fastfid.moments.inputs import CLEAN, first_bad_row


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
        """One batch more; where that raises, nothing of it was taken.

        Nothing waits for a GPU: a feature that is not finite is reported when moments are read.
        """
        if batch.rows is not None:
            self._push(batch.rows)
        self.skipped.extend(batch.bad)
        self.read += len(batch.names) + len(batch.bad)

    def with_all(self, batches: Iterator[FeatureBatch]) -> Tally:
        """This tally with all these batches; what ends them early leaves this one as it was, bit for bit."""
        first, second = next(batches, None), next(batches, None)
        taken = self if second is None else copy.deepcopy(self)  # a single batch is taken whole or not at all
        for batch in chain((one for one in (first, second) if one is not None), batches):
            taken.add(batch)
        return taken

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
        self._check(rows)  # now, not once the block is whole
        if self.rest is not None:
            rows = torch.cat([self.rest, rows])
        whole = len(rows) - len(rows) % self.block
        if whole:
            self._update(rows[:whole])
        self.rest = rows[whole:].clone()

    def _check(self, rows: torch.Tensor) -> None:
        """What ``Moments.update`` would refuse."""
        if not rows.is_cuda and len(rows) and int(first_bad_row(rows)) < CLEAN:
            raise ValueError(f"features: row {int(first_bad_row(rows))} of this batch has NaN or infinity")
        self.moments.update(rows[:0])

    def _update(self, rows: torch.Tensor) -> None:
        self.moments.update(rows, deferred=rows.is_cuda)
