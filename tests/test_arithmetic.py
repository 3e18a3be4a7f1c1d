"""``stated``: the arithmetic inside, and every global switch as it was behind it. CUDA's are there without a GPU.

What a test sets, conftest.py puts back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastfid import _arithmetic
from fastfid._arithmetic import stated

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
BACKENDS: Any = torch.backends
NEWER = hasattr(torch.backends.cudnn, "conv")
needs_newer = pytest.mark.skipif(not NEWER, reason="before torch 2.9 there is no fp32_precision")


def settings() -> dict[str, Any]:
    """Every switch that could matter; what raises, since APIs were mixed, is noted as that."""
    found: dict[str, Any] = {
        name: getattr(torch.backends.cudnn, name) for name in ("benchmark", "deterministic", "enabled")
    }
    if NEWER:
        for name, holder in (
            ("all", BACKENDS),
            ("cudnn", BACKENDS.cudnn),
            ("cudnn.conv", BACKENDS.cudnn.conv),
            ("cuda.matmul", BACKENDS.cuda.matmul),
            ("mkldnn", BACKENDS.mkldnn),
            ("mkldnn.conv", BACKENDS.mkldnn.conv),
            ("mkldnn.matmul", BACKENDS.mkldnn.matmul),
        ):
            found[name] = holder.fp32_precision
    for name, read in (
        ("allow_tf32", lambda: torch.backends.cudnn.allow_tf32),
        ("matmul", torch.get_float32_matmul_precision),
        ("matmul.allow_tf32", lambda: torch.backends.cuda.matmul.allow_tf32),
    ):
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "mixed"
    return found


def _set(holder: Any, value: str) -> Callable[[], None]:
    return lambda: setattr(holder, "fp32_precision", value)


CALLERS: dict[str, Callable[[], None]] = {
    "defaults": lambda: None,
    "benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "no allow_tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "matmul high": lambda: torch.set_float32_matmul_precision("high"),
    "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
}
if NEWER:
    CALLERS |= {
        "all tf32": _set(BACKENDS, "tf32"),
        "cudnn ieee": _set(BACKENDS.cudnn, "ieee"),
        "conv ieee": _set(BACKENDS.cudnn.conv, "ieee"),
        "products tf32": _set(BACKENDS.cuda.matmul, "tf32"),
        "CPU bf16": _set(BACKENDS.mkldnn, "bf16"),
    }


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("device", "tf32"), [(CUDA, False), (CUDA, True), (CPU, False)], ids=str)
def test_switches_are_stated_inside_and_put_back(caller: str, device: torch.device, tf32: bool) -> None:
    CALLERS[caller]()
    before = settings()
    with stated(device, tf32=tf32):
        if device.type == "cuda":
            assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
        if NEWER:
            places = (
                (BACKENDS.cudnn.conv, BACKENDS.cuda.matmul)
                if device.type == "cuda"
                else (BACKENDS.mkldnn.conv, BACKENDS.mkldnn.matmul)
            )
            for place in places:
                assert place.fp32_precision in (("tf32",) if tf32 else ("ieee", "none"))
        assert not torch.is_autocast_enabled(device.type)
    assert settings() == before


def test_they_are_put_back_after_an_error() -> None:
    torch.set_float32_matmul_precision("high")
    before = settings()
    with pytest.raises(KeyError), stated(CUDA, tf32=True):
        raise KeyError
    assert settings() == before


@needs_newer
def test_what_was_inherited_goes_on_following() -> None:
    BACKENDS.mkldnn.fp32_precision = "bf16"
    with stated(CPU):
        assert BACKENDS.mkldnn.conv.fp32_precision == "ieee"
    assert BACKENDS.mkldnn.conv.fp32_precision == "bf16"
    BACKENDS.mkldnn.fp32_precision = "none"
    assert BACKENDS.mkldnn.conv.fp32_precision == "none"


@pytest.mark.parametrize("caller", ["defaults", "no allow_tf32", "matmul high", "matmul medium", "benchmark"])
@pytest.mark.parametrize(("device", "tf32"), [(CUDA, False), (CUDA, True), (CPU, False)], ids=str)
def test_the_older_switches(caller: str, device: torch.device, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before torch 2.9, whose switches newer versions still have."""
    monkeypatch.setattr(_arithmetic, "_has_fp32_precision", lambda: False)
    CALLERS[caller]()
    before = settings()
    with stated(device, tf32=tf32):
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        if device.type == "cuda":
            assert torch.backends.cudnn.allow_tf32 == tf32
    after = settings()
    for name in ("allow_tf32", "matmul", "matmul.allow_tf32", "benchmark", "deterministic"):
        assert after[name] == before[name]


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


def test_autocast_is_off_inside() -> None:
    a = torch.eye(8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with stated(CPU):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
