"""resize_normalize against its float64 reference, against torch, and against what any resize must satisfy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tolerances
import torch
from tolerances import check

import fastfid
from fastfid import resize_normalize
from fastfid.resample._engines import run_blocks
from fastfid.resample._filters import Rule, table
from fastfid.runtime import native as _native

LEVELS = str(_native.build_info().get("cpu_levels", "")).split(";")

# Sizes: one pixel, one row, one column, identity, up, down, both at once, ratios of 94 and 1/299, long and flat. Powers
# of two other than 256 are left out: nothing in the code depends on them.
SIZES = [
    ((256, 256), (299, 299)),
    ((32, 32), (299, 299)),
    ((1024, 611), (299, 299)),
    ((37, 70), (33, 65)),
    ((299, 299), (299, 299)),
    ((299, 31), (299, 17)),
    ((1, 1), (299, 299)),
    ((1, 7), (5, 3)),
    ((300, 1), (64, 64)),
    ((941, 941), (10, 10)),
    ((10000, 7), (12, 31)),
    ((7, 10000), (31, 12)),
    ((17, 19), (1, 1)),
]
RULES: list[dict[str, Any]] = [
    {"filter": "bicubic"},
    {"filter": "bicubic", "antialias": False, "a": -0.75},
    {"filter": "bilinear", "precision": "single"},
    {"filter": "bilinear", "antialias": False},
    {"filter": "bilinear", "antialias": False, "coordinates": "tf1-legacy"},
    {"filter": "bilinear", "antialias": False, "coordinates": "align-corners"},
    {"filter": "bilinear", "antialias": False, "coordinates": "nvidia-grid"},
    {"filter": "lanczos3"},
    {"filter": "lanczos3", "antialias": False},
    {"filter": "hamming"},
    {"filter": "box"},
    {"filter": "nearest"},
    {"filter": "nearest", "coordinates": "tf1-legacy"},
]


def name_of(value: Any) -> str:
    if isinstance(value, dict):
        return "-".join(str(v) for v in value.values())
    return "to".join("x".join(map(str, size)) for size in value) if isinstance(value, tuple) else str(value)


def pixels(rng: np.random.Generator, n: int, size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 256, (n, *size, channels), dtype=np.uint8))


def few(size: tuple[int, int]) -> int:
    """Images of a batch; of large ones one, for a batch is the same code at every size."""
    return 2 if size[0] * size[1] <= 2**16 else 1


def by_blocks(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> torch.Tensor:
    """The same call by the CUDA kernel's blocks, run on the CPU."""
    with monkeypatch.context() as patch:
        patch.setattr("fastfid.resample._resize.function_for", lambda *_: run_blocks)
        return resize_normalize(*args, **options)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_equals_the_reference(sizes: Any, rule: dict[str, Any], rng: np.random.Generator) -> None:
    source, out = sizes
    images = pixels(rng, few(source), source)
    got = resize_normalize(images, out, backend="cpp", **rule)
    want = resize_normalize(images, out, backend="reference", **rule)
    check(got, want, relative=tolerances.RESAMPLE_REFERENCE, what=name_of(rule))


def test_the_affine_map_equals_the_reference(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (70, 41))
    options: dict[str, Any] = {"scale": (1 / 58, 1 / 57, -2.0), "bias": (-2.1, 0.0, 7.5), "clamp": (16.0, 235.0)}
    got = resize_normalize(images, (50, 60), backend="cpp", **options)
    want = resize_normalize(images, (50, 60), backend="reference", **options)
    check(got, want, relative=tolerances.RESAMPLE_REFERENCE, what="affine")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_every_cpu_level_and_the_gpu_blocks_give_the_same_bits(
    sizes: Any, quantize: bool, channels: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = sizes
    images = pixels(rng, few(source), source, channels)
    options: dict[str, Any] = {"quantize": quantize, "scale": 1 / 128, "bias": -1.0}
    for layout in ("channels_last", "NCHW"):
        results = []
        for level in LEVELS:
            monkeypatch.setenv("FASTFID_CPU_LEVEL", level)
            results.append(resize_normalize(images, out, layout=layout, **options))
        results.append(by_blocks(monkeypatch, images, out, layout=layout, **options))
        for other in results[1:]:
            assert torch.equal(results[0], other)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_gpu_blocks_of_every_rule(
    rule: dict[str, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gathered rows (sampling filters on large images), several sets of rows, partial tiles."""
    for source, out in (((700, 650), (70, 70)), ((64, 500), (100, 33)), ((3, 3), (40, 65))):
        images = pixels(rng, 2, source)
        for given in (images, images.float(), images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
            assert torch.equal(resize_normalize(given, out, **rule), by_blocks(monkeypatch, given, out, **rule))


# --- what any resize must satisfy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_weights_sum_to_one_and_stay_inside(rule: dict[str, Any]) -> None:
    made = Rule(
        rule["filter"],
        rule.get("antialias", True),
        rule.get("a", -0.5),
        rule.get("coordinates", "half-pixel"),
        rule.get("precision", "double" if rule.get("antialias", True) else "single"),
    )
    for size, out in itertools.product((1, 2, 7, 32, 299, 941, 5000), (1, 2, 10, 299)):
        t = table(size, out, 0.0, float(size), made)
        check(t.weights.sum(axis=1), np.ones(out), absolute=1e-6, what=f"{size} to {out}")
        assert t.first.min() >= 0
        assert t.count.min() >= 1
        assert (t.first + t.count).max() <= size
        # the compiled code relies on it
        assert (np.diff(t.first) >= 0).all()
        assert (np.diff(t.first + t.count) >= 0).all()


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_a_constant_image_stays_constant(sizes: Any, quantize: bool) -> None:
    source, out = sizes
    for value in (0, 1, 200, 255):
        got = resize_normalize(torch.full((1, *source, 3), value, dtype=torch.uint8), out, quantize=quantize)
        check(
            got,
            np.full((1, 3, *out), value),
            absolute=0.0 if quantize else value * tolerances.RESAMPLE_REFERENCE,
            what=str(value),
        )


def test_same_size_is_a_copy(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (299, 299))
    for rule in RULES:
        if rule.get("coordinates") != "nvidia-grid":  # whose grid is not exact even there
            got = resize_normalize(images, (299, 299), **rule)
            assert torch.equal(got, images.permute(0, 3, 1, 2).float())


def test_flips_commute(rng: np.random.Generator) -> None:
    """In the float contract up to the order of summation; Pillow's rounding and tables are not symmetric to the bit."""
    images = pixels(rng, 1, (61, 83))
    for axis in (1, 2):
        got = resize_normalize(images.flip(axis), (33, 99))
        want = resize_normalize(images, (33, 99)).flip(axis + 1)
        check(got, want, absolute=1e-4, what=f"axis {axis}")


def test_transposing_commutes(rng: np.random.Generator) -> None:
    images = pixels(rng, 1, (61, 83))
    got = resize_normalize(images.transpose(1, 2), (99, 33))
    check(got, resize_normalize(images, (33, 99)).transpose(2, 3), absolute=1e-4, what="transposed")


@pytest.mark.parametrize("quantize", [False, True])
def test_batch_ragged_and_one_by_one_give_the_same_bits(quantize: bool, rng: np.random.Generator) -> None:
    arrays = [
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(20, 31), (300, 300), (1, 1), (20, 31), (7, 90)]
    ]
    ragged = fastfid.RaggedImages.pack(arrays)
    together = resize_normalize(ragged, (64, 48), quantize=quantize)
    assert torch.equal(together, resize_normalize(arrays, (64, 48), quantize=quantize))
    assert torch.equal(together, resize_normalize(tuple(map(torch.from_numpy, arrays)), (64, 48), quantize=quantize))
    for index, array in enumerate(arrays):
        alone = resize_normalize(torch.from_numpy(array)[None], (64, 48), quantize=quantize)
        assert torch.equal(together[index], alone[0])
        assert torch.equal(ragged[index], torch.from_numpy(array))
    same = pixels(rng, 5, (40, 50))
    batch = resize_normalize(same, (64, 48), quantize=quantize)
    assert torch.equal(batch, torch.cat([resize_normalize(one[None], (64, 48), quantize=quantize) for one in same]))
    assert torch.equal(batch, resize_normalize(fastfid.RaggedImages.pack(list(same)), (64, 48), quantize=quantize))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_thread_count_changes_no_bit(n: int, rng: np.random.Generator) -> None:
    for source, out in (((130, 140), (299, 77)), ((1024, 900), (299, 299)), ((9, 8), (700, 900))):  # bands of rows
        images = pixels(rng, n, source)
        want = resize_normalize(images, out, num_threads=1)
        for threads in (2, 3, 8, 64):
            assert torch.equal(want, resize_normalize(images, out, num_threads=threads))


def test_inputs_are_left_alone(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (20, 30))
    copy = images.clone()
    resize_normalize(images, (40, 40), scale=2.0)
    assert torch.equal(images, copy)
