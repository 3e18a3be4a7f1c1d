"""resize_normalize against its float64 reference, against torch, and against what any resize must satisfy."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from typing import Any

import numpy as np
import pytest
import tolerances
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tolerances import check

import fastfid
from fastfid import _native, resize_normalize
from fastfid.resample._engines import run_blocks
from fastfid.resample._filters import Rule, table

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


def by_blocks(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> torch.Tensor:
    """The same call by the CUDA kernel's blocks, run on the CPU."""
    with monkeypatch.context() as patch:
        patch.setattr("fastfid.resample._resize.function_for", lambda *_: run_blocks)
        return resize_normalize(*args, **options)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_equals_the_reference(sizes: Any, rule: dict[str, Any], rng: np.random.Generator) -> None:
    source, out = sizes
    images = pixels(rng, 2, source)
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
    images = pixels(rng, 2, source, channels)
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


# --- against torch, which computes its own weights --------------------------------------------------------------------


def matrix(size: int, out: int, **options: Any) -> NDArray[np.float32]:
    """The weights that torch's interpolate uses along one axis, float32 [out, size]."""
    basis = torch.eye(size).view(size, 1, 1, size)
    return F.interpolate(basis, size=(1, out), align_corners=False, **options)[:, 0, 0].T.numpy()


@pytest.mark.parametrize("out", [299, 64, 2])
@pytest.mark.parametrize("size", [3, 32, 64, 256, 512, 611, 1024])
def test_single_precision_weights_are_those_of_torch(size: int, out: int) -> None:
    def ours(filter: str, antialias: bool, a: float) -> NDArray[np.float64]:
        return table(size, out, 0.0, float(size), Rule(filter, antialias, a, "half-pixel", "single")).dense()

    # Where the compiler of this torch fused its multiply-adds the weights are equal; elsewhere they differ by rounding.
    rounding = 4e-6 * max(size / out, 1.0)
    check(ours("bilinear", False, 0.0), matrix(size, out, mode="bilinear"), absolute=rounding, what="bilinear")
    check(ours("bilinear", True, 0.0), matrix(size, out, mode="bilinear", antialias=True), absolute=1e-6, what="AA")
    check(ours("bicubic", False, -0.75), matrix(size, out, mode="bicubic"), absolute=rounding, what="bicubic")
    check(ours("bicubic", True, -0.5), matrix(size, out, mode="bicubic", antialias=True), absolute=2e-6, what="AA")


TORCH: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "bilinear": (
        {"filter": "bilinear", "antialias": False},
        {"mode": "bilinear", "align_corners": False},
        tolerances.RESAMPLE_TORCH,
    ),
    "bilinear-antialias": (
        {"filter": "bilinear", "precision": "single"},
        {"mode": "bilinear", "align_corners": False, "antialias": True},
        tolerances.RESAMPLE_TORCH,
    ),
    "bilinear-align-corners": (
        {"filter": "bilinear", "antialias": False, "coordinates": "align-corners"},
        {"mode": "bilinear", "align_corners": True},
        tolerances.RESAMPLE_TORCH,
    ),
    "bicubic": (
        {"filter": "bicubic", "antialias": False, "a": -0.75},
        {"mode": "bicubic", "align_corners": False},
        tolerances.RESAMPLE_TORCH_CUBIC,
    ),
    "bicubic-antialias": (
        {"filter": "bicubic", "precision": "single"},
        {"mode": "bicubic", "align_corners": False, "antialias": True},
        tolerances.RESAMPLE_TORCH,
    ),
    "nearest": ({"filter": "nearest", "coordinates": "tf1-legacy"}, {"mode": "nearest"}, 0.0),
    "nearest-exact": ({"filter": "nearest", "precision": "single"}, {"mode": "nearest-exact"}, 0.0),
}


@pytest.mark.parametrize("case", TORCH)
@pytest.mark.parametrize("source", [(32, 32), (64, 64), (256, 256), (299, 299), (512, 512), (1024, 1024), (37, 611)])
def test_equals_interpolate(source: tuple[int, int], case: str, rng: np.random.Generator) -> None:
    ours, theirs, bound = TORCH[case]
    images = pixels(rng, 1, source)
    got = resize_normalize(images, (299, 299), **ours)
    want = F.interpolate(images.permute(0, 3, 1, 2).contiguous().float(), size=(299, 299), **theirs)
    check(got, want, absolute=bound, what=case)


def test_nvidia_grid_is_affine_grid_with_grid_sample(rng: np.random.Generator) -> None:
    """The in-network resize of NVIDIA's Inception file: identity plus a shift of 1/in − 1/out, border padding."""
    for height, width in ((32, 32), (256, 256), (1024, 1024), (37, 611), (299, 299)):
        images = pixels(rng, 1, (height, width))
        theta = torch.eye(2, 3)
        theta[0, 2] += theta[0, 0] / width - theta[0, 0] / 299
        theta[1, 2] += theta[1, 1] / height - theta[1, 1] / 299
        grid = F.affine_grid(theta[None], [1, 3, 299, 299], align_corners=False)
        source = images.permute(0, 3, 1, 2).float()
        want = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
        got = resize_normalize(images, (299, 299), filter="bilinear", antialias=False, coordinates="nvidia-grid")
        check(got, want, absolute=tolerances.RESAMPLE_TORCH, what=f"{height}x{width}")


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


# --- layouts, types, strides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_strided_input_is_read_in_place(channels: int, rng: np.random.Generator) -> None:
    buffer = pixels(rng, 3, (90, 120), 4)
    views = {
        "slice of columns and rows": buffer[:, 5:70, 11:101, :channels],
        "every other pixel": buffer[:, ::2, ::3, :channels],
        "channels first": buffer[..., :channels].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "transposed": buffer[..., :channels].transpose(1, 2),
        "repeated image": buffer[:1, ..., :channels].expand(3, -1, -1, -1),
    }
    for name, view in views.items():
        for quantize in (False, True):
            got = resize_normalize(view, (50, 41), quantize=quantize)
            assert torch.equal(got, resize_normalize(view.contiguous(), (50, 41), quantize=quantize)), name
        floats = view.float() if name != "repeated image" else view[:1].float().expand(3, -1, -1, -1)
        check(resize_normalize(floats, (50, 41)), resize_normalize(view, (50, 41)), absolute=0.0, what=name)


def test_input_layouts_agree(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (40, 50))
    planar = images.permute(0, 3, 1, 2).contiguous()
    assert torch.equal(resize_normalize(images, (64, 64)), resize_normalize(planar, (64, 64), input_layout="NCHW"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
def test_half_precision_is_the_float_result_rounded_once(
    dtype: torch.dtype, layout: Any, rng: np.random.Generator
) -> None:
    images = pixels(rng, 2, (40, 50))
    options: dict[str, Any] = {"scale": (1 / 58, 1 / 57, 1e-7), "bias": (-2.1, -2.0, 0.0), "layout": layout}
    want = resize_normalize(images, (61, 47), **options)  # the third channel is subnormal in float16
    got = resize_normalize(images, (61, 47), out_dtype=dtype, **options)
    assert torch.equal(got, want.to(dtype))


def test_half_precision_of_every_kind_of_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of chosen floats: ties, subnormals, overflow, infinities, at every CPU level."""
    chosen = np.concatenate(
        [
            np.array([0.0, -0.0, 1.0, 65504.0, 65519.996, 65520.0, 1e30, np.inf, -np.inf, 2.0**-25, 2.0**-24, 3e-8]),
            2.0**-14 * (1 + np.arange(-40, 40) / 4096),
            1 + np.arange(-40, 40) / 4096,
        ]
    ).astype(np.float32)
    row = torch.from_numpy(np.concatenate([chosen, -chosen])).view(1, 1, -1, 1)
    for level in LEVELS:
        monkeypatch.setenv("FASTFID_CPU_LEVEL", level)
        for dtype in (torch.float16, torch.bfloat16):
            got = resize_normalize(row, (1, row.shape[2]), out_dtype=dtype)
            assert torch.equal(got.view(-1), row.view(-1).to(dtype))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(
            by_blocks(monkeypatch, row, (1, row.shape[2]), out_dtype=dtype).view(-1), row.view(-1).to(dtype)
        )


def test_a_nan_pixel_stays_a_nan() -> None:
    image = torch.zeros(1, 4, 4, 1)
    image[0, 1, 2, 0] = torch.nan
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        got = resize_normalize(image, (4, 4), out_dtype=dtype, clamp=(0.0, 255.0))
        assert got.isnan().sum() == 1
        assert got[0, 0, 1, 2].isnan()


def test_layout_and_out(rng: np.random.Generator) -> None:
    images = pixels(rng, 3, (20, 30))
    last = resize_normalize(images, (40, 45))
    first = resize_normalize(images, (40, 45), layout="NCHW")
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert first.is_contiguous()
    assert torch.equal(last, first)
    batch = torch.full((5, 3, 40, 45), -1.0).contiguous(memory_format=torch.channels_last)
    returned = resize_normalize(images, (40, 45), out=batch[1:4])
    assert returned.data_ptr() == batch[1:4].data_ptr()
    assert torch.equal(batch[1:4], last)
    assert (batch[0] == -1).all()
    assert (batch[4] == -1).all()


def test_every_output_value_is_written(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (33, 35))
    for layout in ("channels_last", "NCHW"):
        shape = (2, 3, 47, 53)
        out = torch.full(shape, torch.nan)
        if layout == "channels_last":
            out = out.contiguous(memory_format=torch.channels_last)
        assert resize_normalize(images, (47, 53), out=out, layout=layout).isfinite().all()


def test_one_channel_becomes_three(rng: np.random.Generator) -> None:
    grey = pixels(rng, 2, (40, 50), 1)
    for quantize in (False, True):
        got = resize_normalize(grey, (64, 33), out_channels=3, quantize=quantize, scale=(1.0, 2.0, 3.0))
        want = resize_normalize(grey.expand(-1, -1, -1, 3), (64, 33), quantize=quantize, scale=(1.0, 2.0, 3.0))
        assert got.shape == (2, 3, 64, 33)
        assert torch.equal(got, want)


def test_clamp_comes_before_the_affine_map(rng: np.random.Generator) -> None:
    images = (pixels(rng, 1, (30, 30)) > 127).to(torch.uint8) * 255  # overshoots in every bicubic resize
    free = resize_normalize(images, (77, 77))
    assert free.min() < 0
    assert free.max() > 255
    bounded = resize_normalize(images, (77, 77), clamp=(0.0, 255.0), scale=1 / 128, bias=-1.0)
    check(bounded, free.clamp(0.0, 255.0) / 128 - 1, absolute=2e-7, what="clamp")


def test_crop_is_not_seen_by_the_filter(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (50, 81))
    part = resize_normalize(images[:, 3:33, 10:50].contiguous(), (64, 64))
    assert torch.equal(resize_normalize(images, (64, 64), crop=(3, 10, 30, 40)), part)
    centre = resize_normalize(images[:, :, 15:65].contiguous(), (64, 64))
    assert torch.equal(resize_normalize(images, (64, 64), crop="center"), centre)
    ragged = fastfid.RaggedImages.pack([images[0], images[1].transpose(0, 1)])
    squares = resize_normalize(ragged, (64, 64), crop="center")
    assert torch.equal(squares[0], centre[0])
    assert torch.equal(squares[1], resize_normalize(images[1:].transpose(1, 2)[:, 15:65], (64, 64))[0])


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_empty_batch(backend: str) -> None:
    empty = torch.empty(0, 32, 32, 3, dtype=torch.uint8)
    assert resize_normalize(empty, (299, 299), backend=backend).shape == (0, 3, 299, 299)
    assert resize_normalize(fastfid.RaggedImages.pack([]), (9, 9), backend=backend).shape == (0, 3, 9, 9)


@pytest.mark.slow
def test_offsets_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second image begins more than 2³¹ values after the first."""
    step = (1 << 31) + 4096
    buffer = torch.empty(step + 3 * 64 * 64, dtype=torch.uint8)  # untouched pages cost nothing
    images = torch.as_strided(buffer, (2, 64, 64, 3), (step, 192, 3, 1))
    images.copy_(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    want = resize_normalize(images.contiguous(), (99, 99))
    assert torch.equal(resize_normalize(images, (99, 99)), want)
    assert torch.equal(by_blocks(monkeypatch, images, (99, 99)), want)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [False, True])
def test_sixteen_thousand_squared(quantize: bool) -> None:
    """16384² grey: a gradient, so that the answer is known without a reference."""
    ramp = (torch.arange(16384) // 64).to(torch.uint8)
    image = ramp.view(1, 1, -1, 1).expand(1, 16384, 16384, 1)  # rows by stride 0, 64-bit offsets all the same
    got = resize_normalize(image.contiguous(), (299, 299), filter="box", quantize=quantize)
    want = torch.from_numpy(table(16384, 299, 0.0, 16384.0, Rule("box", True, 0.0, "half-pixel", "double")).dense())
    expected = (want @ ramp.double()).expand(299, 299)
    check(got[0, 0], expected, absolute=0.51 if quantize else 1e-2, what="ramp")


# --- processes and threads --------------------------------------------------------------------------------------------


def _resize_in_child(queue: Any, images: torch.Tensor) -> None:
    queue.put(resize_normalize(images, (64, 64), num_threads=2).numpy().tobytes())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_in_a_process_forked_after_use(rng: np.random.Generator) -> None:
    images = pixels(rng, 3, (50, 50))
    want = resize_normalize(images, (64, 64), num_threads=2).numpy().tobytes()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_resize_in_child, args=(queue, images))
    child.start()
    try:
        assert queue.get(timeout=60) == want
    finally:
        child.join(10)
        child.kill()
    assert child.exitcode == 0


class _Resizing(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        assert _native.default_threads() == 1
        return resize_normalize(torch.full((1, 8, 8, 3), index, dtype=torch.uint8), (16, 16))[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_one_thread_inside_a_data_worker() -> None:
    loader = torch.utils.data.DataLoader(_Resizing(), batch_size=2, num_workers=2)
    first = [batch[0, 0, 0, 0].item() for batch in loader]
    check(first, [0.0, 2.0], absolute=1e-5, what="first pixels")
    assert _native.default_threads() == torch.get_num_threads()


def test_other_python_threads_run_meanwhile(rng: np.random.Generator) -> None:
    """The interpreter lock is released: a thread counts while another resizes."""
    images = pixels(rng, 4, (1024, 1024))
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            stop.wait(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        before = counted[0]
        for _ in range(4):
            resize_normalize(images, (299, 299), num_threads=1)
        assert counted[0] > before
    finally:
        stop.set()
        counter.join()


def test_concurrent_calls_do_not_meet(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (120, 130))
    want = resize_normalize(images, (99, 99))
    results: list[bool] = []

    def call() -> None:
        results.extend(torch.equal(resize_normalize(images, (99, 99), num_threads=2), want) for _ in range(10))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_an_unknown_cpu_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTFID_CPU_LEVEL", "avx1024")
    with pytest.raises(RuntimeError, match="no level 'avx1024'; it has"):
        resize_normalize(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), (2, 2))
    assert os.environ["FASTFID_CPU_LEVEL"] == "avx1024"
