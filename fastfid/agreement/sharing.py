"""What the processes of a run are to each other: do they divide one set, or does each have its own?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import PIL

from fastfid.agreement.claims import agree_on_sets, alike
from fastfid.agreement.loaders import repeated_by_sampler, require_whole
from fastfid.agreement.watch import OwnItems, SharedItems, StreamWatch, Watch
from fastfid.distributed import World
from fastfid.moments import Moments
from fastfid.runtime.version import VERSION
from fastfid.sources import BatchesSource, Shard, Source

_FROM_PYTHON = ("array", "dataset", "batches")


class Sharing:
    """The agreement of a run's ranks on what they were given.

    Args:
        world: the ranks.
        own: arrays, tensors, Datasets, DataLoaders and iterables are each rank's own.
    """

    def __init__(self, world: World, own: bool) -> None:
        self.world, self.own = world, own and world.size > 1

    def is_own(self, what: Source | Moments) -> bool:
        """Whether each rank has a set of its own here."""
        return self.own and isinstance(what, Source) and what.kind in _FROM_PYTHON

    def understand(self, role: str, source: Source) -> str | None:
        """What a DataLoader repeats or leaves out, as a sentence; ValueError where it can't be divided (again)."""
        if self.world.size == 1 or not isinstance(source, BatchesSource):
            return None
        if self.own:
            told = repeated_by_sampler(source.items)
            return told and f"{role}: {told}"
        require_whole(role, source.items)
        return None

    def agree(
        self,
        given: Sequence[tuple[str, str, Source | Moments]],
        settings: Mapping[str, object],
        whole: Mapping[str, object],
    ) -> None:
        """Compare arguments (role, description, what) and settings, before the work.

        Args:
            given: the arguments.
            settings: by name, as errors call them.
            whole: settings that have no meaning for sets that each rank has for itself; all must be false then.

        Raises:
            ValueError: ranks differ; on every rank.
        """
        if self.world.size == 1:
            return
        facts = {
            "arguments": [role for role, _, _ in given],
            **settings,
            "distributed": "own" if self.own else "shared",
            "version of fastfid": VERSION,
            "version of Pillow": PIL.__version__,
        }
        alike(self.world, "settings", facts, "Start them with the same command, in the same environment.")
        owners = [self.is_own(what) for _, _, what in given]
        for name, value in whole.items():
            if value and any(owners):
                raise ValueError(f"distributed='own': {name} is not defined over sets that each process has for itself")
        agree_on_sets(self.world, [(*one, owner) for one, owner in zip(given, owners, strict=True)])

    def described(self, source: Source, description: str) -> str:
        """A set in the same words on every rank."""
        if not self.is_own(source):
            return description
        told = list(dict.fromkeys(self.world.gather("descriptions", description)))
        return "; ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")

    def watch(
        self, who: str, source: Source, *, limit: int | None, seed: int, block: int, skip_bad: bool, start: int
    ) -> Watch | None:
        """What sees to it, while a set is read, that all ranks have the same, or each its own.

        Args:
            who: role and description, for errors.
            source, limit, seed, block, skip_bad: as the set is read.
            start: how many of this rank's images were read before.
        """
        if isinstance(source, BatchesSource):
            source.watch = None  # one of an earlier run
        if self.world.size == 1:
            return None
        if self.is_own(source):
            return OwnItems(self.world, who)
        if isinstance(source, BatchesSource):
            source.watch = watch = StreamWatch(self.world, who)
            return watch
        size = self.world.size
        ranks = (self.world.index, (self.world.index + 1) % size)
        shares = [source.order(limit=limit, seed=seed, block=block, shard=Shard(rank, size)) for rank in ranks]
        return SharedItems(self.world, source, who, (shares[0], shares[1]), start, skip_bad)
