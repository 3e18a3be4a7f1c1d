"""Moments on a GPU: values against two passes in float64, groups, deferred updates that wait for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tolerances as tol
import torch

import fastfid
from fastfid.moments.segments import Segments
from fastfid.moments.update import mirrored
from fastfid.reference.moments import two_pass
from fastfid.runtime.dispatch import backend_for, report

pytestmark = pytest.mark.gpu
pytest.importorskip("triton", reason="the scatter kernels are Triton's")


@pytest.fixture(autouse=True)
def _by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = report("scatter", "cuda")["triton"]
    if reason is not None:  # this Triton can't compile them for this GPU
        pytest.skip(reason)
    monkeypatch.setenv("FASTFID_BACKEND_SCATTER", "triton")


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody has written to is NaN, or 127."""
    empty = torch.empty

    def poisoned(*sizes: Any, **options: Any) -> torch.Tensor:
        made = empty(*sizes, **options)
        return made.fill_(torch.nan if made.is_floating_point() else 127)

    monkeypatch.setattr(torch, "empty", poisoned)


def features(b: int, d: int, dtype: torch.dtype, mean: float = 50.0) -> torch.Tensor:
    generator = torch.Generator(device="cuda").manual_seed(b + d)
    x = torch.randn(b, d + 8, device="cuda", generator=generator) * torch.logspace(0, -3, d + 8, device="cuda") + mean
    return x.to(dtype)[:, :d]


def compare(mean: torch.Tensor, scatter: torch.Tensor, x: torch.Tensor) -> None:
    _, want_mean, want = two_pass(x.double().cpu().numpy())
    tol.check(mean.cpu(), want_mean, relative=tol.MOMENTS_FROBENIUS)
    tol.check_frobenius(scatter.cpu(), want, relative=tol.MOMENTS_FROBENIUS)


def test_torch_is_chosen_unless_the_kernels_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_for("scatter", "cuda") == "triton"
    monkeypatch.delenv("FASTFID_BACKEND_SCATTER")
    assert backend_for("scatter", "cuda") == "torch"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("b", "d"), [(1, 5), (63, 63), (64, 64), (65, 65), (1000, 129), (9000, 512), (5000, 2048)])
def test_kernels(b: int, d: int, dtype: torch.dtype) -> None:
    from fastfid.moments.engine_triton import accumulate

    x = features(b, d, dtype)
    mean = torch.zeros(1, d, dtype=torch.float64, device="cuda")
    scatter = torch.zeros(1, d, d, dtype=torch.float64, device="cuda")
    half = b // 2
    for start, end in ((0, half), (half, b)) if half else ((0, b),):
        accumulate(x[start:end], start, mean, scatter, None)
    compare(mean[0], mirrored(scatter[0]), x)


def test_grouped_kernels() -> None:
    from fastfid.moments.engine_triton import accumulate

    counts = torch.tensor([0, 1, 4500, 37, 0, 800])
    group = torch.repeat_interleave(torch.arange(6), counts)[torch.randperm(int(counts.sum()))].cuda()
    x = features(len(group), 200, torch.float32) + 10.0 * group[:, None]
    mean = torch.zeros(6, 200, dtype=torch.float64, device="cuda")
    scatter = torch.zeros(6, 200, 200, dtype=torch.float64, device="cuda")
    accumulate(x, torch.zeros(6, dtype=torch.int64, device="cuda"), mean, scatter, Segments.of(group, 6))
    for g, count in enumerate(counts.tolist()):
        if count:
            compare(mean[g], mirrored(scatter[g]), x[group == g])
        else:
            assert torch.count_nonzero(scatter[g]) == 0


@pytest.mark.parametrize("kind", ["far", "constant"])
def test_moments(kind: str) -> None:
    x = features(6000, 256, torch.float32, mean=500.0 if kind == "far" else 0.0)
    if kind == "constant":
        x[:, ::2] = 0.1
    moments = fastfid.Moments()
    for batch in torch.split(x, 500):
        moments.update(batch)
    assert moments.scatter.is_cuda
    assert torch.equal(moments.scatter, moments.scatter.T)
    compare(moments.mean, moments.scatter, x)
    if kind == "constant":
        assert torch.count_nonzero(moments.scatter[::2]) == 0


def test_grouped_moments() -> None:
    x, group = features(3000, 100, torch.bfloat16), torch.randint(0, 20, (3000,), device="cuda")
    group[group == 7] = 8
    moments = fastfid.GroupedMoments(20)
    for rows, ids in zip(torch.split(x, 700), torch.split(group, 700), strict=True):
        moments.update(rows, ids)
    for g in range(20):
        one, rows = moments.moments(g), x[group == g]
        assert one.n == len(rows)
        if len(rows):
            compare(one.mean, one.scatter, rows)


def test_deferred_updates_wait_for_nothing() -> None:
    batches = [features(size, 64, torch.float32) for size in (20, 30, 200, 1, 500)]
    warm, moments = fastfid.Moments(), fastfid.Moments()
    for batch in batches:
        warm.update(batch, deferred=True)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            moments.update(batch, deferred=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    compare(moments.mean, moments.scatter, torch.cat(batches))
    bad = features(10, 64, torch.float32).clone()
    bad[4, 1] = torch.nan
    moments.update(bad, deferred=True)
    with pytest.raises(ValueError, match="sample 755 has NaN"):
        moments.cov()


def test_another_stream_and_repeatable_bits() -> None:
    x = features(4000, 300, torch.float32)
    want = fastfid.Moments.from_features(x).scatter
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = fastfid.Moments.from_features(x).scatter
    stream.synchronize()
    assert torch.equal(got, want)


def test_state_goes_on_bit_for_bit_and_to_the_cpu() -> None:
    batches = [features(size, 64, torch.float32) for size in (40, 100, 300)]
    straight, stopped = fastfid.Moments(), fastfid.Moments()
    for batch in batches:
        straight.update(batch)
        stopped = fastfid.Moments.from_state(stopped.state())
        stopped.update(batch)
    assert torch.equal(stopped.scatter, straight.scatter)
    moved = fastfid.Moments.from_state(straight.state(), device="cpu")
    np.testing.assert_array_equal(moved.scatter, straight.scatter.cpu())
