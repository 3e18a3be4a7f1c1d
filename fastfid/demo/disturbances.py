"""The disturbances by which FID was introduced: five ways to spoil an image set, each at four levels.

A distance between image sets should grow with each level. The recipes and levels are those of the study that came with
the FID paper; pixels are x ∈ [0, 255], and X = x/127.5 − 1 ∈ [−1, 1]. The study fed its floats to the network; here a
disturbed set is an image set again, so values are rounded to uint8 (half to even). Level 0 changes nothing.

Source: Heusel et al. 2017, arXiv:1706.08500, figure 3 and appendix A1; code in https://github.com/bioinf-jku/TTUR,
FIDvsINC/main.py and fidutils.py. Swirl: https://scikit-image.org, skimage.transform.swirl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Disturbance:
    """One way to spoil images.

    Attributes:
        name: for tables and plots.
        parameter: what the level is, with its unit where it has one.
        levels: the four levels of the study; the first leaves the images as they are.
        formula: what is done to an image, in one line.
        apply: (images uint8 [n, H, W, 3], level, seed) → uint8 [n, H, W, 3]; the images given stay unchanged.
    """

    name: str
    parameter: str
    levels: tuple[float, ...]
    formula: str
    apply: Callable[[Images, float, int], Images]


def gaussian_noise(images: Images, level: float, seed: int) -> Images:
    """X ← (1 − α)·X + α·N, so that the image fades to grey as the noise comes.

    The study's N is normal noise rescaled to [−1, 1] by its own smallest and largest value, which for its 6·10⁸ draws
    lie near ±6 standard deviations. Here N is a normal number divided by 6, cut at ±1, whatever the size of the set.

    Args:
        images: uint8 [n, H, W, 3].
        level: α in [0, 1].
        seed: of the noise.
    """
    _check(images, "level", level, 0, 1)
    noise = np.clip(np.random.RandomState(seed % 2**32).standard_normal(images.shape) / 6, -1, 1)
    return _to_uint8((((1 - level) * (images / 127.5 - 1) + level * noise) + 1) * 127.5)


def gaussian_blur(images: Images, level: float, seed: int = 0) -> Images:
    """x ← g_σ ∗ x, with weights exp(−k²/2σ²) for whole k up to 4σ, normalised; the border pixel continues outside.

    Args:
        images: uint8 [n, H, W, 3].
        level: σ ≥ 0 in pixels.
        seed: not used; there is nothing random here.
    """
    del seed
    _check(images, "level", level, 0, None)
    if level == 0:
        return np.array(images)
    radius = int(4 * level + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / level) ** 2)
    weights /= weights.sum()
    blurred = images.astype(np.float64)
    for axis in (1, 2):
        length, sharp = images.shape[axis], blurred
        blurred = np.zeros_like(sharp)
        for offset, weight in zip(offsets, weights, strict=True):
            blurred += weight * sharp.take(np.clip(np.arange(length) + offset, 0, length - 1), axis=axis)
    return _to_uint8(blurred)


def black_rectangles(images: Images, level: float, seed: int, count: int = 5) -> Images:
    """x ← 0 on ``count`` rectangles of ⌊share·H⌋ × ⌊share·W⌋ pixels, anywhere inside the image; they may overlap.

    Args:
        images: uint8 [n, H, W, 3].
        level: share of the image's height and width, in [0, 1].
        seed: of the places.
        count: rectangles in each image.
    """
    _check(images, "level", level, 0, 1)
    rng = np.random.RandomState(seed % 2**32)
    height, width = images.shape[1:3]
    tall, wide = int(level * height), int(level * width)
    spoiled: Images = images.copy()
    for image in spoiled:
        for _ in range(count):
            top, left = rng.randint(height - tall + 1), rng.randint(width - wide + 1)
            image[top : top + tall, left : left + wide] = 0
    return spoiled


def swirl(images: Images, level: float, seed: int) -> Images:
    """Turn the image about its centre by an angle that falls off outwards, to the left or the right at random.

    Output pixel (ρ, θ) in polar coordinates takes the value at (ρ, θ ± strength·exp(−ρ/r)), bilinearly interpolated and
    mirrored at the border, with r = ln 2/5 · radius and, as in the study, radius = 70/64 of the image's longer side.
    Also as there, the first three and last four rows and columns stay as they were.

    Args:
        images: uint8 [n, H, W, 3].
        level: strength ≥ 0: radians at the centre.
        seed: of the directions.
    """
    _check(images, "level", level, 0, None)
    signs = np.where(np.random.RandomState(seed % 2**32).uniform(size=len(images)) < 0.5, -1.0, 1.0)
    spoiled: Images = images.copy()
    for image, sign in zip(spoiled, signs, strict=True):
        image[...] = _swirled(image, sign * level)
    spoiled[:, :3], spoiled[:, -4:] = images[:, :3], images[:, -4:]
    spoiled[:, :, :3], spoiled[:, :, -4:] = images[:, :, :3], images[:, :, -4:]
    return spoiled


def salt_and_pepper(images: Images, level: float, seed: int) -> Images:
    """With probability p a pixel becomes white or black, each as likely, in all channels.

    Args:
        images: uint8 [n, H, W, 3].
        level: p in [0, 1].
        seed: of the pixels.
    """
    _check(images, "level", level, 0, 1)
    rng = np.random.RandomState(seed % 2**32)
    hit, white = rng.uniform(size=images.shape[:3]) < level, rng.uniform(size=images.shape[:3]) < 0.5
    spoiled: Images = images.copy()
    spoiled[hit] = np.where(white[hit], 255, 0)[:, None]
    return spoiled


DISTURBANCES = (
    Disturbance("Gaussian noise", "α", (0.0, 0.25, 0.5, 0.75), "X ← (1−α)·X + α·N", gaussian_noise),
    Disturbance("Gaussian blur", "σ (px)", (0.0, 1.0, 2.0, 4.0), "x ← g_σ ∗ x", gaussian_blur),
    Disturbance("Black rectangles", "side share", (0.0, 0.25, 0.5, 0.75), "x ← 0 on 5 rectangles", black_rectangles),
    Disturbance("Swirl", "strength", (0.0, 1.0, 2.0, 4.0), "x(ρ, θ) ← x(ρ, θ ± s·exp(−ρ/r))", swirl),
    Disturbance("Salt & pepper", "p", (0.0, 0.1, 0.2, 0.3), "x ← 0 or 255 with probability p", salt_and_pepper),
)
"""The series of the study, in the order of the paper's table."""


def _swirled(image: Images, strength: float) -> Images:
    """One image, turned by ``strength`` at its centre."""
    height, width, _ = image.shape
    x0, y0 = width // 2, height // 2
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    decay = 70 / 64 * max(height, width) * np.log(2) / 5
    rho = np.hypot(x - x0, y - y0)
    theta = np.arctan2(y - y0, x - x0) + strength * np.exp(-rho / decay)
    return _to_uint8(_bilinear(image, y0 + rho * np.sin(theta), x0 + rho * np.cos(theta)))


def _bilinear(image: Images, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of an image between its pixels, mirrored about the border pixels outside."""
    places = []
    for at, length in ((y, image.shape[0]), (x, image.shape[1])):
        last = max(length - 1, 1)
        inside = last - np.abs(np.mod(at, 2 * last) - last)
        first = np.clip(np.floor(inside).astype(int), 0, max(length - 2, 0))
        places.append((first, np.minimum(first + 1, length - 1), (inside - first)[..., None]))
    (top, bottom, down), (left, right, along) = places
    upper = image[top, left] * (1 - along) + image[top, right] * along
    lower = image[bottom, left] * (1 - along) + image[bottom, right] * along
    between: NDArray[np.float64] = upper * (1 - down) + lower * down
    return between


def _to_uint8(values: NDArray[np.float64]) -> Images:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _check(images: Images, name: str, level: float, least: float, most: float | None) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must be uint8 [n, height, width, 3], got {images.dtype} {list(images.shape)}")
    if not (level >= least and (most is None or level <= most)):
        span = f"at least {least}" if most is None else f"in [{least}, {most}]"
        raise ValueError(f"{name} must be {span}, got {level}")
