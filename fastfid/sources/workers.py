"""Decoding in worker processes.

Run k of ``batch_size`` images goes to worker k mod W, and each worker has a queue of its own, so that batches come in
the order of the set, no more than a few of them wait at once, and a worker that dies takes nobody else's queue with it.
A batch crosses as one uint8 tensor in shared memory, however many images it holds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import random
import signal
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch.multiprocessing
from torch.utils.data._utils import worker as torch_worker

from fastfid.errors import WorkerError
from fastfid.sources.base import Order
from fastfid.sources.reader import Decoded, Reader, Stopped, decode_batches

_AHEAD = 2  # batches decoded before they are asked for, per worker
_LOOK_S = 0.5
_GRACE_S = 1.0


class _Last(NamedTuple):
    """A run's end; or the error that ended it, and where that was."""

    error: Exception | None = None
    where: str = ""


class _Noting(Reader):
    """A reader that notes in shared memory what it is about to read, for the case that it dies of it."""

    def __init__(self, reader: Reader, current: Any) -> None:
        self.inner, self.current = reader, current

    def name(self, index: int) -> str:
        return self.inner.name(index)

    def read(self, index: int) -> Any:
        self.current.value = index
        self.inner.wide = 0
        pixels = self.inner.read(index)
        self.wide += self.inner.wide
        return pixels


def by_workers(
    reader: Reader, parts: list[Order], skip_bad: bool, number: int, description: str
) -> Generator[Decoded, None, None]:
    """The batches of each run of ``parts``, in order, decoded by ``number`` processes; closing it ends them.

    Raises:
        WorkerError: one died; says which image it was reading.
    """
    context = torch.multiprocessing.get_context()
    done = context.Event()
    queues = [context.Queue(maxsize=_AHEAD) for _ in range(number)]
    current = [context.RawValue("q", -1) for _ in range(number)]
    processes: list[Any] = []
    try:
        with _ctrl_c_later():
            for index in range(number):
                arguments = (_Noting(reader, current[index]), parts[index::number], skip_bad, (index, number))
                worker = context.Process(target=_work, args=(*arguments, queues[index], done), daemon=True)
                worker.start()
                processes.append(worker)
        for run in range(len(parts)):
            which = run % number
            while not isinstance(item := _next(queues[which], processes[which]), _Last):
                if item is None:
                    _died(processes[which], reader, int(current[which].value), description)
                yield item
                del item
            if item.error is not None:
                raise item.error from RuntimeError(f"in a decoding process:\n{item.where}")
    finally:
        done.set()
        for process in processes:
            process.join(_GRACE_S)
            if process.is_alive():
                process.kill()  # its queue is nobody else's
                process.join()
        for one in queues:
            one.close()


def _next(waiting: Any, process: Any) -> Any:
    """What a worker sends next, or None where it has died."""
    alive = True
    while True:
        try:
            return waiting.get(timeout=_LOOK_S)
        except queue.Empty:
            if not alive:
                return None
            alive = process.is_alive()  # and look once more at what it may have sent before
        except (OSError, EOFError):  # the memory of a batch goes with the worker that made it
            process.join(_GRACE_S)
            if process.is_alive():
                raise
            return None


def _died(process: Any, reader: Reader, index: int, description: str) -> NoReturn:
    code = process.exitcode
    how = f"ended with code {code}"
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            how = f"was ended by {signal.Signals(-code).name}"
    what = f"while reading {reader.name(index)!r}" if index >= 0 else "before it read anything"
    raise WorkerError(
        f"{description}: decoding process {process.pid} {how} {what}. SIGKILL mostly means that the machine ran out of "
        "memory, SIGBUS that /dev/shm is full: use fewer processes (num_workers=0, --num-workers 0, needs none) or a "
        "smaller batch. If it is the same file every time, its decoder crashes: remove it"
    )


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold SIGINT back in this thread, and in processes that it starts, until the block ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(reader: Reader, parts: list[Order], skip_bad: bool, who: tuple[int, int], out: Any, done: Any) -> None:
    """What a worker does. Ctrl-C reaches the whole process group; it is the parent who ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (index, number), parent = who, multiprocessing.parent_process()
    torch.set_num_threads(1)
    random.seed(index)
    np.random.seed(index)  # noqa: NPY002  # which Datasets draw from
    torch.manual_seed(index)
    facts: dict[str, Any] = {"id": index, "num_workers": number, "seed": index, "dataset": None}
    torch_worker._worker_info = torch_worker.WorkerInfo(**facts)  # Datasets ask for it

    def stopped() -> bool:
        return bool(done.is_set()) or (parent is not None and not parent.is_alive())

    def send(item: Decoded | _Last) -> None:
        while not stopped():
            with contextlib.suppress(queue.Full):
                out.put(item, timeout=_LOOK_S)
                return
        raise Stopped

    try:
        for part in parts:
            try:
                for batch in decode_batches(reader, part, skip_bad, stopped):
                    send(batch)
                send(_Last())
            except Stopped:
                raise
            except Exception as error:
                send(_Last(_portable(error), traceback.format_exc()))
                break
        while not stopped():  # the parent still fetches the memory of the last batches from here
            done.wait(_LOOK_S)
    except Stopped:
        pass
    finally:
        out.cancel_join_thread()


def _portable(error: Exception) -> Exception:
    """An error that survives the way to the parent, with where it happened."""
    try:
        copy = ForkingPickler.loads(ForkingPickler.dumps(error))
        if type(copy) is type(error):
            return error
    except Exception:  # whatever its class makes of pickling
        pass
    return RuntimeError(f"{type(error).__name__} in a decoding process: {error}")
