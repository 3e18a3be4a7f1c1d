"""Image sets made by arithmetic: small scenes with light, shadow and texture, the same on every machine.

Each image is one of four kinds, drawn with random colours, sizes and places: hills under a sky, balls on a table,
houses on a street, a close-up of a woven or veined surface. They are no photographs, but they have what photographs
have and noise has not: large smooth areas, edges at every angle, shading, texture at several scales, grain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Field = NDArray[np.float64]  # [size, size], or [size, size, 3] for colour; brightness 0 … 1


def make_images(n: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Draw scenes.

    Image i depends on ``size``, ``seed`` and i alone: a longer set begins with the shorter one. The numbers come from
    ``numpy.random.RandomState``, whose streams NumPy promises never to change.

    Args:
        n: how many, at least 1.
        size: height and width in pixels, at least 8.
        seed: sets with different seeds are different samples of one distribution.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        ValueError: n or size too small.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    return np.stack([_scene(size, np.random.RandomState([seed % 2**32, index])) for index in range(n)])


def contact_sheet(images: NDArray[np.uint8], columns: int = 8, gap: int = 2) -> Image.Image:
    """Images side by side on white, for a look at them.

    Args:
        images: uint8 [n, H, W, 3].
        columns: images in a row.
        gap: pixels between neighbours and around all.
    """
    from PIL import Image

    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((gap + rows * (height + gap), gap + columns * (width + gap), 3), 255, np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet)


def _scene(size: int, rng: np.random.RandomState) -> NDArray[np.uint8]:
    """One image: a scene, then what a camera adds (light falling off to the corners, a tint, grain)."""
    picture = _KINDS[rng.randint(len(_KINDS))](size, rng)
    y, x = _grid(size)
    picture = picture * (1.0 - rng.uniform(0.0, 0.45) * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None]
    picture = picture * (1.0 + rng.uniform(-0.08, 0.08, 3))
    picture = picture + rng.uniform(0.004, 0.02) * rng.standard_normal((size, size, 1))
    return np.clip(np.rint(255.0 * picture), 0, 255).astype(np.uint8)


def _hills(size: int, rng: np.random.RandomState) -> Field:
    """A sky with clouds and a sun, and ranges of hills that get darker and sharper towards the viewer."""
    y, x = _grid(size)
    top, low = _colour(rng, 0.35, 0.7), _colour(rng, 0.7, 1.0)
    picture = _blend(top, low, y)
    clouds = _unit(2.5 * (_clouds(size, rng, 3) - rng.uniform(0.35, 0.6))) * (1 - y)
    picture = _over(picture, np.ones(3) * 0.97, 0.8 * clouds)
    sun = _disc(x, y, rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.35), rng.uniform(0.04, 0.1), size)
    picture = _over(picture, np.array([1.0, 0.93, 0.7]), sun)
    ground = _colour(rng, 0.15, 0.55)
    for depth in range(rng.randint(2, 5)):
        base = rng.uniform(0.4, 0.55) + 0.13 * depth
        ridge = base - 0.25 * (_line(size, rng, 3 + depth) - 0.5)
        inside = _unit((y - ridge[None, :]) * size + 0.5)
        haze = 0.75**depth * 0.7
        shade = 0.75 + 0.5 * _clouds(size, rng, 2 + depth)[..., None]
        picture = _over(picture, (haze * low + (1 - haze) * ground) * shade, inside)
    return picture


def _balls(size: int, rng: np.random.RandomState) -> Field:
    """Shaded balls of plain, striped or spotted colour on a table, with shadows; light from one side."""
    y, x = _grid(size)
    edge = rng.uniform(0.35, 0.6)
    wall = _blend(_colour(rng, 0.4, 0.9), _colour(rng, 0.3, 0.8), x) * (0.9 + 0.2 * _clouds(size, rng, 2)[..., None])
    table = _colour(rng, 0.3, 0.75) * (0.8 + 0.4 * _grain(size, rng)[..., None])
    picture = _over(wall, table, _unit((y - edge) * size + 0.5))
    light = rng.uniform(-0.7, 0.7)
    places = sorted(rng.uniform(edge + 0.02, 0.9, rng.randint(2, 6)))
    for foot in places:
        radius = rng.uniform(0.06, 0.16) * (0.6 + foot)
        across, up = rng.uniform(0.1, 0.9), foot - radius
        shadow = ((x - across + 0.9 * light * radius) / (1.5 * radius)) ** 2 + ((y - foot) / (0.4 * radius)) ** 2
        picture = picture * (1 - 0.6 * _unit(1.3 - shadow))[..., None]
        u, v = (x - across) / radius, (y - up) / radius
        z = np.sqrt(_unit(1 - u**2 - v**2))
        lit = _unit(-0.55 * v - light * u + 0.65 * z)
        gloss = _unit(lit) ** 24 * rng.uniform(0, 0.9)
        skin = _blend(_colour(rng, 0.25, 1.0), _colour(rng, 0.2, 0.9), _pattern(u, v, rng))
        picture = _over(
            picture, skin * (0.25 + 0.85 * lit)[..., None] + gloss[..., None], _disc(x, y, across, up, radius, size)
        )
    return picture


def _houses(size: int, rng: np.random.RandomState) -> Field:
    """A street front: walls with rows of lit and dark windows, roofs against a sky."""
    y, x = _grid(size)
    picture = _blend(_colour(rng, 0.4, 0.85), _colour(rng, 0.6, 1.0), y) + 0.15 * (
        _clouds(size, rng, 3)[..., None] - 0.5
    )
    left = -0.05
    while left < 1.0:
        width, top = rng.uniform(0.16, 0.4), rng.uniform(0.15, 0.55)
        right = left + width
        wall = _colour(rng, 0.3, 0.85) * (0.8 + 0.4 * _clouds(size, rng, 4)[..., None])
        pitch = rng.choice([0.0, 0.35, 0.7])
        roof = top - pitch * _unit(width / 2 - np.abs(x - (left + right) / 2))
        inside = _unit((x - left) * size + 0.5) * _unit((right - x) * size + 0.5)
        picture = _over(picture, _colour(rng, 0.1, 0.5), inside * _unit((y - roof) * size + 0.5))
        picture = _over(picture, wall, inside * _unit((y - top) * size + 0.5))
        across, down = rng.randint(2, 5), rng.uniform(0.08, 0.15)
        column, row = (x - left) / width * across, (y - top) / down
        panes = (np.abs(column % 1 - 0.5) < 0.26) & (np.abs(row % 1 - 0.5) < 0.3) & (row > 0.3)
        lights = rng.uniform(size=(64, across))[
            np.clip(row, 0, 63).astype(int), np.clip(column, 0, across - 1).astype(int)
        ]
        glass = np.where(lights[..., None] < 0.4, np.array([1.0, 0.85, 0.5]), np.array([0.12, 0.16, 0.24]))
        picture = _over(picture, glass, inside * panes)
        left = right + rng.choice([0.0, 0.0, 0.05])
    street = _unit((y - rng.uniform(0.8, 0.92)) * size + 0.5)
    return _over(picture, np.ones(3) * rng.uniform(0.2, 0.5) * (0.8 + 0.4 * _grain(size, rng)[..., None]), street)


def _surface(size: int, rng: np.random.RandomState) -> Field:
    """A close-up: threads, veins or cells, lit from one side so that they stand out in relief."""
    y, x = _grid(size)
    turn, zoom = rng.uniform(0, np.pi), rng.uniform(3, 9)
    u = zoom * (np.cos(turn) * x + np.sin(turn) * y) + rng.uniform(0.2, 1.5) * _clouds(size, rng, 3)
    v = zoom * (np.cos(turn) * y - np.sin(turn) * x) + rng.uniform(0.2, 1.5) * _clouds(size, rng, 3)
    weave = rng.randint(3)
    if weave == 0:
        height = 0.5 + 0.5 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)
    elif weave == 1:
        height = 1 - np.abs(2 * ((u + 1.5 * _clouds(size, rng, 4)) % 1) - 1)
    else:
        points = rng.uniform(0, 1, (rng.randint(8, 24), 2))
        spans = np.sort(np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]), axis=-1)
        height = _unit(zoom * (spans[..., 1] - spans[..., 0]))
    height = height + 0.35 * _clouds(size, rng, 5)
    slope = np.gradient(height, axis=1) * np.cos(turn) + np.gradient(height, axis=0) * np.sin(turn)
    colour = _blend(_colour(rng, 0.1, 0.7), _colour(rng, 0.4, 1.0), _unit(height))
    relief: Field = 1 + rng.uniform(0.5, 2.0) * size / 64 * slope
    return colour * (relief * (0.85 + 0.3 * _clouds(size, rng, 1)))[..., None]


_KINDS: tuple[Callable[[int, np.random.RandomState], Field], ...] = (_hills, _balls, _houses, _surface)


def _grid(size: int) -> tuple[Field, Field]:
    """Pixel centres in [0, 1]: (y, x)."""
    centres = (np.arange(size) + 0.5) / size
    return np.repeat(centres[:, None], size, axis=1), np.repeat(centres[None, :], size, axis=0)


def _colour(rng: np.random.RandomState, low: float, high: float) -> Field:
    """A colour of a brightness between ``low`` and ``high``, from grey to fairly saturated."""
    hue = rng.uniform(0, 2 * np.pi)
    wheel = 0.5 + 0.5 * np.cos(hue - np.array([0.0, 2.0, 4.0]) * np.pi / 3)
    colour: Field = rng.uniform(low, high) * (1 - rng.uniform(0, 0.75) * (1 - wheel))
    return colour


def _unit(values: Field) -> Field:
    """Cut to 0 … 1."""
    cut: Field = np.clip(values, 0, 1)
    return cut


def _blend(one: Field, other: Field, share: Field) -> Field:
    """From one colour (share 0) to another (share 1)."""
    return one + (other - one) * share[..., None]


def _over(below: Field, above: Field, cover: Field) -> Field:
    """One picture or colour over another, where ``cover`` is 1."""
    return below + (above - below) * cover[..., None]


def _disc(x: Field, y: Field, across: float, up: float, radius: float, size: int) -> Field:
    """1 inside a circle, 0 outside, one pixel of transition."""
    return _unit((radius - np.hypot(x - across, y - up)) * size + 0.5)


def _pattern(u: Field, v: Field, rng: np.random.RandomState) -> Field:
    """Plain, stripes or spots over (u, v), 0 … 1."""
    kind, often, turn = rng.randint(3), rng.uniform(1.5, 4), rng.uniform(0, np.pi)
    along, across = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
    if kind == 0:
        return np.zeros_like(u)
    if kind == 1:
        return _unit(3 * np.sin(np.pi * often * along) + 0.5)
    return _unit(4 * (np.cos(np.pi * often * along) * np.cos(np.pi * often * across) - 0.3))


def _line(size: int, rng: np.random.RandomState, octaves: int) -> Field:
    """A smooth random line [size], about 0 … 1."""
    line: Field = _clouds(size, rng, octaves)[size // 2]
    return line


def _grain(size: int, rng: np.random.RandomState) -> Field:
    """Clouds drawn out sideways, like wood or asphalt seen flat; about 0 … 1."""
    width = max(size // 8, 1)
    drawn: Field = np.repeat(_clouds(size, rng, 5)[:, ::width], width, axis=1)
    return drawn[:, :size]


def _clouds(size: int, rng: np.random.RandomState, octaves: int) -> Field:
    """Value noise [size, size]: random lattices of 2, 4, 8 … cells, smoothly interpolated, halved at every step; 0 … 1.

    Source: K. Perlin, An image synthesizer, SIGGRAPH 1985, doi:10.1145/325165.325247 (the smoothstep lattice).
    """
    centres = (np.arange(size) + 0.5) / size
    total, weight = np.zeros((size, size)), 0.0
    for octave in range(1, octaves + 1):
        cells = 2**octave
        lattice = rng.uniform(0, 1, (cells + 1, cells + 1))
        at = np.minimum((centres * cells).astype(int), cells - 1)
        part = centres * cells - at
        ease = part * part * (3 - 2 * part)
        rows = lattice[at] * (1 - ease)[:, None] + lattice[at + 1] * ease[:, None]
        total += 0.5**octave * (rows[:, at] * (1 - ease) + rows[:, at + 1] * ease)
        weight += 0.5**octave
    return total / weight
