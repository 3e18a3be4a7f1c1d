"""What one pass over an image set has gathered so far: features added up, what was skipped, where it stands."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import torch

from fastfid.errors import BadImageError
from fastfid.moments import Moments
from fastfid.moments.inputs import CLEAN, first_bad_row


class FeatureBatch(NamedTuple):
    """The features of one batch of images.

    Attributes:
        rows: [n, d] for each tap, on the network's device; None where no image of the batch could be read.
        names: the n images' names.
        bad: the errors of images that were left out.
    """

    rows: Mapping[str, torch.Tensor] | None
    names: tuple[str, ...]
    bad: tuple[BadImageError, ...]


class Gathered:
    """The features of one tap: their moments, and the rows themselves where somebody wants them.

    Args:
        block: 0, or the size of the blocks of which only whole ones count in the moments, unless the rest is all there
            ever was.
        keep: whether rows are kept.

    Attributes:
        moments: of the features so far, in float64.
        rest: rows that wait for a whole block, or None.
    """

    def __init__(self, block: int = 0, *, keep: bool = False) -> None:
        self.block = block
        self.moments = Moments()
        self.rest: torch.Tensor | None = None
        self._kept: list[torch.Tensor] | None = [] if keep else None

    def check(self, rows: torch.Tensor) -> None:
        """Raise ValueError where ``add`` would; on a GPU what is not finite shows later."""
        if not rows.is_cuda and len(rows) and int(first_bad_row(rows)) < CLEAN:
            raise ValueError(f"features: row {int(first_bad_row(rows))} of this batch has NaN or infinity")
        self.moments.update(rows[:0])

    def add(self, rows: torch.Tensor) -> None:
        """Checked rows [b, d] more."""
        self._push(rows)
        if self._kept is not None:
            self._kept.append(rows.clone())

    def copy(self) -> Gathered:
        """One that goes on by itself; rows, which nobody writes to, are shared."""
        made = copy.copy(self)
        made.moments = copy.deepcopy(self.moments)
        made._kept = None if self._kept is None else list(self._kept)
        return made

    @property
    def rows(self) -> torch.Tensor | None:
        """All rows [n, d] in the order they came, those of an incomplete block too; None where they are not kept."""
        if not self._kept:
            return None
        if len(self._kept) > 1:
            self._kept = [torch.cat(self._kept)]
        return self._kept[0]

    def keep(self, rows: torch.Tensor) -> None:
        """Rows that an earlier pass had gathered, in the place of those so far."""
        if self._kept is not None:
            self._kept = [rows]

    @property
    def dropped(self) -> int:
        """Images of an incomplete last block, which are in no moments."""
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
        if whole:
            self._update(rows[:whole])
        self.rest = rows[whole:].clone()

    def _update(self, rows: torch.Tensor) -> None:
        self.moments.update(rows, deferred=rows.is_cuda)


class Tally:
    """Adds up batches of features.

    Args:
        gathered: by tap.

    Attributes:
        gathered: the same.
        skipped: the images that could not be read and were left out.
        read: images that were read or skipped: where a resumed pass goes on.
        seconds: wall time so far; the caller adds to it.
    """

    def __init__(self, gathered: Mapping[str, Gathered]) -> None:
        self.gathered = gathered
        self.skipped: list[BadImageError] = []
        self.read = 0
        self.seconds = 0.0

    def add(self, batch: FeatureBatch) -> None:
        """One batch more; where that raises, nothing of it was taken."""
        if batch.rows is not None:
            for tap, one in self.gathered.items():
                one.check(batch.rows[tap])
            for tap, one in self.gathered.items():
                one.add(batch.rows[tap])
        self.skipped.extend(batch.bad)
        self.read += len(batch.names) + len(batch.bad)

    def with_all(self, batches: Iterator[FeatureBatch]) -> Tally:
        """This tally with all these batches; what ends them early leaves this one as it was, bit for bit."""
        first, second = next(batches, None), next(batches, None)
        taken = self if second is None else self.copy()  # a single batch is taken whole or not at all
        for batch in chain((one for one in (first, second) if one is not None), batches):
            taken.add(batch)
        return taken

    def copy(self) -> Tally:
        """One that goes on by itself."""
        made = copy.copy(self)
        made.gathered = {tap: one.copy() for tap, one in self.gathered.items()}
        made.skipped = list(self.skipped)
        return made

    @property
    def n(self) -> int:
        """Images that were read."""
        return self.read - len(self.skipped)

    @property
    def dropped(self) -> int:
        """Images of an incomplete last block, which are in no moments."""
        return max(one.dropped for one in self.gathered.values())

    def finish(self) -> None:
        """The set is at its end."""
        for one in self.gathered.values():
            one.finish()
