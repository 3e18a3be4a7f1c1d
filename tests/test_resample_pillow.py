"""resize_normalize against the installed Pillow: the 8-bit contract to the bit, mode "F" within its bound.

A longer run: ``FASTFID_PILLOW_CASES=20000 pytest tests/test_resample_pillow.py``.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import PIL
import pytest
import tolerances
import torch
from numpy.typing import NDArray
from PIL import Image
from tolerances import check

import fastfid
from fastfid import resize_normalize
from fastfid.resample._filters import passes_of, vertical_first

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}
CASES = int(os.environ.get("FASTFID_PILLOW_CASES", "600"))
BATCH = 100
Box = tuple[float, float, float, float]


def opened(pixels: NDArray[np.uint8]) -> Image.Image:
    """One and three channels as they are; four as CMYK, whose channels Pillow resizes independently."""
    if pixels.shape[2] == 1:
        return Image.fromarray(pixels[:, :, 0])
    return Image.fromarray(pixels, "CMYK" if pixels.shape[2] == 4 else None)


def random_case(rng: np.random.Generator) -> tuple[NDArray[np.uint8], tuple[int, int], str, Box | None]:
    """Sizes 1…300, spread over their logarithm; noise, or black and white (overshoots everywhere); half with a box."""
    height, width, out_height, out_width = np.exp(rng.uniform(0, np.log(300), 4)).astype(int).tolist()
    channels = int(rng.choice([1, 3, 4]))
    pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if rng.random() < 0.3:
        pixels = (pixels > 127).astype(np.uint8) * 255
    box: Box | None = None
    if rng.random() < 0.5:
        left, right = np.sort(rng.uniform(0, width, 2))
        upper, lower = np.sort(rng.uniform(0, height, 2))
        if right - left > 0.5 and lower - upper > 0.5:
            box = (float(left), float(upper), float(right), float(lower))
    return pixels, (out_height, out_width), str(rng.choice(list(FILTERS))), box


@pytest.mark.parametrize("batch", range(-(-CASES // BATCH)))
def test_every_value_of_the_uint8_contract_is_that_of_pillow(batch: int) -> None:
    rng = np.random.default_rng(1000 + batch)
    for _ in range(BATCH):
        pixels, size, name, box = random_case(rng)
        want = np.array(opened(pixels).resize(size[::-1], FILTERS[name], box)).reshape(*size, pixels.shape[2])
        given = torch.from_numpy(pixels)[None]
        got = resize_normalize(given, size, filter=name, box=box, quantize=True, out_dtype=torch.uint8)
        same = np.array_equal(got[0].permute(1, 2, 0).numpy(), want)
        assert same, f"{pixels.shape} to {size}, {name}, box {box}, Pillow {PIL.__version__}"


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("source", "out"),
    [
        ((256, 256), (299, 299)),
        ((1024, 1024), (299, 299)),
        ((37, 611), (299, 299)),
        ((941, 941), (10, 10)),
        ((1, 1), (299, 299)),
        ((299, 299), (299, 299)),
        ((300, 1), (64, 9)),
        ((10000, 7), (12, 31)),
    ],
)
def test_chosen_sizes(source: tuple[int, int], out: tuple[int, int], name: str, rng: np.random.Generator) -> None:
    """Both contracts at the sizes of the protocols and at the extremes."""
    pixels = rng.integers(0, 256, (*source, 3), dtype=np.uint8)
    given = torch.from_numpy(pixels)[None]
    eight = np.array(Image.fromarray(pixels).resize(out[::-1], FILTERS[name])).transpose(2, 0, 1)
    assert np.array_equal(resize_normalize(given, out, filter=name, quantize=True)[0], eight)
    if name != "nearest":
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in pixels.transpose(2, 0, 1)]
        want = np.stack([np.array(plane.resize(out[::-1], FILTERS[name])) for plane in planes])
        got = resize_normalize(given, out, filter=name)[0]
        check(got, want, absolute=tolerances.RESAMPLE_PILLOW_FLOAT, what=f"mode F, {name}")


def test_float_contract_with_boxes(rng: np.random.Generator) -> None:
    for _ in range(60):
        pixels, size, name, box = random_case(rng)
        if name == "nearest":
            continue
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in pixels.transpose(2, 0, 1)]
        want = np.stack([np.array(plane.resize(size[::-1], FILTERS[name], box)) for plane in planes])
        got = resize_normalize(torch.from_numpy(pixels)[None], size, filter=name, box=box)[0]
        check(got, want, absolute=tolerances.RESAMPLE_PILLOW_FLOAT, what=f"mode F, {name}, {box}")


def test_quantized_values_pass_through_the_affine_map(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (2, 70, 50, 3), dtype=np.uint8)
    plain = resize_normalize(torch.from_numpy(pixels), (99, 99), quantize=True)
    got = resize_normalize(torch.from_numpy(pixels), (99, 99), quantize=True, scale=0.5, bias=3.0)
    assert torch.equal(got, plain * 0.5 + 3.0)
    assert torch.equal(plain, plain.round())


# --- the order of the passes, which depends on the version of Pillow --------------------------------------------------


@pytest.mark.parametrize(
    ("version", "passes"),
    [
        ("10.1.0", "horizontal-first"),
        ("12.1.1", "horizontal-first"),
        ("12.2.0", "pillow-12.2"),
        ("12.3.0", "pillow-12.2"),
        ("13.0.0", "pillow-13"),
        ("14.1.0.dev0", "pillow-13"),
    ],
)
def test_passes_of_versions(version: str, passes: str) -> None:
    assert passes_of(version) == passes


def test_order_of_the_passes_by_hand(rng: np.random.Generator) -> None:
    """Each value of ``passes`` against two one-axis resizes of Pillow in that order."""
    tall = rng.integers(0, 256, (404, 4, 3), dtype=np.uint8)
    size = (50, 9)
    image = Image.fromarray(tall)
    across = np.array(image.resize((9, 404), Image.Resampling.BICUBIC).resize((9, 50), Image.Resampling.BICUBIC))
    down = np.array(image.resize((4, 50), Image.Resampling.BICUBIC).resize((9, 50), Image.Resampling.BICUBIC))
    assert not np.array_equal(across, down)
    for passes, want in (("horizontal-first", across), ("pillow-12.2", down), ("pillow-13", down)):
        got = resize_normalize(torch.from_numpy(tall)[None], size, quantize=True, passes=passes)
        assert np.array_equal(got[0].permute(1, 2, 0), want), passes
    assert not vertical_first(404, 5, 50, 9, "pillow-12.2")
    assert not vertical_first(1024, 1024, 299, 299, "pillow-13")


@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
def test_a_batch_may_need_both_orders(layout: Any, rng: np.random.Generator) -> None:
    sizes = [(300, 40), (40, 300), (64, 64), (500, 7)]
    arrays = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    got = resize_normalize(fastfid.RaggedImages.pack(arrays), (33, 44), quantize=True, layout=layout)
    for index, array in enumerate(arrays):
        want = np.array(Image.fromarray(array).resize((44, 33), Image.Resampling.BICUBIC))
        assert np.array_equal(got[index].permute(1, 2, 0), want)
