"""Decoding ahead of the consumer: in worker processes (fastfid.sources.workers), or on one background thread."""

from __future__ import annotations

import collections
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import ClassVar, NamedTuple, TypeVar

from fastfid.sources import base
from fastfid.sources.base import Batches, ImageBatch, Order, Plan, Source, chunks, unpack
from fastfid.sources.reader import Decoded, Reader, Stopped, decode_batches
from fastfid.sources.workers import by_workers

T = TypeVar("T")

WIDE = "have pixels of 16 or 32 bits or float; Pillow, and so every package, cuts them off at 255"

_AHEAD = 2  # batches decoded before they are asked for
_PATIENCE_S = 5.0


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
        reader = self._reader()
        decoded = self._decoded(reader, plan)
        # What a resumed pass saw before it was interrupted stays said; a new pass counts anew.
        notes, wide = self.notes if plan.start else tuple(n for n in self.notes if not n.endswith(WIDE)), 0
        try:
            for batch in decoded:
                if batch.bad and not plan.skip_bad:
                    raise batch.bad[0]
                wide += batch.wide
                if batch.wide:
                    self.notes = (*notes, f"{wide} images of {self.description} {WIDE}")
                made = ImageBatch(unpack(batch.pixels, batch.sizes), batch.names, batch.bad)
                del batch
                yield made
                del made  # not held while the next is waited for
        finally:
            decoded.close()
            reader.close()

    def _decoded(self, reader: Reader, plan: Plan) -> Generator[Decoded, None, None]:
        """What was drawn, and, where there is a limit, as many others as could not be read of it."""
        parts = list(chunks(self._order(plan), plan))
        decoded: Generator[Decoded, None, None]
        if plan.num_workers > 0:
            decoded = by_workers(reader, parts, plan.skip_bad, min(plan.num_workers, len(parts)), self.description)
        elif self.threaded:
            decoded = ahead(lambda stop: _decoded_parts(reader, parts, plan, stop.is_set), size=_pixels_in)
        else:
            decoded = _decoded_parts(reader, parts, plan)
        if plan.limit is None or not plan.skip_bad:
            yield from decoded
            return
        share, rest = self._drawn(plan)
        good, at = plan.start - plan.missed, max(plan.start - len(share), 0)
        with closing(decoded):
            for batch in decoded:
                good += len(batch.names)
                yield batch
        while good < len(share) and at < len(rest):
            part = rest[at : at + min(len(share) - good, plan.batch_size)]
            at += len(part)
            for batch in decode_batches(reader, part, skip_bad=True):
                good += len(batch.names)
                yield batch


def _decoded_parts(
    reader: Reader, parts: list[Order], plan: Plan, stopped: Callable[[], bool] = lambda: False
) -> Generator[Decoded, None, None]:
    for part in parts:
        yield from decode_batches(reader, part, plan.skip_bad, stopped)


def _pixels_in(batch: Decoded) -> int:
    return batch.pixels.nbytes


class _Failed(NamedTuple):
    """An exception on its way from the background thread."""

    error: BaseException


def ahead(
    make: Callable[[threading.Event], Iterator[T]], depth: int = _AHEAD, size: Callable[[T], int] = lambda _: 0
) -> Generator[T, None, None]:
    """Iterate ``make(stop)`` on a background thread, ``depth`` items ahead of the consumer.

    The next item is begun only when those that the consumer has not done with are at most BATCH_BYTES, by ``size``.
    Closing the generator sets ``stop`` and waits for the thread, which looks at it between items, or oftener if the
    iterator does; not longer than a few seconds, for one that hangs in a file system.
    """
    ready: queue.Queue[T | _Failed | None] = queue.Queue(maxsize=depth)
    stop, moved = threading.Event(), threading.Event()
    sizes: collections.deque[int] = collections.deque()  # of the items that are under way

    def offer(item: T | _Failed | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.05)
            except queue.Full:
                continue
        raise Stopped

    def items() -> None:
        made = iter(make(stop))
        while True:
            while sum(sizes) > base.BATCH_BYTES and not stop.is_set():
                moved.clear()
                moved.wait(0.05)
            try:
                item = next(made)
            except StopIteration:
                return
            sizes.append(size(item))
            offer(item)
            del item

    def run() -> None:
        try:
            try:
                items()
                offer(None)
            except Stopped:
                raise
            except BaseException as error:
                offer(_Failed(error))
        except Stopped:
            pass

    thread = threading.Thread(target=run, name="fastfid-decode", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failed):
                raise item.error
            yield item
            del item
            sizes.popleft()
            moved.set()
    finally:
        stop.set()
        moved.set()
        thread.join(timeout=_PATIENCE_S)
