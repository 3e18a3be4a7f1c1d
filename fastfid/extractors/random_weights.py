"""Parameters for ``weights="random"``: the FID network without training, the same on every machine.

Features of an untrained network are an accepted choice for images that look nothing like ImageNet (Naeem et al. 2020,
section 4.3), and they let everything run where the published file can't be had. A distance between them is no FID.

The recipe, for a seed s:

1. Layer i (0, 1, … in the order of ``fastfid.extractors.inception.units``; the classifier's weights and biases are
   layers 10000 and 10001) reads 16-bit integers k from the counter-based generator Philox4x64-10 with the key
   (s, i), low bits first. Weight = (k - 32767.5) / 65536 · sqrt(24 / fan_in), rounded to float32: uniform, variance
   2 / fan_in (He et al. 2015). Integers and correctly rounded operations only, so every platform gets the same bits.
2. Batch normalisation: scale 1, shift 1, and the mean and variance of 8 images of 139 x 139 that the same generator
   draws (smooth noise of several scales under discs and boxes), found layer by layer in float64 and rounded to 8
   significant bits, so that platforms, whose sums differ in the 15th digit, agree here too.

The shift of 1 keeps most rectifiers open. With a shift of 0 each layer would amplify the rounding errors of the one
before by about 1.2 relative to the signal, which over 47 layers leaves few good digits in float32 and makes deep
features respond to anything alike.

Source: Salmon et al., SC 2011, doi:10.1145/2063384.2063405 (Philox); He et al., ICCV 2015, arXiv:1502.01852; Naeem et
al., ICML 2020, arXiv:2002.09797.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastfid.extractors.inception import BATCH_NORM_EPS, CLASSES, TAPS, Run, Unit, pool_before, units, walk

DEFAULT_SEED = 0
SHIFT = 1.0
_FC_WEIGHT, _FC_BIAS, _NOISE, _SHAPES = 10_000, 10_001, 20_000, 30_000
_IMAGES, _SIDE_PX, _SHAPES_PER_IMAGE, _SIGNIFICANT_BITS = 8, 139, 6, 8

Float64 = NDArray[np.float64]


def random_state(seed: int = DEFAULT_SEED) -> dict[str, Tensor]:
    """The state dict that the module's text describes.

    Args:
        seed: 0 ≤ seed < 2⁶⁴.

    Returns:
        Float32 tensors on the CPU under the public file's names, as ``InceptionV3.load_state_dict`` takes them.

    Raises:
        ValueError: the seed is out of range.

    Numerics:
        The bits do not depend on the machine, the number of threads or the versions of torch and NumPy; the digest of
        seed 0 is written down in tests/test_extractors_random.py::test_the_default_seed_gives_the_written_bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer with 0 <= seed < 2**64; got {seed!r}")
    features = TAPS["2048"]
    state: dict[str, Tensor] = {}
    for i, (path, unit) in enumerate(units()):
        state[f"{path}.conv.weight"] = _weight(seed, i, (unit.outputs, unit.inputs, *unit.kernel))
    state["fc.weight"] = _weight(seed, _FC_WEIGHT, (CLASSES, features))
    state["fc.bias"] = torch.from_numpy(_uniform(seed, _FC_BIAS, (CLASSES,)).astype(np.float32))
    _calibrate(state, _images(seed))
    return state


def _integers(seed: int, stream: int, count: int) -> NDArray[np.uint16]:
    """``count`` 16-bit integers of one stream."""
    words = np.random.Philox(key=seed + (stream << 64)).random_raw(-(-count // 4))
    return words.astype("<u8").view("<u2")[:count]


def _uniform(seed: int, stream: int, shape: tuple[int, ...]) -> Float64:
    """Uniform in (-1, 1), exact multiples of 2⁻¹⁶."""
    return ((_integers(seed, stream, math.prod(shape)).astype(np.float64) - 32767.5) / 32768).reshape(shape)


def _weight(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Weights with variance 2 / fan_in."""
    bound = np.sqrt(6.0 / math.prod(shape[1:]))
    return torch.from_numpy((_uniform(seed, stream, shape) * bound).astype(np.float32))


def _images(seed: int) -> Tensor:
    """The calibration images [8, 3, 139, 139] float64 in [-1, 1]."""
    images = np.zeros((_IMAGES, 3, _SIDE_PX, _SIDE_PX))
    for octave, cells in enumerate((2, 4, 8, 16, 32, 64)):
        grid = _uniform(seed, _NOISE + 2 * octave, (_IMAGES, 3, cells + 1, cells + 1))
        strength = (_uniform(seed, _NOISE + 2 * octave + 1, (_IMAGES, 1, 1, 1)) + 1) / 2
        position = np.arange(_SIDE_PX) * cells / _SIDE_PX
        first = position.astype(np.int64)
        part = position - first
        rows = grid[:, :, first] * (1 - part)[:, None] + grid[:, :, first + 1] * part[:, None]
        images += strength * (rows[..., first] * (1 - part) + rows[..., first + 1] * part)
    y, x = np.mgrid[0:_SIDE_PX, 0:_SIDE_PX] / _SIDE_PX
    shapes = _uniform(seed, _SHAPES, (_IMAGES, _SHAPES_PER_IMAGE, 8))
    for image, described in zip(images, shapes, strict=True):
        for centre_x, centre_y, size, aspect, kind, *colour in described:
            radius = 0.2 + 0.15 * size
            dx = (x - (centre_x + 1) / 2) / radius
            dy = (y - (centre_y + 1) / 2) / (radius * (1 + aspect / 2))
            inside = dx * dx + dy * dy < 1 if kind < 0 else np.maximum(np.abs(dx), np.abs(dy)) < 1
            image[:, inside] = np.asarray(colour)[:, None]
    return torch.from_numpy(images.clip(-1, 1))


def _round(values: Tensor) -> Tensor:
    """To 8 significant bits, ties to even."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2**_SIGNIFICANT_BITS), exponent - _SIGNIFICANT_BITS)


def _calibrate(state: dict[str, Tensor], images: Tensor) -> None:
    """Add the batch normalisation's entries to ``state``, from one pass over the images in float64."""

    def run(path: str, unit: Unit) -> Run:
        """Convolve, take the statistics, normalise by them, rectify."""

        def unit_run(x: Tensor) -> Tensor:
            weight = state[f"{path}.conv.weight"].double()
            z = F.conv2d(pool_before(x, unit.pool), weight, None, unit.stride, unit.padding)
            mean = _round(z.mean((0, 2, 3)))
            variance = _round(z.var((0, 2, 3), correction=0))
            state[f"{path}.bn.weight"] = torch.ones(unit.outputs, dtype=torch.float32, device="cpu")
            state[f"{path}.bn.bias"] = torch.full((unit.outputs,), SHIFT, dtype=torch.float32, device="cpu")
            state[f"{path}.bn.running_mean"] = mean.float()
            state[f"{path}.bn.running_var"] = variance.float()
            scale = torch.rsqrt(variance + BATCH_NORM_EPS)
            return F.relu((z - mean[:, None, None]) * scale[:, None, None] + SHIFT)

        return unit_run

    with torch.no_grad():
        runs = {path: run(path, unit) for path, unit in units()}
        walk(images, runs, (state["fc.weight"], state["fc.bias"]), ("2048",))
