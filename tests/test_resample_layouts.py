"""resize_normalize: strides, layouts, types, crops, sizes beyond 32 bits; threads and processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

import numpy as np
import pytest
import torch
from test_resample import LEVELS, by_blocks, pixels
from tolerances import check

import fastfid
from fastfid import resize_normalize
from fastfid.resample._filters import Rule, table
from fastfid.runtime import native as _native


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
        assert queue.get(timeout=500) == want
    finally:
        child.join(500)
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
