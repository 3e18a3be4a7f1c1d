"""Run the resampler's tests with csrc/ compiled under the address and undefined-behaviour sanitizers.

    python tests/run_sanitized.py [pytest arguments]

Builds into a temporary folder (nothing installed changes) and exits with pytest's status; a finding of a sanitizer
ends the run at once, non-zero. Needs GCC on Linux, whose libasan is loaded before Python.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
CALLS = "100000"  # of the border's functions with extreme integers
TESTS = (
    "test_resample_border.py",
    "test_resample.py",
    "test_resample_layouts.py",
    "test_resample_pillow.py",
    "test_resample_arguments.py",
)
# A child forked by a process under libasan may hang in libasan's own locks.
LEFT_OUT = "not forked_after_use and not data_worker"


def library(name: str) -> str:
    """Where GCC keeps one of its runtime libraries."""
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def build(folder: str) -> None:
    environment = os.environ | {"FASTFID_BUILD_CUDA": "0", "CXX": "g++", "CXXFLAGS": FLAGS}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def run_inside(folder: str, arguments: list[str]) -> int:
    """In the prepared process: put the sanitized module in place of the installed one, then run pytest."""
    import pytest

    (path,) = Path(folder, "fastfid").glob("_C*.so")
    spec = importlib.util.spec_from_file_location("fastfid._C", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import fastfid

    sys.modules["fastfid._C"] = module
    fastfid._C = module  # type: ignore[attr-defined]
    from fastfid.runtime import native as _native

    assert _native.module() is module
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    return int(pytest.main(["-x", "-p", "no:cacheprovider", "-k", LEFT_OUT, *tests, *arguments]))


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        return run_inside(sys.argv[2], sys.argv[3:])
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        environment = os.environ | {
            "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_odr_violation=0",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "PYTHONPATH": str(ROOT),
            "PYTHONMALLOC": "malloc",
            "FASTFID_FUZZ_CALLS": os.environ.get("FASTFID_FUZZ_CALLS", CALLS),
        }
        command = [sys.executable, __file__, "--inside", folder, *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
