"""The scatter kernels without a GPU: values in Triton's interpreter, compiles that print registers and spills.

The interpreter proves indexing, masks and the arithmetic of the slices, not precision of tensor cores, races or speed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is an optional extra and has no wheel for this platform")

TESTS = Path(__file__).resolve().parent


def run(*arguments: str, **variables: str) -> str:
    path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("case", ["float64", "mixed", pytest.param("parts", marks=pytest.mark.slow)])
def test_values_in_the_interpreter(case: str) -> None:
    run(str(TESTS / "interpreted_scatter.py"), case, TRITON_INTERPRET="1")


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_float64_kernel_compiles(capability: int) -> None:
    out = run(
        "-c",
        textwrap.dedent(f"""
        from compiled import compile_for
        from fastfid.kernels.scatter import PLAIN, SUMS, _column_sums_kernel, _scatter_kernel

        pointers = dict(order_ptr="i64", offsets_ptr="i64", shift_ptr="fp64", delta_ptr="fp64", weight_ptr="fp64")
        for element, grouped in (("fp32", False), ("fp32", True), ("bf16", True), ("fp16", True), ("fp64", True)):
            made = compile_for({capability}, _scatter_kernel, dict(pointers, x_ptr=element, s_ptr="fp64"),
                               dict(PLAIN, GROUPED=grouped))
            assert ".f64.f64.f64.f64" in made.ptx, "DMMA"
            print("scatter", element, "grouped" if grouped else "one group", made)
        sums = dict.fromkeys(("origin_ptr", "sums_ptr", "low_ptr", "high_ptr"), "fp64")
        made = compile_for({capability}, _column_sums_kernel,
                           dict(sums, x_ptr="fp32", order_ptr="i64", offsets_ptr="i64"),
                           dict(SUMS, GROUPED=True, RANGE=True))
        print("column_sums", made)
        """),
    )
    sys.stdout.write(out)
    lines = out.strip().splitlines()
    assert len(lines) == 6
    assert all(" 0 bytes spilled" in line for line in lines), out


_SLOW = [pytest.param(capability, marks=pytest.mark.slow) for capability in (80, 86, 90, 100, 120)]


@pytest.mark.parametrize("capability", [89, *_SLOW])
def test_sliced_kernels_compile(capability: int) -> None:
    out = run(
        "-c",
        textwrap.dedent(f"""
        from compiled import compile_for
        from fastfid.kernels.scatter import SLICED, SLICES, _slice_kernel, _sliced_scatter_kernel

        slicing = dict(order_ptr="i64", group_ptr="i64", shift_ptr="fp64", scale_ptr="fp64", slices_ptr="i8")
        product = dict(slices_ptr="i8", offsets_ptr="i64", scale_ptr="fp64", delta_ptr="fp64", weight_ptr="fp64")
        for grouped in (False, True):
            made = compile_for({capability}, _slice_kernel, dict(slicing, x_ptr="fp32"), dict(SLICES, GROUPED=grouped))
            print("slices", "grouped" if grouped else "one group", made)
            made = compile_for({capability}, _sliced_scatter_kernel, dict(product, s_ptr="fp64"),
                               dict(SLICED, GROUPED=grouped))
            assert ".s32.s8.s8" in made.ptx or "kind::i8" in made.ptx, "int8 products"
            print("sliced_scatter", "grouped" if grouped else "one group", made)
        """),
    )
    sys.stdout.write(out)
    lines = out.strip().splitlines()
    assert len(lines) == 4
    assert all(" 0 bytes spilled" in line for line in lines), out
