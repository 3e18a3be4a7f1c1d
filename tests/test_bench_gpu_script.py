"""bench/gpu.sh with every tool replaced by a stub: which steps run, what follows a failure, where logs lie."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "gpu.sh"
STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" | tee -a "$CALLS"
if [ -n "$FAIL" ] && [[ "$(basename "$0") $*" =~ $FAIL ]]; then exit 3; fi
"""
RUNS_ITS_REST = STUB + 'while [ $# -gt 0 ] && [ "$1" != python ]; do shift; done\n"$@"\n'


def run(folder: Path, *words: str, fail: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The finished script and the commands that it ran."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("python", "nvcc", "nvidia-smi", "compute-sanitizer"):
        (tools / name).write_text(RUNS_ITS_REST if name == "compute-sanitizer" else STUB)
        (tools / name).chmod(0o755)
    calls = folder / "calls"
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": "python", "CALLS": str(calls)}
    environment |= {"FAIL": fail, "FASTFID_CUDA_ARCH": "90"}
    environment.pop("E2E_COUNT", None)
    done = subprocess.run(
        ["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


def position(calls: list[str], *parts: str) -> int:
    (found,) = [i for i, call in enumerate(calls) if all(part in call for part in parts)]
    return found


def test_everything_in_order_with_logs_in_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done, calls = run(tmp_path, str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    order = [
        position(calls, "pip install", "-e ."),
        position(calls, "pytest", "--junit-xml", f"{out}/tests.xml"),
        position(calls, "compute-sanitizer", "memcheck", "kns=resample_kernel"),
        position(calls, "compute-sanitizer", "racecheck", "kns=resample_kernel"),
        position(calls, "compute-sanitizer", "memcheck", "kns=symmetric_product", "kns=scatter_kernel"),
        position(calls, "bench/run.py", "--device cuda --seconds", f"--out {out}"),
        position(calls, "--end-to-end tensors", "--count 50000", f"--out {out}"),
        position(calls, "--end-to-end growth", "--count 50000"),
        position(calls, "--end-to-end pipeline", "--count 2000"),
        position(calls, "bench/test_micro.py --benchmark-only", f"{out}/micro.json"),
    ]
    assert order == sorted(order)
    logs = ["bench.log", "build.log", "e2e.log", "micro.log", "sanitize.log", "test.log"]
    assert sorted(path.name for path in out.iterdir()) == logs
    assert "run.py --device cuda" in (out / "bench.log").read_text()


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "--only", "test,micro", str(tmp_path / "out"))
    assert done.returncode == 0
    assert sum("pytest" in call for call in calls) == 2
    assert not any("run.py" in call or "pip" in call for call in calls)


def test_a_failed_benchmark_does_not_stop_the_rest(tmp_path: Path) -> None:
    done, calls = run(tmp_path, str(tmp_path / "out"), fail=r"--end-to-end tensors|run\.py --device")
    assert done.returncode == 1
    assert "failed: bench e2e " in done.stdout
    assert position(calls, "--end-to-end growth")
    assert position(calls, "test_micro.py")


def test_a_failed_sanitizer_fails_the_run_after_the_other_tools(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "--only", "sanitize,bench", str(tmp_path / "out"), fail="--tool memcheck.*resample")
    assert done.returncode == 1
    assert "failed: sanitize " in done.stdout
    assert position(calls, "compute-sanitizer", "synccheck")
    assert position(calls, "bench/run.py")


def test_nothing_follows_a_failed_build(tmp_path: Path) -> None:
    done, calls = run(tmp_path, str(tmp_path / "out"), fail="pip install")
    assert done.returncode == 1
    assert "failed: build " in done.stdout
    assert not any("pytest" in call for call in calls)


@pytest.mark.parametrize("words", [("--only", "build,paint"), ("--fast",)])
def test_unknown_words_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    done, calls = run(tmp_path, *words)
    assert done.returncode == 2
    assert words[-1].split(",")[-1] in done.stderr
    assert calls == []
