"""A pass over an image set as the pipeline makes it, small enough to be interrupted at will."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastfid.passes.store import FeatureCache, Key, PassState, Recording, features_key, record_checkpoints
from fastfid.protocols import protocol
from fastfid.sources import Source, open_source

DIM = 12


class Interrupted(Exception):
    """Stands for Ctrl-C."""


class RunningMoments:
    """A mean and a scatter whose bits depend on the order and the cut of the batches, as those of ``Moments`` do."""

    def __init__(self, n: int = 0, mean: torch.Tensor | None = None, scatter: torch.Tensor | None = None) -> None:
        self.n, self.mean, self.scatter = n, mean, scatter

    def update(self, rows: torch.Tensor) -> None:
        x = rows.double()
        mean, b = x.mean(0), len(x)
        centred = x - mean
        if self.mean is None or self.scatter is None:
            self.n, self.mean, self.scatter = b, mean, centred.T @ centred
            return
        delta, total = mean - self.mean, self.n + b
        self.scatter = self.scatter + centred.T @ centred + torch.outer(delta, delta) * (self.n * b / total)
        self.mean, self.n = self.mean + delta * (b / total), total

    def state(self) -> dict[str, Any]:
        return {"n": self.n, "mean": self.mean, "scatter": self.scatter, "metadata": {"of": ["a", None, 0.1]}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RunningMoments:
        assert state["metadata"] == {"of": ["a", None, 0.1]}
        return cls(state["n"], state["mean"], state["scatter"])

    def bits(self) -> tuple[int, bytes, bytes]:
        assert self.mean is not None
        assert self.scatter is not None
        return self.n, self.mean.numpy().tobytes(), self.scatter.numpy().tobytes()


def features_of(images: torch.Tensor) -> torch.Tensor:
    """float32 [n, DIM]: a projection of the pixels that any change of a pixel moves."""
    rng = np.random.default_rng(1)
    flat = images.reshape(len(images), -1).float() / 255
    weights = torch.from_numpy(rng.standard_normal((flat.shape[1], DIM)).astype(np.float32))
    return torch.sin(flat @ weights) + 3


def key_of(content: str, **changes: Any) -> Key:
    """The key of a pass of ``run_pass`` under the default protocol."""
    asked: dict[str, Any] = {
        "content": content,
        "protocol": protocol("pytorch-fid"),
        "extractor": "inception-v3:2048",
        "weights_sha256": "0" * 64,
        "precision": "fp32",
        "limit": None,
        "seed": 0,
        "skip_bad": True,
        "batch_size": 4,
        "device": "cpu",
    }
    return features_key(**{**asked, **changes})


def batches_of(source: Source, size: int, start: int) -> Iterator[Any]:
    """What ``source.batches(size, start=start)`` gives, for a start that is a multiple of ``size``."""
    for index, batch in enumerate(source.batches(size, skip_bad=True)):
        if index * size >= start:
            yield batch


def run_pass(
    source: Source, recording: Recording, *, size: int = 4, stop_after: int | None = None
) -> tuple[RunningMoments, PassState]:
    """The loop of the pipeline; ``stop_after`` batches it is interrupted."""
    begin = recording.resumed
    moments = RunningMoments() if begin is None else RunningMoments.from_state(dict(begin.moments))
    read, skipped = (0, []) if begin is None else (begin.read, list(begin.skipped))

    def state() -> PassState:
        return PassState(moments.state(), read, 1.5, torch.full((1, 2), 0.1), tuple(skipped), ("a note",))

    with recording:
        for count, batch in enumerate(batches_of(source, size, read)):
            if count == stop_after:
                raise Interrupted
            read += len(batch.names) + len(batch.bad)
            skipped.extend(batch.bad)
            if batch.names:
                rows = features_of(batch.images)
                recording.append(rows)
                moments.update(rows)
                rows.zero_()  # as a captured graph does with its output
            recording.offer(state)
        recording.finish(state())
    return moments, state()


def all_features(source: Source) -> np.ndarray:
    """The features of every readable image, [n, DIM]."""
    return torch.cat([features_of(batch.images) for batch in batches_of(source, 4, 0) if batch.names]).numpy()


def cached_bits(cache: FeatureCache, source: Source, **changes: Any) -> tuple[tuple[int, bytes, bytes], bool]:
    """The moments of a set by way of the cache, and whether they came from it."""
    identity = cache.identify(source)
    assert identity is not None
    key = key_of(identity.digest, **changes)
    entry = cache.open(key)
    if entry is not None:
        return RunningMoments.from_state(dict(entry.state.moments)).bits(), True
    return run_pass(source, cache.record(key, identity))[0].bits(), False


def settle(path: Path, seconds: float = 10.0) -> None:
    """Give the files below ``path`` a modification time that lies ``seconds`` back."""
    for file in [path, *path.rglob("*")]:
        about = file.stat()
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns - int(seconds * 1e9)))


def noise(n: int) -> Source:
    """An array of n small images, quickly made."""
    return open_source(np.random.default_rng(n).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8))


def compete(folder: str, rounds: int, failures: Any) -> None:
    """What one of several processes does: fill, read and remove one entry, over and over."""
    try:
        torch.set_num_threads(1)
        source, cache, key = noise(7), FeatureCache(folder), key_of("x")
        want = all_features(source).tobytes()
        for turn in range(rounds):
            entry = cache.open(key)
            if entry is None:
                run_pass(source, cache.record(key, every_s=0))
                entry = cache.open(key)
            if entry is not None:  # else another one has just removed it
                assert entry.features.tobytes() == want
                assert entry.state.read == 7
            if (turn + os.getpid()) % 3 == 0:
                cache.remove(key.name)
            if turn % 5 == 0:
                cache.prune()
    except BaseException as error:
        failures.put(repr(error))
        raise


def recording_of(kind: str, where: str, every_s: float = 0.0) -> Recording:
    """One that saves after each batch, or now and then, in a cache or to a checkpoint alone."""
    key = key_of("x")
    if kind == "cache":
        return FeatureCache(where).record(key, every_s=every_s)
    return record_checkpoints(where, key, every_s=every_s)


def pass_until_killed(kind: str, where: str, begun: Any) -> None:
    """A pass over 400 images; ``begun`` is set when its first batch is done."""
    torch.set_num_threads(1)
    recording = recording_of(kind, where)
    offer = recording.offer

    def noting(make: Any) -> None:
        offer(make)
        begun.set()

    recording.offer = noting  # type: ignore[method-assign]
    run_pass(noise(400), recording)
