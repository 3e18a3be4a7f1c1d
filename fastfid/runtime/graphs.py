"""CUDA graphs: many small kernels by one launch, for inputs of a shape that comes again.

A graph repeats kernels on fixed addresses. So a call copies its input to where the graph reads, replays, and returns
copies of what the graph wrote; the three are ordered by the caller's current stream, and the host waits for none.

The first input of a shape is run as it is: it loads kernels and settles cuDNN's algorithms, which must not happen in a
capture, and a shape that never comes again (the last batch of a set) is never captured. The second is run on a side
stream, captured and replayed. A shape's graph keeps its memory, about what one eager run needs, until it is evicted.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastfid.errors import SlowPathWarning

Function = Callable[[Tensor], tuple[Tensor, ...]]
Run = Callable[[], tuple[Tensor, ...]]
Key = tuple[torch.device, torch.dtype, torch.Size, tuple[int, ...]]


class Recorder(Protocol):
    """What a graph needs of a device; tests stand in for it where there is no GPU."""

    def usable(self, x: Tensor) -> bool:
        """Whether x lies where graphs exist."""

    def stream(self, device: torch.device) -> Any:
        """The caller's current stream."""

    def follow(self, stream: Any, earlier: Any) -> None:
        """Let what comes on one stream wait for what is on another, without the host."""

    def warm_up(self, run: Run, device: torch.device) -> None:
        """Run once on a side stream, between what the current stream holds and what will come."""

    def record(self, run: Run, device: torch.device) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        """(what replays the run on the current stream, where its results will be)."""

    def settle(self, device: torch.device) -> None:
        """Wait for the device, before a graph that may still be running is given up."""


class CudaRecorder:
    """``torch.cuda.CUDAGraph``, each with a memory pool of its own; one side stream for a device."""

    def __init__(self) -> None:
        self._sides: dict[torch.device, torch.cuda.Stream] = {}

    def usable(self, x: Tensor) -> bool:
        """On CUDA, unless the caller is capturing a graph of his own, which then takes the kernels in."""
        return x.is_cuda and not torch.cuda.is_current_stream_capturing()

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        """The caller's current stream."""
        return torch.cuda.current_stream(device)

    def follow(self, stream: torch.cuda.Stream, earlier: torch.cuda.Stream) -> None:
        """By an event on the device."""
        stream.wait_stream(earlier)

    def warm_up(self, run: Run, device: torch.device) -> None:
        """On the stream that the capture will be on, whose cuBLAS workspace this makes."""
        current, side = torch.cuda.current_stream(device), self._side(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            run()
        current.wait_stream(side)

    def record(self, run: Run, device: torch.device) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        """Capture; other threads (a loader that pins memory, say) may go on using CUDA meanwhile."""
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.device(device),
                torch.cuda.graph(graph, stream=self._side(device), capture_error_mode="thread_local"),
            ):
                made = run()
        except RuntimeError:
            # A capture that broke off leaves torch's generator believing that it is part of one; its twin does not.
            generator = torch.cuda.default_generators[device.index]
            generator.graphsafe_set_state(generator.clone_state())
            raise
        return graph.replay, made

    def settle(self, device: torch.device) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(device)

    def _side(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._sides:
            self._sides[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]
        return self._sides[device]


class _Recorded(NamedTuple):
    """A graph with the addresses it reads and writes."""

    source: Tensor
    replay: Callable[[], None]
    made: tuple[Tensor, ...]


class Graphed:
    """A function of one tensor that is captured for shapes that come again, and run as it is everywhere else.

    Args:
        function: tensor [...] → tensors; its result depends on the input's values only, it does not synchronise with
            the host and holds no state that it changes.
        name: for the warning.
        limit: how many shapes are kept, the least recently used one being given up first; one that was seen only once
            counts, too.
        recorder: the device's graphs.

    Numerics:
        The kernels are those of an eager run, so the bits are its bits (tests/test_graphs.py::
        test_a_replay_gives_the_bits_of_an_eager_run, on a GPU).

    One call at a time: a lock holds a second thread back. Another stream than the last call's waits for it on the
    device. Results are the caller's own; the next call does not change them.
    """

    def __init__(self, function: Function, name: str, *, limit: int = 4, recorder: Recorder | None = None) -> None:
        self._function, self._name, self._limit = function, name, limit
        self._recorder: Recorder = recorder or CudaRecorder()
        self._known: OrderedDict[Key, _Recorded | None] = OrderedDict()
        self._lock = threading.Lock()
        self._last: dict[torch.device, Any] = {}
        self._failed = False

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """function(x)."""
        if self._failed or not self._recorder.usable(x):
            return self._function(x)
        key = (x.device, x.dtype, x.shape, x.stride())
        with self._lock:
            if key not in self._known:
                self._remember(key)
                return self._function(x)
            self._known.move_to_end(key)
            stream = self._recorder.stream(x.device)
            last = self._last.setdefault(x.device, stream)
            if stream != last:
                self._recorder.follow(stream, last)
                self._last[x.device] = stream
            recorded = self._known[key] or self._record(key, x)
            if recorded is None:
                return self._function(x)
            with torch.no_grad():
                recorded.source.copy_(x)
                recorded.replay()
                return tuple(value.clone() for value in recorded.made)

    def clear(self) -> None:
        """Give up every graph and its memory."""
        with self._lock:
            for device in {key[0] for key, recorded in self._known.items() if recorded is not None}:
                self._recorder.settle(device)
            self._known.clear()

    def _remember(self, key: Key) -> None:
        """Note a shape; the least recently used one goes where there are too many."""
        self._known[key] = None
        if len(self._known) > self._limit:
            gone, recorded = self._known.popitem(last=False)
            if recorded is not None:
                self._recorder.settle(gone[0])

    def _record(self, key: Key, x: Tensor) -> _Recorded | None:
        """Capture for inputs like x; None, with a warning, where that is not possible."""
        with torch.inference_mode(False), torch.no_grad():  # an ordinary tensor may be written to in either mode
            source = x.clone()

        def run() -> tuple[Tensor, ...]:
            return self._function(source)

        self._recorder.warm_up(run, x.device)
        try:
            replay, made = self._recorder.record(run, x.device)
        except RuntimeError as error:
            self._failed = True
            self._known.clear()
            reason = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(
                f"{self._name} could not be captured as a CUDA graph and is launched kernel by kernel, with the same "
                f"results: {reason[0][:200]}",
                SlowPathWarning,
                stacklevel=4,
            )
            return None
        recorded = _Recorded(source, replay, made)
        self._known[key] = recorded
        return recorded
