"""source → resample → extractor → moments, one batch at a time.

Memory does not grow with the number of images: a few batches of uint8 pixels, their features and the moments are all
there is. Decoding runs ahead of the network (worker processes, or a thread); pixels go to a GPU as bytes, on a stream
of their own (fastfid.passes.staging); resampling happens where the network is; the host waits for no batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import torch

from fastfid.agreement import Watch
from fastfid.distributed import World, merge_across
from fastfid.errors import EmptySourceError
from fastfid.extractors import Extractor
from fastfid.moments import Moments
from fastfid.passes.staging import Staging
from fastfid.passes.store import Entry, PassState, Recording
from fastfid.passes.tally import FeatureBatch, Gathered, Tally
from fastfid.protocols import IDENTITY, Normalize, Protocol, Resize
from fastfid.resample import RaggedImages, resize_normalize
from fastfid.runtime.checks import shared_tensor
from fastfid.runtime.device import float64_device
from fastfid.runtime.dispatch import backend_for
from fastfid.sources import WHOLE, Batches, ImageBatch, Shard, Source

Progress = Callable[[int], None]
"""Called after each batch with the number of images it held."""


@dataclass(frozen=True)
class Reading:
    """How a set is read: the arguments of ``Source.batches`` of the same names."""

    batch_size: int = 50
    num_workers: int = 0
    limit: int | None = None
    seed: int = 0
    skip_bad: bool = False
    shard: Shard = WHOLE
    block: int = 0

    def of_set(self, source: Source) -> tuple[int, int] | None:
        """(images that count, images of an incomplete last block) of the whole set; None for a stream."""
        if source.count is None:
            return None
        n = source.count if self.limit is None else min(self.limit, source.count)
        left = n % self.block if self.block and n >= self.block else 0
        return n - left, left

    def count(self, source: Source) -> int | None:
        """How many images of the set the shard has; None for a stream."""
        known = self.of_set(source)
        if known is None:
            return None
        n, (index, of) = known[0], (self.shard.index, self.shard.of)
        return n * (index + 1) // of - n * index // of

    def batches(self, source: Source, start: int = 0, missed: int = 0) -> Batches:
        """The set's batches, from image ``start`` of the shard on, ``missed`` of which could not be read."""
        arguments = {name: value for name, value in vars(self).items() if name != "batch_size"}
        return source.batches(self.batch_size, start=start, missed=missed, **arguments)


def resampler(device: torch.device) -> tuple[torch.device, str]:
    """Where images are resized for a network on ``device``, and by which backend.

    On the device itself, except that a GPU without the CUDA backend leaves it to the CPU's compiled one.
    """
    backend = backend_for("resize_normalize", device.type)
    if backend == "reference" and device.type != "cpu":
        return torch.device("cpu"), backend_for("resize_normalize", "cpu")
    return device, backend


def prepare(images: torch.Tensor | RaggedImages, protocol: Protocol, device: torch.device) -> torch.Tensor:
    """Decoded pixels → the network's input, as the protocol says.

    Args:
        images: uint8 [n, H, W, 3], or a ragged pack of such images, on any device.

    Returns:
        float32 [n, 3, h, w] in channels_last memory format on ``device``.
    """
    return _resampled(images.to(resampler(device)[0]), protocol, device)


def _resampled(
    pixels: torch.Tensor | RaggedImages, protocol: Protocol, device: torch.device, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The same for pixels that are where they are resampled, written into ``out`` where that is given."""
    if protocol.pre_resize is None:
        return _resample(pixels, protocol.resize, protocol.normalize, protocol.crop, out).to(device)
    small = _resample(pixels, protocol.pre_resize, IDENTITY, protocol.crop)
    made = _resample(small.permute(0, 2, 3, 1), protocol.resize, protocol.normalize, "none", out)
    return made.to(device)


class _Inputs:
    """The network's input on a CPU, in the same memory for every batch.

    A batch of 50 is 54 MB, which the C library would take from the system and give back each time, page by page (0.5 ms
    an image). Only for the Inception network, which is known not to keep what it is given.
    """

    def __init__(self, protocol: Protocol, extractor: Extractor, device: torch.device) -> None:
        self.size = protocol.resize.size
        self.reused = device.type == "cpu" and extractor.taps != ("",)
        self.memory: torch.Tensor | None = None

    def of(self, count: int) -> torch.Tensor | None:
        """[count, 3, h, w] to write into, or None where each batch takes its own."""
        if not self.reused:
            return None
        if self.memory is None or len(self.memory) < count:
            self.memory = torch.empty((count, *self.size, 3), dtype=torch.float32, device="cpu").permute(0, 3, 1, 2)
        return self.memory[:count]


def _resample(
    pixels: torch.Tensor | RaggedImages, step: Resize, affine: Normalize, crop: str, out: torch.Tensor | None = None
) -> torch.Tensor:
    return resize_normalize(
        pixels,
        step.size,
        filter=step.filter,
        antialias=step.antialias,
        a=step.a,
        coordinates=step.coordinates,
        precision=step.precision,
        crop=crop,
        clamp=step.clamp,
        quantize=step.quantize,
        scale=affine.scale,
        bias=affine.bias,
        out_dtype=torch.float32,
        layout="channels_last",
        out=out,
    )


def features_of(
    source: Source,
    protocol: Protocol,
    extractor: Extractor,
    reading: Reading,
    *,
    device: torch.device,
    start: int = 0,
    missed: int = 0,
    seen: Callable[[ImageBatch], None] | None = None,
) -> Generator[FeatureBatch, None, None]:
    """The features of a set, batch by batch; closing the generator ends its threads and processes.

    Args:
        start: leave out this many images at the beginning of the shard.
        missed: how many of these could not be read.
        seen: gets each decoded batch first.

    Raises:
        BadImageError: an image can't be read and ``reading.skip_bad`` is false.
    """
    staging, inputs = Staging(resampler(device)[0]), _Inputs(protocol, extractor, device)
    with closing(reading.batches(source, start, missed)) as batches:
        for batch in batches:
            rows = pixels = None
            if seen is not None:
                seen(batch)
            if batch.names:
                with torch.no_grad():
                    pixels = staging(batch.images)
                    made = extractor.features(_resampled(pixels, protocol, device, inputs.of(len(batch))))
                    rows = dict(zip(extractor.taps, made, strict=True))
            found = FeatureBatch(rows, batch.names, batch.bad)
            made = ()
            del batch, pixels, rows  # not held while the next is waited for
            yield found
            del found


def extract(
    source: Source,
    protocol: Protocol,
    extractor: Extractor,
    reading: Reading,
    *,
    device: torch.device,
    keep: Collection[str] = (),
    progress: Progress | None = None,
    world: World | None = None,
    known: Mapping[str, Entry] | None = None,
    recordings: Mapping[str, Recording] | None = None,
    watch: Callable[..., Watch | None] | None = None,
) -> Tally:
    """One pass: the moments of the extractor's features over an image set, tap by tap, and rows where they are wanted.

    Args:
        keep: the taps whose rows are kept.
        world: the processes that read the set's shards, one each; the moments that they found are merged, the same on
            all; each keeps its own rows.
        known: by tap, what an earlier pass over the same shard came to; where all taps are known, nothing is read.
        recordings: by tap, what keeps the pass for later ones, and knows where an interrupted one stopped.
        watch: makes what sees to it that all ranks were given the same, from the position where the pass begins.

    Raises:
        BadImageError: an image can't be read and ``reading.skip_bad`` is false.
        EmptySourceError: no image was left.
        RankError: another process failed.
    """
    world, known, recordings = world or World(), known or {}, recordings or {}
    block = protocol.statistics.block if reading.shard == WHOLE else 0
    tally = Tally({tap: Gathered(block, keep=tap in keep) for tap in dict.fromkeys((*known, *extractor.taps))})
    for tap, entry in known.items():
        _restore(tally, tap, entry.state, source, device)
        if tap in keep:
            tally.gathered[tap].keep(shared_tensor(entry.features))
    missing = {tap: one for tap, one in tally.gathered.items() if tap not in known}
    tally.seconds = 0.0
    watching = None if watch is None or missing else watch(start=tally.read)
    if missing:
        passing = Tally(missing)
        with ExitStack() as opened:
            for tap, recording in recordings.items():
                opened.enter_context(recording)
                if recording.resumed is not None:
                    _restore(passing, tap, recording.resumed, source, device)
                    if tap in keep and recording.keeps_rows:
                        passing.gathered[tap].keep(recording.earlier().to(device))
            watching = None if watch is None else watch(start=passing.read)
            seen = None if watching is None else watching.see
            begun = {"start": passing.read, "missed": len(passing.skipped)}
            batches = features_of(source, protocol, extractor, reading, device=device, seen=seen, **begun)
            _run(batches, passing, source, extractor, recordings, progress, world)
        tally.read, tally.seconds, tally.skipped = passing.read, passing.seconds, passing.skipped
    remark = None if watching is None else watching.finish()
    if remark:
        source.notes = (*source.notes, remark)
    tally.finish()
    for one in tally.gathered.values():
        one.moments = merge_across(one.moments, world, device=device)
    tally.skipped = [bad for share in world.gather("skipped", tally.skipped) for bad in share]
    tally.read = sum(world.gather("read", tally.read))
    if tally.read == len(tally.skipped):
        raise EmptySourceError(
            f"{source.description}: none of the {len(tally.skipped)} images could be read; the first: "
            f"{tally.skipped[0]}"
            if tally.skipped
            else f"{source.description}: the {source.kind} yielded no images"
        )
    return tally


def _run(
    batches: Generator[FeatureBatch, None, None],
    tally: Tally,
    source: Source,
    extractor: Extractor,
    recordings: Mapping[str, Recording],
    progress: Progress | None,
    world: World,
) -> None:
    """Add up what is left of a pass, and have it recorded."""
    begin, show = time.perf_counter() - tally.seconds, progress or (lambda _count: None)

    def state(tap: str) -> PassState:
        extractor.check()
        one, skipped = tally.gathered[tap], tuple(tally.skipped)
        rows = None if recordings[tap].keeps_rows else one.rows
        return PassState(one.moments.state(), tally.read, tally.seconds, one.rest, skipped, tuple(source.notes), rows)

    show(tally.read)
    with closing(batches):
        for batch in batches:
            for tap, recording in recordings.items():
                if batch.rows is not None:
                    recording.append(batch.rows[tap])
            tally.add(batch)
            tally.seconds = time.perf_counter() - begin
            for tap, recording in recordings.items():
                recording.offer(partial(state, tap))
            show(len(batch.names) + len(batch.bad))
            world.check()
    extractor.check()
    for one in tally.gathered.values():
        one.moments.check()
    for tap, recording in recordings.items():
        recording.finish(state(tap))
    tally.seconds = time.perf_counter() - begin


def _restore(tally: Tally, tap: str, state: PassState, source: Source, device: torch.device) -> None:
    """A pass where an earlier one stopped, or ended."""
    one = tally.gathered[tap]
    one.moments = Moments.from_state(state.moments, float64_device(device))
    one.rest = None if state.rest is None else state.rest.to(device)
    if state.kept is not None:
        one.keep(state.kept.to(device))
    tally.skipped, tally.read, tally.seconds = list(state.skipped), state.read, state.seconds
    source.notes = tuple(dict.fromkeys((*state.notes, *source.notes)))
