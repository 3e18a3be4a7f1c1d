"""source → resample → extractor → moments, one batch at a time.

Memory does not grow with the number of images: a batch of uint8 pixels, its features and the moments are all there is.
Decoding runs ahead of the network (worker processes, or a thread); resampling happens where the network is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch

from fastfid._dispatch import backend_for
from fastfid.errors import BadImageError, EmptySourceError
from fastfid.extractors import Extractor
from fastfid.moments import Moments
from fastfid.protocols import IDENTITY, Normalize, Protocol, Resize
from fastfid.resample import RaggedImages, resize_normalize
from fastfid.sources import Source

Progress = Callable[[int], None]
"""Called after each batch with the number of images it held."""


@dataclass(frozen=True)
class Extraction:
    """What one pass over an image set gave.

    Attributes:
        moments: of the features, in float64.
        skipped: the images that could not be read and were left out (only with ``skip_bad``).
        dropped: how many images at the end the protocol leaves out of its statistics (an incomplete last block).
        seconds: wall time of the pass.
    """

    moments: Moments
    skipped: tuple[BadImageError, ...]
    dropped: int
    seconds: float


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
    where, _ = resampler(device)
    # Asynchronous towards a GPU only: towards the CPU nothing would wait for the copy before the resampler reads it.
    pixels = images.to(where, non_blocking=where.type == "cuda")
    if protocol.pre_resize is None:
        return _resample(pixels, protocol.resize, protocol.normalize, protocol.crop).to(device)
    small = _resample(pixels, protocol.pre_resize, IDENTITY, protocol.crop)
    made = _resample(small.permute(0, 2, 3, 1), protocol.resize, protocol.normalize, "none")
    return made.to(device)


def _resample(pixels: torch.Tensor | RaggedImages, step: Resize, affine: Normalize, crop: str) -> torch.Tensor:
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
    )


def extract(
    source: Source,
    protocol: Protocol,
    extractor: Extractor,
    *,
    device: torch.device,
    batch_size: int,
    num_workers: int = 0,
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """One pass: the moments of the extractor's features over an image set.

    Raises:
        BadImageError: an image can't be read and ``skip_bad`` is false.
        EmptySourceError: no image was left.
    """
    begin = time.perf_counter()
    moments = Moments()
    skipped: list[BadImageError] = []
    whole = _WholeBlocks(protocol.statistics.block)
    batches = source.batches(batch_size, num_workers=num_workers, limit=limit, seed=seed, skip_bad=skip_bad)
    with closing(batches), torch.no_grad():
        for batch in batches:
            skipped.extend(batch.bad)
            if batch.names:
                features = extractor(prepare(batch.images, protocol, device))
                for block in whole.push(features):
                    moments.update(block)
            if progress is not None:
                progress(len(batch.names) + len(batch.bad))
        for block in whole.finish():
            moments.update(block)
    if moments.n == 0:
        raise EmptySourceError(
            f"{source.description}: none of the {len(skipped)} images could be read; the first: {skipped[0]}"
            if skipped
            else f"{source.description}: the {source.kind} yielded no images"
        )
    return Extraction(moments, tuple(skipped), whole.left, time.perf_counter() - begin)


class _WholeBlocks:
    """Passes rows on in multiples of ``block``; a shorter rest is left out unless it is all there ever was."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.passed = 0
        self.left = 0
        self.rest: torch.Tensor | None = None

    def push(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        if self.block == 0:
            yield rows
            return
        if self.rest is not None:
            rows = torch.cat([self.rest, rows])
        whole = len(rows) - len(rows) % self.block
        self.rest = rows[whole:]
        if whole:
            self.passed += whole
            yield rows[:whole]

    def finish(self) -> Iterator[torch.Tensor]:
        if self.rest is None or len(self.rest) == 0:
            return
        if self.passed == 0:
            yield self.rest
        else:
            self.left = len(self.rest)
