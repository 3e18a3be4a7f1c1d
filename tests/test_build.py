"""How fastfid._C is built, what it says of itself, and what users read where it is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import fastfid
from fastfid.errors import BackendUnavailableError
from fastfid.runtime import dispatch as _dispatch
from fastfid.runtime import native as _native

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "setup.py"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """setup.py as a module, without running it."""
    spec = importlib.util.spec_from_file_location("fastfid_setup", SETUP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_nvcc(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(recipe, "USUAL_NVCC", tmp_path / "nvcc")


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget what _native has loaded, before and after."""
    _native._load.cache_clear()
    yield
    _native._load.cache_clear()


# --- what the module says of itself -----------------------------------------------------------------------------------


def test_build_info_says_how_it_was_built() -> None:
    info = _native.build_info()
    assert set(info) == {"cuda", "cuda_archs", "nvcc", "compiler", "simd", "commit", "cpu_levels"}
    assert info["compiler"]
    levels = str(info["cpu_levels"]).split(";")
    assert levels[-1] == "baseline"
    assert set(levels) <= set(str(info["simd"]).split(";"))
    assert bool(info["cuda_archs"]) == bool(info["nvcc"]) == info["cuda"]


def test_the_cpp_backend_is_the_default_on_the_cpu() -> None:
    assert _native.why_no_cpp("cpu") is None
    assert _dispatch.backend_for("resize_normalize", "cpu") == "cpp"


def test_each_backend_says_which_tensors_it_takes() -> None:
    assert _native.why_no_cpp("cuda") == "the C++ backend works on CPU tensors, not on cuda"
    assert _native.why_no_cuda("cpu") == "the CUDA backend works on CUDA tensors, not on cpu"


# --- where it is missing, old, or of the wrong kind -------------------------------------------------------------------


def test_a_missing_module_is_reported_on_use_and_not_before(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastfid._C", None)
    images = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    assert fastfid.resize_normalize(images, (8, 8)).shape == (1, 3, 8, 8)  # the reference remains, and is named
    assert _dispatch.backend_for("resize_normalize", "cpu") == "reference"
    with pytest.raises(BackendUnavailableError, match=r"fastfid\._C was not built; .* Available here: ref"):
        fastfid.resize_normalize(images, (8, 8), backend="cpp")
    assert "was not built" in str(_native.build_info()["missing"])
    assert "was not built" in str(_native.why_no_cuda("cuda"))
    with pytest.raises(ImportError, match="was not built"):
        _native.module()


def test_a_module_of_other_sources_is_refused(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastfid._C", SimpleNamespace(interface=0))  # type: ignore[arg-type]
    assert "built from another version of csrc/" in str(_native.why_no_cpp("cpu"))


def test_a_module_that_does_not_load_says_why(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError("libstdc++.so.6: version not found")

    monkeypatch.setattr(_native.importlib, "import_module", fail)
    assert "does not load (libstdc++.so.6: version not found); install" in str(_native.why_no_cpp("cpu"))


@pytest.mark.parametrize(
    ("cuda", "archs", "capability", "reason"),
    [
        (False, "", (9, 0), "was built without CUDA; .*FASTFID_BUILD_CUDA=1"),
        (True, "80;90", (7, 5), "compute capability 7.5; the kernels need 8.0 or newer"),
        (True, "90", (8, 6), r"built for sm_90, the GPU is sm_86; FASTFID_CUDA_ARCH=86"),
        (True, "86;90", (8, 0), "built for sm_86;90, the GPU is sm_80"),
        (True, "80;90", (8, 9), None),  # a cubin runs on later minors of its major
        (True, "80;90", (12, 1), None),  # by PTX
    ],
)
def test_why_no_cuda(
    cuda: bool,
    archs: str,
    capability: tuple[int, int],
    reason: str | None,
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = {"cuda": cuda, "cuda_archs": archs}
    module = SimpleNamespace(interface=_native._INTERFACE, build_info=lambda: facts)
    monkeypatch.setitem(sys.modules, "fastfid._C", module)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    said = _native.why_no_cuda("cuda")
    if reason is None:
        assert said is None
    else:
        assert re.search(reason, str(said))


def test_why_no_cuda_without_a_device(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(interface=_native._INTERFACE, build_info=lambda: {"cuda": True, "cuda_archs": "90"})
    monkeypatch.setitem(sys.modules, "fastfid._C", module)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "not a CUDA build" in str(_native.why_no_cuda("cuda"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device" in str(_native.why_no_cuda("cuda"))


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_without_nvcc_auto_leaves_cuda_out(
    recipe: ModuleType, no_nvcc: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for choice in ("auto", "0"):
        monkeypatch.setenv("FASTFID_BUILD_CUDA", choice)
        assert recipe.wanted_nvcc() is None
    monkeypatch.setenv("FASTFID_BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match=r"nvcc was not found\. Looked in: \$CUDA_HOME/bin .*\$PATH.*set CUDA_HOME"):
        recipe.wanted_nvcc()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert recipe.wanted_nvcc() == str(tmp_path / "bin" / "nvcc")
    monkeypatch.setenv("FASTFID_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="FASTFID_BUILD_CUDA='yes' is not understood; accepted: auto, 0, 1"):
        recipe.wanted_nvcc()


def test_architectures(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("80;90", "8.0 9.0", "sm_80,sm_90"):
        monkeypatch.setenv("FASTFID_CUDA_ARCH", text)
        assert recipe.wanted_archs() == ["80", "90"]
    for text in ("", "hopper", "9"):
        monkeypatch.setenv("FASTFID_CUDA_ARCH", text)
        with pytest.raises(SystemExit, match="is not understood; give"):
            recipe.wanted_archs()


@pytest.mark.parametrize("nvcc", [None, "/opt/with space/nvcc"])
def test_the_ninja_file_builds_every_source_for_no_particular_machine(
    nvcc: str | None, recipe: ModuleType, tmp_path: Path
) -> None:
    text = recipe.ninja_file(tmp_path, tmp_path / "_C.so", ["g++"], nvcc, ["80", "90"] if nvcc else [], {"commit": "x"})
    for source in (ROOT / "csrc").iterdir():
        if source.suffix == ".cpp" or (nvcc and source.suffix == ".cu"):
            assert source.name in text
    assert "native" not in text
    assert text.count("resample_simd.cpp") == len(recipe.SIMD_LEVELS)
    assert (".cu" in text) == bool(nvcc)
    if nvcc:
        assert "arch=compute_80,code=sm_80" in text
        assert "arch=compute_90,code=compute_90" in text  # PTX of the newest
        assert "-cudart static" in text


def test_the_source_archive_is_complete(tmp_path: Path) -> None:
    """Built from a copy, so that this checkout is left alone."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "csrc", copy / "csrc")
    shutil.copytree(ROOT / "fastfid", copy / "fastfid", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("fastfid-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {f"csrc/{file.name}" for file in (ROOT / "csrc").iterdir() if file.is_file()} <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "fastfid/py.typed"} <= names
    assert not [name for name in names if name.endswith((".so", ".o"))]


@pytest.mark.slow
def test_a_build_from_nothing_then_one_of_nothing(tmp_path: Path) -> None:
    """Without CUDA, in a folder of its own; the second run compiles nothing."""
    environment = os.environ | {"FASTFID_BUILD_CUDA": "0"}
    places = ["--build-lib", str(tmp_path), "--build-temp", str(tmp_path / "temporary")]
    command = [sys.executable, "setup.py", "build_ext", *places]
    first = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert first.stdout.count("fastfid: building _C with") == 1
    assert "no CUDA" in first.stdout
    (module,) = (tmp_path / "fastfid").glob("_C*")
    made = module.stat().st_mtime_ns
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert module.stat().st_mtime_ns == made
