"""Whether Triton's engines are available, and what is said where they are not: by stubs of torch, Triton and GPUs."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastfid.errors import BackendUnavailableError
from fastfid.kernels import probe
from fastfid.runtime import dispatch as _dispatch


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An sm_100, a CUDA build of torch, Triton 9.9 and a C compiler, as far as anybody asks."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (10, 0))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    probe.why_not_compiled.cache_clear()
    yield monkeypatch
    probe.why_not_compiled.cache_clear()


def interpreter(folder: Path, code: str) -> str:
    """A Python that says what it is told to, whatever it is asked."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('noise'); print(json.dumps(None))", None),
        ("print(json.dumps('does not compile x for sm_100: no.'))", "Triton 9.9 does not compile x for sm_100: no."),
        (
            "print('a'); print('LLVM ERROR: Cannot select', file=sys.stderr); os.abort()",
            r"exit status -6\): LLVM ERROR",
        ),
        ("sys.exit('no module named x')", r"fails on its kernels for sm_100 \(exit status 1\): no module named x"),
        ("sys.exit(3)", r"\(exit status 3\): without a word"),
        ("import time; time.sleep(60)", "was not done compiling its kernels for sm_100 after 1 s"),
    ],
)
@pytest.mark.parametrize("operation", ["scatter", "polar_products"])
def test_what_the_compiling_process_says(
    operation: str, code: str, reason: str | None, gpu: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu.setattr(sys, "executable", interpreter(tmp_path, code))
    gpu.setattr(probe, "_PATIENCE", 1.0 if "sleep" in code else 60.0)
    said = _dispatch.report(operation, "cuda")
    assert list(said) == ["torch", "triton"]
    assert said["torch"] is None
    if reason is None:
        assert said["triton"] is None
    else:
        assert re.search(reason, str(said["triton"])), said


def test_nothing_is_compiled_unless_triton_is_asked_for(gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    gpu.setattr(sys, "executable", interpreter(tmp_path, f"open({str(ran)!r}, 'a').write('x'); print('\"says no\"')"))
    for operation in ("scatter", "polar_products"):
        assert _dispatch.backend_for(operation, "cuda") == "torch"
    assert not ran.exists()
    for _ in range(3):  # and once for each operation and GPU
        with pytest.raises(BackendUnavailableError, match=r"Triton 9.9 says no Available here: torch\."):
            _dispatch.backend_for("scatter", "cuda", "triton")
    assert ran.read_text() == "x"


def test_the_process_is_asked_about_the_gpu_and_without_the_interpreter(
    gpu: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu.setenv("TRITON_INTERPRET", "1")
    told = tmp_path / "told"
    code = f"open({str(told)!r}, 'a').write(sys.argv[2] + str('TRITON_INTERPRET' in os.environ)); print('null')"
    gpu.setattr(sys, "executable", interpreter(tmp_path, code))
    assert _dispatch.report("scatter", "cuda")["triton"] is None
    assert "probe.answer('scatter', 100, True)False" in told.read_text()
    gpu.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    assert "no float64 tensor cores" in str(_dispatch.report("scatter", "cuda")["triton"])
    assert _dispatch.report("polar_products", "cuda")["triton"] is None
    assert "probe.answer('polar_products', 89, False)False" in told.read_text()


def test_what_is_missing_is_named(gpu: pytest.MonkeyPatch) -> None:
    assert probe.why_no_triton("cuda") is None
    assert "tensors are on cpu" in str(probe.why_no_triton("cpu"))
    gpu.delenv("CC", raising=False)
    gpu.setattr(shutil, "which", lambda _: None)
    assert "needs a C compiler" in str(probe.why_no_triton("cuda"))
    gpu.setenv("CC", "my-cc")
    assert probe.why_no_triton("cuda") is None

    def absent(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    gpu.setattr(importlib.metadata, "version", absent)
    assert "Triton is not installed" in str(probe.why_no_triton("cuda"))
    gpu.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert "compute capability 7.5; the kernels need 8.0" in str(probe.why_no_triton("cuda"))
    gpu.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in str(probe.why_no_triton("cuda"))
    gpu.setattr(torch.version, "cuda", None)
    assert "not built for CUDA" in str(probe.why_no_triton("cuda"))


def test_an_answer_names_the_first_kernel_that_does_not_compile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Made:
        def __init__(self, ptx: str) -> None:
            self.asm = {"ptx": ptx}

    def compiled(_: int, kernel: str, *__: object) -> Made:
        if kernel == "bad":
            try:
                raise AssertionError("Unsupported lhs dtype fp64")
            except AssertionError as error:
                raise RuntimeError("at 1:2: the source") from error
        return Made(kernel)

    def answer(*kernels: str, tensor_cores: bool) -> str:
        named = [(f"float64 {number}" if k != "other" else "other", k, {}, {}) for number, k in enumerate(kernels)]
        monkeypatch.setattr(probe, "variants", lambda _: iter(named))
        probe.answer("x", 90, tensor_cores)
        return capsys.readouterr().out

    monkeypatch.setattr(probe, "compiled", compiled)
    dmma = "mma.f64.f64.f64.f64"
    assert answer(dmma, "other", tensor_cores=True) == "null\n"
    assert answer("fma", "other", tensor_cores=False) == "null\n"
    assert (
        answer(dmma, "fma", tensor_cores=True) == '"compiles float64 1 for sm_90 without its float64 tensor cores."\n'
    )
    assert answer(dmma, "bad", "fma", tensor_cores=True) == (
        '"does not compile float64 1 for sm_90: Unsupported lhs dtype fp64."\n'
    )
