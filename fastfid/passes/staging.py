"""Decoded pixels on their way to a GPU: page-locked memory, a stream of their own, and a bound on how far ahead.

While the GPU works on one batch, the host decodes the next one and enqueues its copy and its kernels. Nothing waits for
the GPU but ``depth`` batches later: that is what keeps the host from filling the GPU's memory with batches that are not
yet due.
"""

from __future__ import annotations

from collections import deque

import torch

from fastfid.resample import RaggedImages

DEPTH = 2
"""Batches that may be under way on the GPU: one at work, one copied."""


class Staging:
    """Moves batches to one device; towards a CPU, or from where they already are, it does nothing.

    Args:
        device: where batches go.
        depth: batches under way before the host waits for the oldest.
    """

    def __init__(self, device: torch.device, depth: int = DEPTH) -> None:
        self.device, self.depth = device, depth
        self._under_way: deque[torch.cuda.Event] = deque()
        self._copies: torch.cuda.Stream | None = None

    def __call__(self, images: torch.Tensor | RaggedImages) -> torch.Tensor | RaggedImages:
        """The batch on the device, ready for the current stream."""
        if self.device.type != "cuda" or images.device.type == "cuda":
            return images.to(self.device)
        with torch.cuda.device(self.device):
            self._wait_for_the_oldest()
            if self._copies is None:
                self._copies = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
            current = torch.cuda.current_stream()
            with torch.cuda.stream(self._copies):
                moved = images.pin_memory().to(self.device, non_blocking=True)
            current.wait_stream(self._copies)
            (moved.pixels if isinstance(moved, RaggedImages) else moved).record_stream(current)
        return moved

    def _wait_for_the_oldest(self) -> None:
        """Mark what was enqueued for the batches before, and wait until fewer than ``depth`` are under way."""
        done = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
        done.record()
        self._under_way.append(done)
        while len(self._under_way) >= self.depth:
            self._under_way.popleft().synchronize()
