"""What a DataLoader does to a set on its way: images that it drops, leaves out, or hands over more than once."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

DROPPED, NOT_DRAWN = "drop_last", "not drawn by the sampler"
_COMPARED = 64  # images of each worker that are compared while they come
_SHARE = "each worker must read its own share of it (torch.utils.data.get_worker_info), or num_workers be at most 1"


class Delivery:
    """Watches what comes of an iterable; of one that is no DataLoader there is nothing to say.

    Of an IterableDataset each worker process has a copy, and unless the Dataset looks which worker it is in, each
    yields the whole set. Images are told apart by a digest of their pixels.

    Attributes:
        unread: images that are not read, by reason.
        remarks: what the user must be warned of.
    """

    def __init__(self, items: Any, description: str) -> None:
        self.unread: dict[str, int] = {}
        self.remarks: tuple[str, ...] = ()
        self.description = description
        self.loader: DataLoader[Any] | None = items if isinstance(items, DataLoader) else None
        streamed = self.loader is not None and isinstance(self.loader.dataset, IterableDataset)
        self.workers = self.loader.num_workers if streamed and self.loader is not None else 0
        self.expected = _length(self.loader.dataset) if streamed and self.loader is not None else None
        self.lanes: list[list[bytes]] = [[] for _ in range(self.workers)]
        self.seen: Counter[bytes] = Counter()

    def see(self, number: int, images: NDArray[Any] | torch.Tensor, position: int) -> None:
        """Item ``number`` brings these images [n, …], after ``position`` others.

        Raises:
            ValueError: the workers of a DataLoader yield the same images.
        """
        if self.workers < 2:
            return
        if self.expected is not None and position + len(images) > self.expected:
            raise ValueError(
                f"{self.description}: more images come than the {self.expected} that its Dataset says it holds, from "
                f"{self.workers} workers: {_SHARE}"
            )
        digests = [_digest(image) for image in images]
        self.seen.update(digests)
        lane = self.lanes[number % self.workers]
        if len(lane) < _COMPARED:
            lane += digests
            if number % self.workers == self.workers - 1:
                self._compare()

    def _compare(self) -> None:
        first, *others = self.lanes
        if len(set(first)) > 1 and all(other == first for other in others):
            raise self._repeated(f"its {self.workers} workers yield the same images")

    def _repeated(self, how: str) -> ValueError:
        return ValueError(f"{self.description}: {how}: the set would be counted {self.workers} times; {_SHARE}")

    def finish(self, position: int, whole: bool) -> None:
        """The end: ``position`` images came, which is all there are where ``whole``.

        Raises:
            ValueError: every image came as often as there are workers.
        """
        if self.workers > 1:
            self._finish_workers(position)
        if self.loader is None or not whole:
            return
        batching = getattr(self.loader, "batch_sampler", None)
        drawn = self.expected if self.expected is not None else _length(getattr(batching, "sampler", None))
        if bool(getattr(batching, "drop_last", False)) and drawn is not None and drawn > position:
            self.unread[DROPPED] = drawn - position
            self._warn(
                f"DataLoader(drop_last=True) leaves out {drawn - position} of {drawn} images; {position} were read. "
                "Pass drop_last=False"
            )
        elif drawn is not None and self.expected is not None and drawn > position:
            self._warn(f"{position} images came of the {drawn} that its Dataset says it holds")
        held = _length(self.loader.dataset)
        if self.expected is None and held is not None and drawn is not None and held > drawn:
            self.unread[NOT_DRAWN] = held - drawn

    def _finish_workers(self, position: int) -> None:
        times = set(self.seen.values())
        if len(self.seen) > 1 and all(n % self.workers == 0 for n in times):
            raise self._repeated(f"each image came from all of its {self.workers} workers")
        again = position - len(self.seen)
        if again:
            self._warn(f"{again} of {position} images are repetitions, from {self.workers} workers: {_SHARE}")
        elif not _looks_after_itself(self.loader):
            self._warn(
                f"an IterableDataset is read by {self.workers} workers. No image came twice, but augmented ones would "
                f"not be noticed: {_SHARE}"
            )

    def _warn(self, text: str) -> None:
        self.remarks = (*self.remarks, f"{self.description}: {text}")


def _looks_after_itself(loader: DataLoader[Any] | None) -> bool:
    """Whether a Dataset asks which worker it is in, or the loader tells it."""
    if loader is None or loader.worker_init_fn is not None:
        return True
    code = getattr(getattr(type(loader.dataset), "__iter__", None), "__code__", None)
    return "get_worker_info" in getattr(code, "co_names", ())


def _length(x: Any) -> int | None:
    try:
        return len(x)
    except TypeError:
        return None


def _digest(image: NDArray[Any] | torch.Tensor) -> bytes:
    pixels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    return hashlib.blake2b(np.ascontiguousarray(pixels).reshape(-1).data, digest_size=16).digest()
