"""The CUDA engine: the same bits as the CPU, on any stream, in any layout. Needs an NVIDIA GPU and a CUDA build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_resample import RULES, SIZES, name_of, pixels

from fastfid import RaggedImages, resize_normalize
from fastfid.runtime import native as _native

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _built() -> None:
    """A GPU without a CUDA build of fastfid._C is a failure, not a reason to skip."""
    reason = _native.why_no_cuda("cuda")
    assert reason is None, reason


def both(images: torch.Tensor | RaggedImages, size: tuple[int, int], **options: Any) -> None:
    """CUDA and CPU give the same bits; the CUDA output was full of NaN before."""
    want = resize_normalize(images, size, backend="cpp", **options)
    out = torch.full(want.shape, torch.nan if want.dtype.is_floating_point else 77, dtype=want.dtype, device="cuda")
    if options.get("layout", "channels_last") == "channels_last":
        out = out.contiguous(memory_format=torch.channels_last)
    got = resize_normalize(images.to("cuda"), size, backend="cuda", out=out, **options)
    assert got.data_ptr() == out.data_ptr()
    assert torch.equal(got.cpu(), want)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
@pytest.mark.parametrize("sizes", SIZES, ids=name_of)
def test_every_rule(sizes: Any, rule: dict[str, Any], rng: np.random.Generator) -> None:
    both(pixels(rng, 3, sizes[0]), sizes[1], scale=1 / 128, bias=-1.0, **rule)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
def test_channels_contracts_layouts(layout: Any, quantize: bool, channels: int, rng: np.random.Generator) -> None:
    for source, out in SIZES:
        both(pixels(rng, 2, source, channels), out, quantize=quantize, layout=layout)
        if channels == 1:
            both(pixels(rng, 2, source, 1), out, quantize=quantize, layout=layout, out_channels=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_output_types(dtype: torch.dtype, rng: np.random.Generator) -> None:
    affine = {} if dtype == torch.uint8 else {"scale": 1 / 58, "bias": -2.1}
    both(pixels(rng, 2, (70, 61)), (99, 45), out_dtype=dtype, quantize=dtype == torch.uint8, **affine)


def test_strided_and_float_input(rng: np.random.Generator) -> None:
    buffer = pixels(rng, 3, (90, 120), 4)
    for view in (
        buffer[:, 5:70, 11:101, :3],
        buffer[:, ::2, ::3, :3],
        buffer[..., :3].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        buffer[:1, ..., :3].expand(3, -1, -1, -1),
    ):
        want = resize_normalize(view, (50, 41))
        base = buffer.cuda() if view.stride(3) == 1 else None
        moved = view.cuda() if base is None else base.as_strided(view.shape, view.stride(), view.storage_offset())
        assert torch.equal(resize_normalize(moved, (50, 41), backend="cuda").cpu(), want)
        assert torch.equal(resize_normalize(moved.float(), (50, 41), backend="cuda").cpu(), want)


def test_ragged(rng: np.random.Generator) -> None:
    sizes = [(480, 640), (640, 427), (1, 1), (37, 611), (480, 640), (1500, 3)]
    ragged = RaggedImages.pack([rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes])
    for options in ({}, {"quantize": True}, {"crop": "center"}, {"filter": "bilinear", "antialias": False}):
        both(ragged, (299, 299), **options)


def test_empty_batch() -> None:
    empty = torch.empty(0, 32, 32, 3, dtype=torch.uint8, device="cuda")
    assert resize_normalize(empty, (299, 299), backend="cuda").shape == (0, 3, 299, 299)


def test_follows_the_current_stream(rng: np.random.Generator) -> None:
    """The input is written late on a side stream; a launch on another stream would read the old pixels."""
    images = pixels(rng, 8, (256, 256)).pin_memory()
    want = resize_normalize(images, (299, 299))
    late = torch.zeros(images.shape, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        late.copy_(images, non_blocking=True)
        got = resize_normalize(late, (299, 299), backend="cuda")
    side.synchronize()
    assert torch.equal(got.cpu(), want)


def test_a_uniform_batch_makes_no_host_wait(rng: np.random.Generator) -> None:
    """After the first call (which uploads the tables) the host runs ahead of a busy stream."""
    images = pixels(rng, 4, (64, 64)).cuda()
    resize_normalize(images, (299, 299), backend="cuda")
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    resize_normalize(images, (299, 299), backend="cuda")
    assert not torch.cuda.current_stream().query()
    torch.cuda.synchronize()


def test_runs_inside_a_cuda_graph(rng: np.random.Generator) -> None:
    images = pixels(rng, 4, (64, 64)).cuda()
    out = resize_normalize(images, (99, 99), backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        resize_normalize(images, (99, 99), backend="cuda", out=out)
    images.copy_(pixels(rng, 4, (64, 64)))
    graph.replay()
    assert torch.equal(out.cpu(), resize_normalize(images.cpu(), (99, 99)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_follows_the_tensors_device(rng: np.random.Generator) -> None:
    images = pixels(rng, 2, (64, 64))
    got = resize_normalize(images.to("cuda:1"), (99, 99), backend="cuda")
    assert got.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert torch.equal(got.cpu(), resize_normalize(images, (99, 99)))


@pytest.mark.slow
def test_offsets_beyond_32_bits(rng: np.random.Generator) -> None:
    """6 GiB of pixels, 16384 squared and a last image beyond 2³² values."""
    large = torch.randint(0, 256, (8, 16384, 16384, 3), dtype=torch.uint8, device="cuda")
    got = resize_normalize(large, (64, 64), backend="cuda", filter="box")
    want = resize_normalize(large[7:].cpu(), (64, 64), filter="box")
    assert torch.equal(got[7:].cpu(), want)


def test_a_failing_launch_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device number that does not exist reaches CUDA and comes back in its own words."""
    original = _native.module().resample_cuda

    class Elsewhere:
        def resample_cuda(self, *arguments: Any) -> None:
            original(*arguments[:-2], 999, arguments[-1])

    monkeypatch.setattr("fastfid.resample._engines._native.module", Elsewhere)
    with pytest.raises(RuntimeError, match="fastfid: cudaSetDevice: invalid device ordinal"):
        resize_normalize(torch.zeros(1, 8, 8, 3, dtype=torch.uint8, device="cuda"), (4, 4), backend="cuda")
