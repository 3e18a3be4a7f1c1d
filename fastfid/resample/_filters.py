"""Resampling filters and weight tables, computed on the host.

A table says, for every output pixel of one axis, which source pixels it sums and with which weights:
``out[i] = Σ_k weights[i, k] · in[first[i] + k]``, k < count[i]. Two families of packages decide how it comes about:

* with ``antialias`` (Pillow; torch's ``antialias=True``): the filter is stretched by ``filter_scale = max(scale, 1)``,
  where ``scale = in/out``, around ``center = (i + ½)·scale``; taps outside the image are dropped and the rest is
  normalised to sum 1;
* without (torch's default, TensorFlow 1, NVIDIA): the filter is sampled at scale 1 around a source coordinate that the
  ``coordinates`` rule gives; taps outside the image fall on its border pixel.

``precision`` says in which arithmetic the coordinates and weights come about: Pillow uses double, torch and TensorFlow
use single precision, which at 1024 pixels is visible in the fifth digit. Single-precision tables repeat torch's
operations one by one (``tests/test_resample_torch.py`` compares the weights).

Source: Pillow src/libImaging/Resample.c and Geometry.c; PyTorch aten/src/ATen/native/cpu/UpSampleKernel.cpp,
GridSampler.h, AffineGridGenerator.cpp; TensorFlow 1 core/kernels/image_resizer_state.h. Keys' cubic:
doi:10.1109/TASSP.1981.1163711.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
FRACTION_BITS = 22  # of the integer weights in the uint8 contract, as in Pillow

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos3")
COORDINATES = ("half-pixel", "tf1-legacy", "align-corners", "nvidia-grid")
PRECISIONS = ("auto", "single", "double")
PASSES = ("auto", "horizontal-first", "pillow-12.2", "pillow-13")

_SUPPORT = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos3": 3.0}  # radius at scale 1


@dataclass(frozen=True)
class Rule:
    """What, besides the sizes, decides a table. ``precision`` is "single" or "double"."""

    filter: str
    antialias: bool
    a: float
    coordinates: str
    precision: str


@dataclass(frozen=True, eq=False)
class Table:
    """The weights of one axis.

    Attributes:
        first: int32 [out], first source index of each output.
        count: int32 [out], number of taps of each output, at least 1.
        weights: float64 [out, taps], rows sum to 1; unused taps are 0.
        size: number of source pixels.
    """

    first: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    size: int

    @property
    def longest(self) -> int:
        """The largest number of taps."""
        return int(self.weights.shape[1])

    def _padded(self) -> npt.NDArray[np.float64]:
        """The weights with zero columns up to a multiple of four, which the kernels read at once."""
        return np.pad(self.weights, ((0, 0), (0, -self.longest % 4)))

    @functools.cached_property
    def single(self) -> npt.NDArray[np.float32]:
        """The weights of the float contract, padded."""
        return np.ascontiguousarray(self._padded(), dtype=np.float32)

    @functools.cached_property
    def fixed(self) -> npt.NDArray[np.int32]:
        """The weights of the uint8 contract, padded: times 2^22, rounded half away from zero, as Pillow does."""
        scaled = self._padded() * float(1 << FRACTION_BITS)
        return np.ascontiguousarray(np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5)), dtype=np.int32)

    def dense(self, *, fixed: bool = False) -> npt.NDArray[np.float64]:
        """The weights (or the integer ones) as a matrix, float64 [out, size]."""
        weights = self.fixed[:, : self.longest].astype(np.float64) if fixed else self.weights
        matrix = np.zeros((len(self.first), self.size))
        at = self.first[:, None] + np.arange(self.longest)
        used = np.arange(self.longest) < self.count[:, None]
        matrix[np.nonzero(used)[0], at[used]] = weights[used]
        return matrix


def _box(x: Floats) -> Floats:
    return ((x > -0.5) & (x <= 0.5)).astype(x.dtype)


def _triangle(x: Floats) -> Floats:
    return np.asarray(np.maximum(x.dtype.type(1) - np.abs(x), x.dtype.type(0)))


def _hamming(x: Floats) -> Floats:
    radians = np.abs(x) * np.pi
    safe = np.where(radians == 0, 1.0, radians)
    # Pillow writes the constants as single-precision literals
    raised = float(np.float32(0.54)) + float(np.float32(0.46)) * np.cos(safe)
    inside = np.where(radians == 0, 1.0, np.sin(safe) / safe * raised)
    return np.where(np.abs(x) < 1, inside, 0.0).astype(x.dtype)


def _fused(x: Floats, y: Any, z: Any) -> Floats:
    """x·y + z; in single precision rounded once, as the compiler of torch's kernels makes it."""
    if x.dtype == np.float64:
        return np.asarray(x * y + z)
    return np.asarray(np.asarray(x.astype(np.float64) * y + z).astype(np.float32))


def _cubic(x: Floats, a: float) -> Floats:
    x = np.abs(x)
    near = _fused(_fused(x, a + 2.0, -(a + 3.0)) * x, x, 1.0)
    far: Floats
    if x.dtype == np.float64:  # the order of operations of Pillow, then of torch
        far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    else:
        far = _fused(_fused(_fused(x, a, -5.0 * a), x, 8.0 * a), x, -4.0 * a)
    return np.asarray(np.where(x < 1, near, np.where(x < 2, far, x.dtype.type(0))))


def _sinc(x: Floats) -> Floats:
    radians = x * np.pi
    safe = np.where(radians == 0, 1.0, radians)
    return np.where(radians == 0, 1.0, np.sin(safe) / safe)


def _lanczos(x: Floats) -> Floats:
    return np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0).astype(x.dtype)


def _function(rule: Rule) -> Callable[[Floats], Floats]:
    if rule.filter == "bicubic":
        return lambda x: _cubic(x, rule.a)
    return {"box": _box, "bilinear": _triangle, "hamming": _hamming, "lanczos3": _lanczos}[rule.filter]


def _finish(first: Any, count: Any, weights: Any, size: int) -> Table:
    taps = max(int(np.max(count)), 1)
    arrays = (
        np.ascontiguousarray(first, dtype=np.int32),
        np.ascontiguousarray(count, dtype=np.int32),
        np.ascontiguousarray(weights[:, :taps], dtype=np.float64),
    )
    for array in arrays:
        array.flags.writeable = False
    return Table(*arrays, size)


def _identity(size: int) -> Table:
    return _finish(np.arange(size), np.ones(size), np.ones((size, 1)), size)


def _stretched(size: int, out: int, low: float, high: float, rule: Rule) -> Table:
    """Antialiased: the filter widened by the scale, cut at the image border, normalised."""
    kind = np.float32 if rule.precision == "single" else np.float64
    # Pillow keeps a box in single precision and subtracts there
    scale = kind(size) / kind(out) if rule.precision == "single" else kind(np.float32(high) - np.float32(low)) / out
    stretch = max(scale, kind(1))
    support = kind(_SUPPORT[rule.filter] * stretch)
    center = (low + (np.arange(out) + 0.5) * np.float64(scale)).astype(kind)
    first = np.maximum(np.trunc((center - support).astype(np.float64) + 0.5), 0).astype(np.int64)
    last = np.minimum(np.trunc((center + support).astype(np.float64) + 0.5), size).astype(np.int64)
    count = last - first
    taps = np.arange(max(int(count.max()), 1))
    offset = ((taps + first[:, None]).astype(kind) - center[:, None]) + kind(0.5)
    inverse = kind(1.0 / np.float64(stretch))
    weights = np.where(taps < count[:, None], _function(rule)(offset * inverse), kind(0))
    total = np.cumsum(weights, axis=1, dtype=kind)[:, -1:]  # one after the other, as the packages add
    weights = np.divide(weights, total, out=weights, where=total != 0)
    return _finish(first, count, weights, size)


def _source_coordinates(size: int, out: int, low: float, high: float, rule: Rule) -> Floats:
    """Where each output pixel lies in the source, pixel centres at whole numbers."""
    i = np.arange(out)
    if rule.precision == "double":
        if rule.coordinates == "align-corners":
            return np.asarray(i * ((size - 1) / max(out - 1, 1)))
        scale = (high - low) / out
        # The NVIDIA grid is the TF1 rule; they differ only by rounding in single precision.
        return np.asarray(low + (i + 0.5) * scale - 0.5 if rule.coordinates == "half-pixel" else low + i * scale)
    single = np.float32
    if rule.coordinates == "align-corners":
        return np.asarray(i.astype(single) * (single(size - 1) / single(max(out - 1, 1))))
    if rule.coordinates == "tf1-legacy":
        return np.asarray(i.astype(single) * single(size / out))
    if rule.coordinates == "half-pixel":  # torch's compiler fuses scale·(i + ½) − ½ into one rounding
        return np.asarray(np.float64(single(size) / single(out)) * (i + 0.5) - 0.5).astype(single)
    return _nvidia_coordinates(size, out)


def _nvidia_coordinates(size: int, out: int) -> Floats:
    """affine_grid (align_corners=False) shifted by 1/size − 1/out, then grid_sample's way back to pixels."""
    single = np.float32
    half = out // 2
    step = single(2) / single(max(out - 1, 1))
    i = np.arange(out)
    # torch.linspace(-1, 1) counts from both ends
    rising = (np.float64(step) * i - 1.0).astype(single)
    falling = (1.0 - np.float64(step) * (out - 1 - i)).astype(single)
    line = np.where(i < half, rising, falling) if out > 1 else np.full(1, -1, dtype=single)
    line = line * single(out - 1) / single(out)
    shift = single(single(1) / single(size)) - single(single(1) / single(out))
    grid = line + shift
    x = ((grid + single(1)).astype(np.float64) * (size / 2) - 0.5).astype(single)
    return np.asarray(np.clip(x, single(0), single(size - 1)))


def _sampled(size: int, out: int, low: float, high: float, rule: Rule) -> Table:
    """Not antialiased: the filter at scale 1 around a source coordinate; taps outside fall on the border pixel."""
    x = _source_coordinates(size, out, low, high, rule)
    kind = x.dtype.type
    if rule.filter == "bilinear":
        x = np.maximum(x, kind(0))  # left of the first centre torch and TF use the first pixel alone
        floor = np.minimum(np.floor(x), kind(size - 1))
        t = np.clip(x - floor, kind(0), kind(1))
        weights = np.stack([kind(1) - t, t], axis=1)
        begin = floor.astype(np.int64)
    else:
        radius = int(np.ceil(_SUPPORT[rule.filter]))
        floor = np.floor(x)
        begin = floor.astype(np.int64) - (radius - 1)
        t = x - floor
        distance = t[:, None] - np.arange(1 - radius, radius + 1).astype(x.dtype)
        weights = _function(rule)(distance)
        if rule.filter != "bicubic":
            weights = weights / np.cumsum(weights, axis=1)[:, -1:]
    return _fold(begin, weights.astype(np.float64), size)


def _fold(begin: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], size: int) -> Table:
    """Taps at begin, begin + 1, … with those outside the image added to the border pixel."""
    at = np.clip(begin[:, None] + np.arange(weights.shape[1]), 0, size - 1)
    first = at[:, 0]
    count = at[:, -1] - first + 1
    folded = np.zeros((len(first), int(count.max())))
    np.add.at(folded, (np.arange(len(first))[:, None], at - first[:, None]), weights)
    return _finish(first, count, folded, size)


def _nearest(size: int, out: int, low: float, high: float, rule: Rule) -> Table:
    if rule.coordinates == "half-pixel" and rule.precision == "double":
        scale = float(np.float32(high) - np.float32(low)) / out  # Pillow steps from pixel to pixel by adding
        x = np.cumsum(np.concatenate([[low + scale * 0.5], np.full(out - 1, scale)]))
    elif rule.coordinates == "half-pixel":
        x = (np.arange(out) + 0.5).astype(np.float32) * (np.float32(size) / np.float32(out))
    elif rule.coordinates == "align-corners":
        x = np.floor(_source_coordinates(size, out, low, high, rule) + 0.5)
    else:
        x = _source_coordinates(size, out, low, high, rule)
    first = np.clip(np.floor(x).astype(np.int64), 0, size - 1)
    return _finish(first, np.ones(out), np.ones((out, 1)), size)


def vertical_first(height: Any, width: Any, out_height: int, out_width: int, passes: str) -> Any:
    """Whether Pillow of that version makes the vertical pass first; sizes may be arrays.

    Read off Pillow's results (tests/test_resample_pillow.py): up to 12.1 never; 12.2 and 12.3 when shrinking the height
    of images more than 100 times as tall as wide; 13.0 when the height shrinks, and by more than twice as many pixels
    as the width.
    """
    if passes == "pillow-12.2":
        return (height > 100 * width) & (height > out_height)
    if passes == "pillow-13":
        return (height > out_height) & (height - out_height > 2 * (width - out_width))
    return height != height


def passes_of(pillow_version: str) -> str:
    """The value of ``passes`` that repeats a version of Pillow."""
    major, minor = (int(part) for part in pillow_version.split(".")[:2])
    if major >= 13:
        return "pillow-13"
    return "pillow-12.2" if (major, minor) >= (12, 2) else "horizontal-first"


@functools.lru_cache(maxsize=2048)
def table(size: int, out: int, low: float, high: float, rule: Rule) -> Table:
    """The table that maps source pixels [low, high) of ``size`` to ``out`` pixels."""
    whole = low == 0.0 and high == size
    if size == out and whole and rule.coordinates in ("half-pixel", "tf1-legacy", "align-corners"):
        return _identity(size)  # every package leaves such an axis untouched
    if rule.filter == "nearest":
        return _nearest(size, out, low, high, rule)
    make = _stretched if rule.antialias else _sampled
    return make(size, out, low, high, rule)
