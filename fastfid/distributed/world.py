"""The processes that work on one result: joining them, their small exchanges, and failing together."""

from __future__ import annotations

import ctypes
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fastfid.distributed import board
from fastfid.distributed.launch import beside, holder_of_store, inherited_hint, launcher_place, launcher_store
from fastfid.distributed.patience import ANNOUNCE_S, TIMEOUT_S, Patience, seconds
from fastfid.errors import BackendUnavailableError, RankError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work
    from torch.distributed.distributed_c10d import Store

_T = TypeVar("_T")

_PAUSE_S = (1e-4, 1e-2)  # between two looks at an exchange under way: the first, and the longest
_SOONER = 6  # a launcher starts all at once, and a command that only inherited its variables should hear of it
_GLOO_S = 60.0  # how much longer gloo waits than we do, so that the message is ours


@dataclass
class World:
    """The processes that work on one result; made by ``joined``. Without arguments: this process alone.

    Attributes:
        index: which of them this is, from 0; also the number of its share of every set.
        size: how many there are.
        local_index: which of those on this machine this is.
        timeout_s: seconds that a rank may keep the others waiting.
        announce_s: seconds after which those who wait say so on stderr.
    """

    index: int = 0
    size: int = 1
    local_index: int = 0
    timeout_s: float = TIMEOUT_S
    announce_s: float = ANNOUNCE_S
    _group: ProcessGroup | None = None
    _board: board.Board | None = None
    _over: bool = field(default=False, init=False)
    _step: int = field(default=0, init=False)
    _under_way: Work | None = field(default=None, init=False)

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
        """RankError if another rank has failed; waits for nothing, so that it may be called after every batch."""
        if self._over or self._board is None or self._board.ended is None:
            return
        self._refuse_ended()
        self._exchange("stopped", None, None)

    def tell(self, error: Exception) -> None:
        """Take part in the others' next exchange with this error, so that all fail; nothing where all know already."""
        if self.size == 1 or self._over:
            return
        with suppress(RankError):
            reason = f"{type(error).__name__}: {error}"
            if self._board is not None:
                self._board.end(reason, comes=True)
            self._exchange("failed", reason, None)

    def collective(self, what: str, begin: Callable[[], Work]) -> None:
        """One exchange of tensors over the group, from its beginning to its end.

        Args:
            what: a word for those who wait.
            begin: starts it, with ``async_op=True``.

        Raises:
            RankError: another rank died, failed for good, or did not come in time.
        """
        self._step += 1
        if self._board is not None:
            self._board.come_to(self._step, what)
        patience = Patience(
            what,
            (self.index, self.size),
            self.timeout_s,
            self.announce_s,
            self._missing,
            holder=holder_of_store() if self._board is not None else "",
            **self._signs(),
        )
        with self._translated():
            self._under_way = begin()
            pause, longest = _PAUSE_S
            while not self._under_way.is_completed():
                time.sleep(pause)
                pause = min(pause * 1.5, longest)
                self._refuse_ended()
                patience.tick()
            work, self._under_way = self._under_way, None
            work.wait()

    def _refuse_ended(self) -> None:
        """RankError where a rank is over and will come to no exchange."""
        ended = None if self._board is None else self._board.ended
        if ended is not None and not ended[2]:
            self._over = True
            raise RankError(ended[0], ended[1])

    def _missing(self) -> list[int] | None:
        """The ranks that have not come to this exchange; None where the store can't say."""
        if self._board is None or not self._board.look():
            return None
        return self._board.missing(self._step)

    def _signs(self) -> dict[str, Any]:
        """What ``Patience`` may ask of the other ranks."""
        return {} if self._board is None else {"about": self._board.about, "silent": self._board.silent}

    def _exchange(self, what: str, error: str | None, value: Any) -> list[Any]:
        """One gather of (what, error, value); RankError unless all ranks came with the same ``what`` and no error."""
        if self.size == 1:
            return [value]
        if self._over:
            raise RankError(None, f"{what}: this group of ranks has failed before; join again")
        answers = [pickle.loads(told) for told in self._gather_bytes(what, pickle.dumps((what, error, value)))]
        for rank, (_, theirs, _) in enumerate(answers):
            if theirs is not None:
                self._over = True
                raise RankError(rank, theirs)
        for rank, (theirs, _, _) in enumerate(answers):
            if theirs != answers[0][0]:
                self._over = True
                raise RankError(None, f"out of step: rank 0 has come to {answers[0][0]!r}, rank {rank} to {theirs!r}")
        return [found for _, _, found in answers]

    def _gather_bytes(self, what: str, told: bytes) -> list[bytes]:
        """Every rank's, in their order."""
        from torch.distributed import all_gather

        size = torch.tensor([len(told)], dtype=torch.int64, device="cpu")
        sizes = torch.empty(self.size, dtype=torch.int64, device="cpu")
        self.collective(what, lambda: all_gather(list(sizes.view(-1, 1)), size, group=self._group, async_op=True))
        mine = torch.zeros(int(sizes.max()), dtype=torch.uint8, device="cpu")
        mine[: len(told)] = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        all_ = torch.empty(self.size, len(mine), dtype=torch.uint8, device="cpu")
        self.collective(what, lambda: all_gather(list(all_), mine, group=self._group, async_op=True))
        return [row[:length].numpy().tobytes() for row, length in zip(all_, sizes.tolist(), strict=True)]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What gloo or the store raise when a process is gone, as RankError that names it where the signs do."""
        try:
            yield
        except RankError as error:
            if not self._over and self._board is not None:  # this one gives up, and comes to no exchange any more
                self._board.end(str(error), comes=False)
            self._over = True
            raise
        except RuntimeError as error:
            self._over = True
            gone = [] if self._board is None else self._board.silent()
            raise RankError(
                gone[0] if gone else None,
                f"rank {self.index} of {self.size} lost {_named(gone)}, which died, or did not answer in time; look "
                f"for its own message ({str(error).splitlines()[0]})",
            ) from error

    def _close(self, own: bool, error: BaseException | None) -> None:
        """Leave the group: end it, or, where an exchange of it can't be ended, leave it behind."""
        from torch import distributed as dist

        group, signs, self._group, self._board, self._over = self._group, self._board, None, None, True
        if signs is not None:
            if error is not None and not isinstance(error, Exception):
                signs.end(f"{type(error).__name__}", comes=False)
            signs.close()
        if self._under_way is not None:  # its destructor would wait until gloo's own time is over
            for kept in (group, self._under_way):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
        if group is not None:
            dist.destroy_process_group(None if own else group)


@contextmanager
def joined(distributed: bool = True, *, timeout_s: float | None = None) -> Iterator[World]:
    """The World of this process, for the length of a ``with`` block that ends on all ranks, well or badly, together.

    Inside a process group of the caller's, a gloo group beside it is made and destroyed, and theirs is not touched;
    all its ranks must come here. Under torchrun without one, it is made for the time of the block.

    Args:
        distributed: False gives a World of this process alone and leaves torch.distributed unused.
        timeout_s: seconds that a rank may keep the others waiting, at the start and at every exchange; None means
            FASTFID_TIMEOUT, or 1800. After FASTFID_ANNOUNCE seconds, or 30, those who wait say for whom.

    Raises:
        ValueError: neither a process group nor torchrun's variables are there, or these are not numbers that fit.
        BackendUnavailableError: this torch has no gloo.
        RankError: another rank failed, died, or never came. Errors of this rank's own block pass through as they are.
    """
    timeout_s = seconds("timeout", timeout_s, "FASTFID_TIMEOUT", TIMEOUT_S)
    announce_s = seconds("announce", None, "FASTFID_ANNOUNCE", ANNOUNCE_S)
    if not distributed:
        yield World()
        return
    from torch import distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        raise BackendUnavailableError(f"distributed: torch {torch.__version__} was built without gloo, which it needs")
    own = not dist.is_initialized()
    index, size = launcher_place() if own else (dist.get_rank(), dist.get_world_size())
    if size == 1:
        yield World()
        return
    world = World(index, size, 0, timeout_s, announce_s)
    error: BaseException | None = None
    try:
        _open(world, own)
        hosts = world.gather("hosts", socket.gethostname())
        world.local_index = hosts[:index].count(hosts[index])
        with together(world):
            yield world
    except BaseException as raised:
        error = raised
        raise
    finally:
        world._close(own, error)


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


def _open(world: World, own: bool) -> None:
    """Our gloo group, once all are here: the default one where there was none, else one beside the caller's."""
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.distributed_c10d import _get_default_store

    place, hint = (world.index, world.size), inherited_hint() if own else ""
    if own:
        base = launcher_store(*place, world.timeout_s, world.announce_s / _SOONER, hint)
    else:
        base = _get_default_store()
    prefix = f"fastfid/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = PrefixStore(prefix, base)
    world._board = signs = board.Board(PrefixStore(prefix, beside(base) if own else base), *place)

    def missing(step: int = 0) -> list[int] | None:
        return signs.missing(step) if signs.look() else None

    holder = holder_of_store() if own else ""
    first = world.announce_s / (_SOONER if own else 1)
    patience = Patience("join", place, world.timeout_s, first, missing, hint=hint, holder=holder)
    here, pause = signs.join(), 1e-3
    try:
        while not (here and signs.all_here()):
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
            patience.tick()
            here = here or signs.join()
    except BaseException:
        signs.take_back()
        raise
    signs.come_to(0, "connect")
    patience = Patience("connect", place, world.timeout_s, world.announce_s, lambda: missing(1), **world._signs())
    with world._translated():
        _in_thread(partial(_connect, world, own, store), patience)


def _connect(world: World, own: bool, store: Store) -> None:
    """Every rank to every other; waits inside gloo for one that died just now."""
    from torch import distributed as dist
    from torch._C._distributed_c10d import PrefixStore

    timeout = timedelta(seconds=world.timeout_s + _GLOO_S)
    if not own:
        world._group = dist.new_group(backend="gloo", timeout=timeout)
        return
    assert world._board is not None
    # The store outlives a group, and gloo must not find the addresses of the one before.
    fresh = PrefixStore(f"gloo/{world._board.number}", store)
    dist.init_process_group("gloo", store=fresh, rank=world.index, world_size=world.size, timeout=timeout)
    world._group = dist.group.WORLD


def _in_thread(work: Callable[[], None], patience: Patience) -> None:
    """Do it where it can be waited for with patience; what is given up is left to itself."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="fastfid-connect", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        patience.tick()
    if failed:
        raise failed[0]


def _named(ranks: list[int]) -> str:
    return ", ".join(f"rank {rank}" for rank in ranks) or "another rank"
