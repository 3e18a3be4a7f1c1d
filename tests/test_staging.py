"""``Staging``: what is where already stays, and the host waits for the batch before the last, never for the last."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from fastfid.resample import RaggedImages
from fastfid.staging import Staging


class Device:
    """Stands in for torch.cuda: an ordered log of what is enqueued and waited for."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.events = 0

    def event(self) -> Any:
        log, number = self.log, self.events
        self.events += 1

        class Event:
            def record(self) -> None:
                log.append(f"mark {number}")

            def synchronize(self) -> None:
                log.append(f"wait {number}")

        return Event()

    def stream(self) -> Any:
        log = self.log

        class Stream:
            def wait_stream(self, other: object) -> None:
                log.append("current waits for the copies")

        return Stream()


class Batch:
    """An image tensor in host memory, as far as Staging looks at it."""

    def __init__(self, log: list[str], number: int, where: str = "cpu") -> None:
        self.log, self.number, self.device = log, number, torch.device(where)

    def pin_memory(self) -> Batch:
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        assert non_blocking
        self.log.append(f"copy {self.number}")
        return Batch(self.log, self.number, "cuda")

    def record_stream(self, stream: object) -> None:
        self.log.append(f"keep {self.number}")


def test_the_host_is_two_batches_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Device()
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    monkeypatch.setattr(torch.cuda, "Stream", fake.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", fake.stream)
    staging = Staging(torch.device("cuda"))
    for number in range(4):
        moved: Any = staging(Batch(fake.log, number))  # type: ignore[arg-type]
        assert moved.device.type == "cuda"
        fake.log.append(f"network {number}")
    # Mark k stands behind the network of batch k − 1; before batch k is copied, that of batch k − 2 must be done.
    for number in range(2, 4):
        at = fake.log.index(f"copy {number}")
        assert f"wait {number - 1}" in fake.log[:at]
        assert fake.log.index(f"mark {number - 1}") > fake.log.index(f"network {number - 2}")
    waits = [entry for entry in fake.log if entry.startswith("wait")]
    assert waits == ["wait 0", "wait 1", "wait 2"]  # never for the mark that was just set, the last being 3
    for number in range(4):  # the network reads a batch after its copy, and its memory is kept until then
        order = [fake.log.index(f"{word} {number}") for word in ("copy", "keep", "network")]
        assert order == sorted(order)
    assert fake.log.count("current waits for the copies") == 4


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
