"""The processes that work on one result: joining them, their small exchanges, and failing together."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fastfid.distributed.launch import launcher_place
from fastfid.errors import BackendUnavailableError, RankError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.distributed_c10d import Store

_T = TypeVar("_T")

TIMEOUT_S = 1800.0
"""How far apart ranks may come to an exchange: the slowest share of a set may take this much longer than the others."""

_CHECK_EVERY_S = 1.0
_joins = itertools.count()
_stores: dict[tuple[str, str, int, int], Store] = {}


@dataclass
class World:
    """The processes that work on one result; made by ``joined``. Without arguments: this process alone.

    Attributes:
        index: which of them this is, from 0; also the number of its share of every set.
        size: how many there are.
        local_index: which of those on this machine this is.
    """

    index: int = 0
    size: int = 1
    local_index: int = 0
    _group: ProcessGroup | None = None
    _store: Store | None = None
    _over: bool = field(default=False, init=False)
    _checked: float = field(default=0.0, init=False)

    def gather(self, what: str, value: _T) -> list[_T]:
        """The values of all ranks, in their order. Every rank must call it, with the same ``what``.

        Args:
            what: a word for the message when ranks come to different exchanges.
            value: anything small that pickles; large tensors have ``merge_across``.

        Raises:
            RankError: another rank failed, died, came to another exchange, or did not come in time.
        """
        return self._exchange(what, None, value)

    def same(self, what: str, value: object) -> None:
        """ValueError on every rank unless all have an equal ``value``."""
        first, *others = self.gather(what, value)
        for rank, other in enumerate(others, start=1):
            if other != first:
                raise ValueError(f"{what}: rank 0 has {first!r}, rank {rank} has {other!r}; all ranks need the same")

    def once(self, what: str, make: Callable[[], _T]) -> _T:
        """What ``make()`` gives on rank 0, on every rank; it must pickle."""
        return self.gather(what, make() if self.index == 0 else None)[0]  # type: ignore[return-value]

    def check(self) -> None:
        """RankError if another rank has failed; cheap enough to call after every batch, and no exchange otherwise.

        Knows only where ``joined`` made the process group; inside a caller's own, failures show at the next exchange.
        """
        if self._store is None or self._over or time.monotonic() - self._checked < _CHECK_EVERY_S:
            return
        self._checked = time.monotonic()
        with self._translated():
            failed = self._store.check(["failed"])
        if failed:
            self._exchange("stopped", None, None)

    def tell(self, error: Exception) -> None:
        """Take part in the others' next exchange with this error, so that all fail; nothing where all know already."""
        if self.size == 1 or self._over:
            return
        with suppress(RankError):
            if self._store is not None:
                with self._translated():
                    self._store.set("failed", str(self.index))
            self._exchange("failed", f"{type(error).__name__}: {error}", None)

    def _exchange(self, what: str, error: str | None, value: Any) -> list[Any]:
        """One gather of (what, error, value); RankError unless all ranks came with the same ``what`` and no error."""
        if self.size == 1:
            return [value]
        if self._over:
            raise RankError(None, f"{what}: this group of ranks has failed before; join again")
        from torch.distributed import all_gather_object

        answers: list[Any] = [None] * self.size
        with self._translated():
            all_gather_object(answers, (what, error, value), group=self._group)
        for rank, (_, theirs, _) in enumerate(answers):
            if theirs is not None:
                self._over = True
                raise RankError(rank, theirs)
        for rank, (theirs, _, _) in enumerate(answers):
            if theirs != answers[0][0]:
                self._over = True
                raise RankError(None, f"out of step: rank 0 has come to {answers[0][0]!r}, rank {rank} to {theirs!r}")
        return [found for _, _, found in answers]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What gloo or the store raise when a process is gone, as RankError."""
        try:
            yield
        except RuntimeError as error:
            self._over = True
            raise RankError(
                None,
                f"rank {self.index} of {self.size} lost another rank, which died, or did not answer in time; look for "
                f"its own message ({str(error).splitlines()[0]})",
            ) from error


@contextmanager
def joined(distributed: bool = True, *, timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """The World of this process, for the length of a ``with`` block that ends on all ranks, well or badly, together.

    Inside a process group of the caller's, a gloo group beside it is made and destroyed, and theirs is not touched;
    all its ranks must come here. Under torchrun without one, it is made for the time of the block.

    Args:
        distributed: False gives a World of this process alone and leaves torch.distributed unused.
        timeout_s: seconds that a rank may keep the others waiting, at the start and at every exchange.

    Raises:
        ValueError: neither a process group nor torchrun's variables are there, or these are not numbers that fit.
        BackendUnavailableError: this torch has no gloo.
        RankError: another rank failed, died, or never came. Errors of this rank's own block pass through as they are.
    """
    if not distributed:
        yield World()
        return
    if timeout_s <= 0:
        raise ValueError(f"timeout_s: {timeout_s}; accepted: a positive number of seconds")
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        raise BackendUnavailableError(f"distributed: torch {torch.__version__} was built without gloo, which it needs")
    own = not dist.is_initialized()
    index, size = launcher_place() if own else (dist.get_rank(), dist.get_world_size())
    if size == 1:
        yield World()
        return
    world = World(index, size)
    with world._translated():
        world._group, world._store = _open_group(own, index, size, timedelta(seconds=timeout_s))
    try:
        hosts = world.gather("hosts", socket.gethostname())
        world.local_index = hosts[:index].count(hosts[index])
        with together(world):
            yield world
    finally:
        group, world._group, world._store, world._over = world._group, None, None, True
        dist.destroy_process_group(None if own else group)


@contextmanager
def together(world: World) -> Iterator[None]:
    """A block that ends on all ranks as it ends on each: with an error on one, no rank comes out of it without one.

    The failed rank raises its own error, the others RankError. KeyboardInterrupt and exits don't wait for the others.
    """
    try:
        yield
        world.gather("end", None)
    except Exception as error:
        world.tell(error)
        raise


@contextmanager
def first_on_node(world: World, what: str) -> Iterator[None]:
    """A block that one rank of each machine passes first, and the others after it: they find made what it made.

    Args:
        what: a word for what is made there ("weights"). To be used inside ``joined`` or ``together``, which carry a
            failure of the first rank to those that wait.
    """
    first = world.local_index == 0
    if not first:
        world.gather(what, None)
    yield
    if first:
        world.gather(what, None)


def _open_group(own: bool, index: int, size: int, timeout: timedelta) -> tuple[ProcessGroup | None, Store | None]:
    """Our gloo group: the default one and its store where there was none, else one beside the caller's."""
    from torch import distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    if not own:
        return dist.new_group(backend="gloo", timeout=timeout), None
    # The store outlives a group, and gloo must not find the addresses of the one before.
    store = PrefixStore(f"fastfid/{next(_joins)}", _launcher_store(index, size, timeout))
    dist.init_process_group("gloo", store=store, rank=index, world_size=size, timeout=timeout)
    return dist.group.WORLD, store


def _launcher_store(index: int, size: int, timeout: timedelta) -> Store:
    """The store where the launcher's processes meet, connected once: to connect again takes 5 s now and then."""
    from torch.distributed.rendezvous import rendezvous

    place = (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], index, size)
    if place not in _stores:
        _stores[place] = next(rendezvous("env://", timeout=timeout))[0]
    _stores[place].set_timeout(timeout)
    return _stores[place]
