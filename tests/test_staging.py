"""``Staging``: what is where already stays, and the host waits for the batch before the last, never for the last."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fastfid.passes.staging import Staging
from fastfid.resample import RaggedImages


class Device:
    """A GPU's queue: work is done only when somebody waits for it, so that what is in flight can be seen."""

    def __init__(self) -> None:
        self.networks = self.finished = self.copied = 0
        self.fewest = self.most = 0

    def event(self) -> Any:
        device = self

        class Event:
            def record(self) -> None:
                self.behind = device.networks

            def synchronize(self) -> None:
                device.finished = max(device.finished, self.behind)

        return Event()

    def stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None)


class Batch:
    """An image tensor in host memory, as far as Staging looks at it; it takes memory on the device from its copy on."""

    def __init__(self, device: Device, where: str = "cpu") -> None:
        self.queue, self.device = device, torch.device(where)

    def pin_memory(self) -> Batch:
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        assert non_blocking, "the host would wait for the copy"
        self.queue.fewest = self.queue.networks - self.queue.finished
        self.queue.copied += 1
        self.queue.most = self.queue.copied - self.queue.finished
        return Batch(self.queue, "cuda")

    def record_stream(self, stream: object) -> None:
        pass


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_gpu_has_work_and_no_more_than_depth_batches(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Staging calls: a GPU that finishes nothing of itself holds ``depth`` batches, and is idle at no copy."""
    fake = Device()
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    monkeypatch.setattr(torch.cuda, "Stream", fake.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", fake.stream)
    staging = Staging(torch.device("cuda"), depth)
    for number in range(12):
        moved: Any = staging(Batch(fake))  # type: ignore[arg-type]
        assert moved.device.type == "cuda"
        assert fake.most == min(number + 1, depth)
        assert fake.fewest == min(number, depth - 1)
        fake.networks += 1


def test_nothing_moves_towards_a_cpu() -> None:
    images = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)
    assert Staging(torch.device("cpu"))(images) is images
    ragged = RaggedImages.pack([np.zeros((2, 3, 3), np.uint8), np.zeros((4, 1, 3), np.uint8)])
    moved = Staging(torch.device("cpu"))(ragged)
    assert isinstance(moved, RaggedImages)
    assert moved.pixels is ragged.pixels


@pytest.mark.gpu
def test_batches_arrive_whole_whatever_is_ahead() -> None:
    staging = Staging(torch.device("cuda"))
    batches = [torch.randint(0, 256, (16, 64, 64, 3), dtype=torch.uint8) for _ in range(12)]
    sums = [staging(batch).sum(dtype=torch.int64) for batch in batches]  # type: ignore[union-attr]
    assert [int(total) for total in sums] == [int(batch.sum(dtype=torch.int64)) for batch in batches]
