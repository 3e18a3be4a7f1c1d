"""The stated arithmetic: autocast off for the thread, convolutions with their own flags, no process switch set."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from random_inception import images, shared_state

import fastfid
from fastfid.errors import SlowPathWarning
from fastfid.extractors.folded import FoldedInception
from fastfid.runtime import arithmetic as _arithmetic
from fastfid.runtime.arithmetic import convolve, ieee_convolutions, ieee_products, ordinary, stated

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
BACKENDS: Any = torch.backends
NEWER = hasattr(torch.backends.cudnn, "conv")
needs_newer = pytest.mark.skipif(not NEWER, reason="before torch 2.9 there is no fp32_precision")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Torch's defaults, whatever a test sets."""
    yield
    torch.set_float32_matmul_precision("highest")
    if NEWER:
        for holder in (BACKENDS, BACKENDS.cudnn, BACKENDS.cuda.matmul, BACKENDS.mkldnn):
            holder.fp32_precision = "none"
        for holder in (BACKENDS.mkldnn.conv, BACKENDS.mkldnn.matmul):
            holder.fp32_precision = "none"
        BACKENDS.cudnn.conv.fp32_precision = BACKENDS.cudnn.rnn.fp32_precision = "tf32"


def test_autocast_is_off_inside_and_for_this_thread_only() -> None:
    a, seen = torch.eye(8), []
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with stated(CPU):
            assert (a @ a).dtype == torch.float32
            other = threading.Thread(target=lambda: seen.append(torch.is_autocast_enabled("cpu")))
            other.start()
            other.join()
        assert (a @ a).dtype == torch.bfloat16
    assert seen == [False]
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(KeyError), stated(CPU):
        raise KeyError
    with stated(torch.device("meta")):
        pass


@pytest.mark.parametrize(("tf32", "stride", "padding"), [(False, 2, (0, 3)), (True, 1, (1, 1))])
def test_a_convolution_on_cuda_carries_its_flags(
    tf32: bool, stride: int, padding: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmark off, deterministic on, cuDNN on, TF32 as asked; the call itself is torch's own, tried on the CPU."""
    given: list[tuple[Any, ...]] = []
    kept = torch._convolution
    monkeypatch.setattr(torch, "_convolution", lambda *args: given.append(args) or kept(*args))
    x, weight, bias = torch.randn(2, 3, 9, 11), torch.randn(4, 3, 3, 3), torch.randn(4)
    want = torch.nn.functional.conv2d(x, weight, bias, stride, padding)

    class OnCuda(torch.Tensor):
        device = CUDA

    got = convolve(x.as_subclass(OnCuda), weight, bias, stride, padding, tf32=tf32)
    torch.testing.assert_close(got.as_subclass(torch.Tensor), want, rtol=0, atol=0)
    assert given[0][-4:] == (False, True, True, tf32)
    assert torch.equal(convolve(x, weight, bias, stride, padding, tf32=tf32), want)
    assert len(given) == 1


@needs_newer
@pytest.mark.parametrize("value", ["bf16", "tf32", "ieee", "none"])
@pytest.mark.parametrize("where", ["all", "mkldnn", "conv", "matmul"])
def test_what_the_settings_make_of_float32_on_a_cpu(where: str, value: str) -> None:
    holders = {
        "all": BACKENDS,
        "mkldnn": BACKENDS.mkldnn,
        "conv": BACKENDS.mkldnn.conv,
        "matmul": BACKENDS.mkldnn.matmul,
    }
    if where == "all" and value == "bf16":
        value = "tf32"
    holders[where].fp32_precision = value
    narrow = value in ("bf16", "tf32")
    assert ieee_convolutions(CPU) == (not (narrow and where != "matmul"))
    assert ieee_products(CPU) == (not (narrow and where != "conv"))
    assert ieee_convolutions(CUDA)


@needs_newer
def test_what_the_settings_make_of_products_on_a_gpu() -> None:
    assert ieee_products(CUDA)
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    assert not ieee_products(CUDA)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_older_switch(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before torch 2.9, where one setting stands for all."""

    class Older:
        class cudnn:
            pass

        cuda = mkldnn = cudnn

    torch.set_float32_matmul_precision(precision)
    monkeypatch.setattr(_arithmetic.torch, "backends", Older)
    assert ieee_convolutions(CPU) == ieee_products(CUDA) == (precision == "highest")


@needs_newer
def test_a_network_where_float32_is_not_float32() -> None:
    """It runs in float64, says so once, leaves the setting alone, and is as near as float32 is."""
    made, z = FoldedInception(shared_state(), CPU, "fp32"), images(2, 75)
    (want,) = made(z, ("768",))
    BACKENDS.mkldnn.conv.fp32_precision = "bf16"
    with pytest.warns(SlowPathWarning, match="runs in float64"):
        (got,) = made(z, ("768",))
    assert BACKENDS.mkldnn.conv.fp32_precision == "bf16"
    assert got.dtype == torch.float32
    assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    BACKENDS.mkldnn.conv.fp32_precision = "none"
    assert torch.equal(made(z, ("768",))[0], want)


@needs_newer
def test_a_result_lists_that_the_network_ran_in_float64() -> None:
    sets = np.random.default_rng(5).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    BACKENDS.mkldnn.conv.fp32_precision = "bf16"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = fastfid.fid(*sets, tap="64", weights="random", device="cpu")
    assert sum("runs in float64" in text for text in result.run.warnings) == 1


@needs_newer
def test_mixed_steps_only_where_their_rounding_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under TF32 the float32 stage would round more than its bound says."""
    from fastfid.linalg import iteration, nuclear

    m = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 6, 6)))
    found = nuclear.by_newton_schulz(m, torch.zeros(1), 1e-5, precision="mixed")
    assert found.precision == "mixed"
    monkeypatch.setattr(iteration, "ieee_products", lambda _device: False)
    found = nuclear.by_newton_schulz(m, torch.zeros(1), 1e-5, precision="mixed")
    assert found.precision == "float64"


@needs_newer
def test_a_caller_of_the_newer_settings_may_use_the_polar_iteration() -> None:
    """Reading the matmul precision of old raises where a program has used the newer settings."""
    from fastfid.linalg import nuclear

    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="mix"):
        torch.get_float32_matmul_precision()
    m = torch.eye(4, dtype=torch.float64)[None]
    found = nuclear.by_newton_schulz(m, torch.zeros(1), 1e-5, precision="mixed")
    assert abs(float(found.value) - 4.0) <= 1e-8
    assert BACKENDS.cuda.matmul.fp32_precision == "tf32"


def test_what_is_made_inside_ordinary_can_be_written_to_anywhere() -> None:
    with torch.inference_mode():
        with ordinary():
            kept = torch.zeros(3)
            assert not torch.is_grad_enabled()
        assert not kept.is_inference()
        kept.add_(1)
    kept.add_(1)
    assert kept.tolist() == [2.0, 2.0, 2.0]
