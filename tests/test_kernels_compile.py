"""Triton kernels without a GPU: values in the interpreter, compiles for many GPUs; both in processes of their own.

The interpreter proves indexing, masks and layout, not precision, races or speed. Compiling prints registers and spills.
The processes take as long to start as to work: one is for all of the interpreter's cases and one for all kernels of a
GPU; two run at a time, and they share Triton's cache.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import child
import pytest

from fastfid.kernels import probe

pytest.importorskip("triton", reason="Triton is an optional extra and has no wheel for this platform")

VERSION = tuple(int(part) for part in str(probe.triton_version()).split(".")[:2])


def script(name: str, *words: object, **variables: str) -> str:
    command = [sys.executable, str(child.TESTS / name), *map(str, words)]
    done = subprocess.run(
        command, env=child.environment(**variables), capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Any]]:
    """Futures of the interpreter's cases (""), of a GPU's kernels (90) and of the product's own question ((…, 90))."""
    asked = [item.callspec.params for item in request.session.items if item.path == request.path]
    cases = [(given["operation"], given["capability"]) for given in asked if "operation" in given]
    made: dict[Any, Future[Any]] = {}
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        probe.why_not_compiled.cache_clear()
        made[""] = pool.submit(script, "interpreted.py", TRITON_INTERPRET="1") if len(cases) < len(asked) else None
        for capability in sorted({capability for _, capability in cases}):
            able = [name for name, sm in cases if sm == capability and refusal(name, sm) is None]
            made[capability] = pool.submit(script, "compiled.py", capability, *able)
        made |= {case: pool.submit(probe.why_not_compiled, *case, True) for case in cases}
        yield made


@pytest.mark.parametrize("name", ["symmetric_product", "polar", "one_group", "far_and_wide", "groups"])
def test_values_in_the_interpreter(name: str, processes: dict[Any, Any]) -> None:
    said = json.loads(processes[""].result())[name]
    if VERSION < (3, 5):  # has no product in float64, neither compiled nor here
        assert "Unsupported lhs dtype fp64" in said
    else:
        assert said is None, said


@pytest.mark.parametrize(
    ("operation", "capability"),
    [
        *(("polar_products", 90), ("scatter", 90), ("polar_products", 100)),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("polar_products", 80), ("scatter", 80), ("scatter", 100))
        ),
    ],
)
def test_kernels_compile_or_are_not_available(operation: str, capability: int, processes: dict[Any, Any]) -> None:
    """(Almost) without spills, products on tensor cores, by a Triton that can; else availability says why not."""
    reason = processes[operation, capability].result()
    wanted = refusal(operation, capability)
    if wanted is not None:
        assert reason is not None
        assert re.search(wanted, reason), reason
        return
    assert reason is None
    lines = [line for line in processes[capability].result().splitlines() if line.startswith(f"{operation}: ")]
    sys.stdout.write("\n".join(lines))
    assert len(lines) == len(list(probe.variants(operation)))
    spilled = [int(re.search(r"(\d+) bytes spilled", line)[1]) for line in lines]
    assert all(count == 0 if "MMA]" in line else count <= 8 for line, count in zip(lines, spilled, strict=True)), lines
    assert all(("[DMMA]" in line) == ("float64" in line) for line in lines), lines


def refusal(operation: str, capability: int) -> str | None:
    """What the installed Triton is known to say of kernels that it can't compile well; None of those it can."""
    if VERSION < (3, 3):
        return "does not compile"  # its ASTSource takes other arguments
    if VERSION < (3, 5):
        return "does not compile .* in float64|does not compile the float64"
    if capability == 100 and VERSION < (3, 8):
        return "for sm_100"
    return None
