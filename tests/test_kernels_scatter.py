"""The scatter kernels without a GPU: values in Triton's interpreter (tests/test_kernels_compile.py compiles them).

The interpreter proves indexing and masks, not precision of tensor cores, races or speed.
"""

from __future__ import annotations

import subprocess
import sys

import child
import pytest

from fastfid.kernels import probe

pytest.importorskip("triton", reason="Triton is an optional extra and has no wheel for this platform")


def run(*arguments: str, lacking: bool = False, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=child.environment(**variables),
        capture_output=True,
        text=True,
        timeout=500,
    )
    if lacking:
        assert "Unsupported lhs dtype fp64" in done.stderr
        return ""
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_values_in_the_interpreter() -> None:
    version = tuple(int(part) for part in str(probe.triton_version()).split(".")[:2])
    lacking = version < (3, 5)  # no product in float64, neither compiled nor here
    run(str(child.TESTS / "interpreted_scatter.py"), lacking=lacking, TRITON_INTERPRET="1")
