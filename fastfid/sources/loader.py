"""Decoding ahead of the consumer: in worker processes, or on one background thread.

A batch crosses from a worker as one uint8 tensor in shared memory, however many images it holds.
"""

from __future__ import annotations

import queue
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch

from fastfid.errors import BadImageError
from fastfid.sources.base import Batches, ImageBatch, Order, Pixels, Plan, Source, chunks, pack, unpack

T = TypeVar("T")

WIDE = "have pixels of 16 or 32 bits or float; Pillow, and so every package, cuts them off at 255"

_AHEAD = 2  # batches decoded before they are asked for, per worker or on the thread


class Reader(ABC):
    """Decodes members of a set by index. Picklable; holds no open file when it is pickled.

    Attributes:
        wide: how many images ``read`` gave whose pixels had more than 8 bits, since someone set it to 0.
    """

    wide = 0

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call member ``index``."""

    @abstractmethod
    def read(self, index: int) -> Pixels:
        """uint8 [H, W, 3]; raises BadImageError."""

    def close(self) -> None:  # noqa: B027  # most keep nothing open
        """Release what ``read`` keeps open."""


class Decoded(NamedTuple):
    """A decoded batch as it leaves a worker: ``base.pack``'s pair, names, errors (never raised there), Reader.wide."""

    pixels: torch.Tensor
    sizes: tuple[tuple[int, int], ...] | None
    names: tuple[str, ...]
    bad: tuple[BadImageError, ...]
    wide: int


class _Stopped(Exception):
    """The consumer has left."""


def decode_batch(reader: Reader, order: Order, skip_bad: bool, stop: threading.Event | None = None) -> Decoded:
    """Read members in order; without ``skip_bad`` the first bad one ends the batch."""
    images: list[Pixels] = []
    names: list[str] = []
    bad: list[BadImageError] = []
    reader.wide = 0
    for index in order:
        if stop is not None and stop.is_set():
            raise _Stopped
        try:
            images.append(reader.read(int(index)))
            names.append(reader.name(int(index)))
        except BadImageError as error:
            bad.append(error)
            if not skip_bad:
                break
    return Decoded(*pack(images), tuple(names), tuple(bad), reader.wide)


class DecodedSource(Source):
    """A set whose members are decoded one by one, by ``plan.num_workers`` processes or in this one.

    Attributes:
        threaded: without workers, decode on a background thread rather than in the caller's.
    """

    threaded: ClassVar[bool] = True

    @abstractmethod
    def _reader(self) -> Reader:
        """A new reader of the members."""

    def _batches(self, plan: Plan) -> Batches:
        reader, parts = self._reader(), list(chunks(self._order(plan), plan.batch_size))
        decoded: Generator[Decoded, None, None]
        if plan.num_workers > 0:
            decoded = _by_workers(reader, parts, plan)
        elif self.threaded:
            decoded = ahead(lambda stop: (decode_batch(reader, part, plan.skip_bad, stop) for part in parts))
        else:
            decoded = (decode_batch(reader, part, plan.skip_bad) for part in parts)
        # What a resumed pass saw before it was interrupted stays said; a new pass counts anew.
        notes, wide = self.notes if plan.start else tuple(n for n in self.notes if not n.endswith(WIDE)), 0
        try:
            for batch in decoded:
                if batch.bad and not plan.skip_bad:
                    raise batch.bad[0]
                wide += batch.wide
                if batch.wide:
                    self.notes = (*notes, f"{wide} images of {self.description} {WIDE}")
                yield ImageBatch(unpack(batch.pixels, batch.sizes), batch.names, batch.bad)
        finally:
            decoded.close()
            reader.close()


class _Failed(NamedTuple):
    """An exception on its way from the background thread."""

    error: BaseException


def ahead(make: Callable[[threading.Event], Iterator[T]], depth: int = _AHEAD) -> Generator[T, None, None]:
    """Iterate ``make(stop)`` on a background thread, ``depth`` items ahead of the consumer.

    Closing the generator sets ``stop`` and waits for the thread, which looks at it between items, or oftener if the
    iterator does.
    """
    ready: queue.Queue[T | _Failed | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def offer(item: T | _Failed | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.05)
            except queue.Full:
                continue
        raise _Stopped

    def run() -> None:
        try:
            try:
                for item in make(stop):
                    offer(item)
                offer(None)
            except _Stopped:
                raise
            except BaseException as error:
                offer(_Failed(error))
        except _Stopped:
            pass

    thread = threading.Thread(target=run, name="fastfid-decode", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()


class _Decoder(torch.utils.data.Dataset[Decoded]):
    """What runs in a worker: a list of indices in, a decoded batch out."""

    def __init__(self, reader: Reader, skip_bad: bool) -> None:
        self.reader = reader
        self.skip_bad = skip_bad

    def __getitem__(self, order: Order) -> Decoded:
        return decode_batch(self.reader, order, self.skip_bad)


def _as_is(batch: Any) -> Any:
    """The collate function: batches come whole from the dataset."""
    return batch


def _leave_ctrl_c_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the parent ends its workers, who must not die holding a queue's lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _by_workers(reader: Reader, parts: list[Order], plan: Plan) -> Generator[Decoded, None, None]:
    loader = torch.utils.data.DataLoader(
        _Decoder(reader, plan.skip_bad),
        batch_size=None,
        sampler=parts,
        num_workers=min(plan.num_workers, max(len(parts), 1)),
        collate_fn=_as_is,
        worker_init_fn=_leave_ctrl_c_to_the_parent,
        prefetch_factor=_AHEAD,
        generator=torch.Generator(),  # else the DataLoader draws its seed from, and moves, the global generator
    )
    workers = iter(loader)
    try:
        yield from workers
    finally:
        del workers, loader  # ends the processes
