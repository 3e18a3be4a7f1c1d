"""Triton kernels without a GPU: values in the interpreter, compiles for three targets; both in processes of their own.

The interpreter proves indexing, masks and layout, not precision, races or speed. Compiling prints registers and spills.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is an optional extra and has no wheel for this platform")

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_symmetric_product_in_the_interpreter() -> None:
    run(
        """
        import torch
        from fastfid.kernels.symmetric import CONFIGS, products, symmetric_product

        torch.manual_seed(0)
        gram, quadratic, multiply = products()
        block = CONFIGS[torch.float64]["BLOCK"]
        shapes = [(1, 1, 1), (2, 5, 3), (1, 3, block - 1), (1, 17, block), (3, 70, block + 1), (1, 2, 2 * block + 5)]
        for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
            for batch, inner, size in shapes:
                x = torch.randn(batch, inner, size + 3, dtype=dtype)[:, :, :size]  # rows further apart than size
                d = torch.randn(batch, size, size, dtype=dtype)
                d = d + d.mT
                out = torch.full((batch, size, size), float("nan"), dtype=dtype)  # poison: every element is written
                symmetric_product(x, d, out, square=0.1, linear=-1 / 3, constant=1.7)
                eye = torch.eye(size, dtype=torch.float64)
                want = 0.1 * x.double().mT @ x.double() - d.double() / 3 + 1.7 * eye
                assert (out - want).abs().max() <= bound * want.abs().max(), (dtype, batch, inner, size)
                assert torch.equal(out, out.mT)
                a = gram(x)
                assert (a - x.mT @ x).abs().max() <= bound * a.abs().max()
                got, want = quadratic(a, 8.2, -22.9, 16.4), 8.2 * eye.to(dtype) - 22.9 * a + 16.4 * a @ a
                assert (got - want).abs().max() <= bound * want.abs().max()
                assert torch.equal(got, got.mT)
        symmetric_product(torch.empty(0, 2, 2), None, torch.empty(0, 2, 2), square=1.0, linear=0.0, constant=0.0)
        """,
        TRITON_INTERPRET="1",
    )


def test_polar_iteration_over_the_triton_products_in_the_interpreter() -> None:
    run(
        """
        import torch
        from fastfid.kernels import symmetric
        from fastfid.linalg import engine_torch
        from fastfid.linalg.iteration import Products, polar_iteration

        torch.manual_seed(0)
        m = torch.randn(2, 9, 7, dtype=torch.float64) * torch.logspace(0, -7, 7, dtype=torch.float64)
        found = [
            polar_iteration(m, Products(*table()), rtol=1e-8, rounding=torch.zeros(2), precision=precision)
            for table in (engine_torch.products, symmetric.products) for precision in ("float64", "mixed")
        ]
        for one in found:
            assert one.tight(1e-8)
            assert ((one.value - torch.linalg.svdvals(m).sum(-1)).abs() <= 1e-8 * one.value).all()
        assert found[0].steps == found[2].steps
        """,
        TRITON_INTERPRET="1",
    )


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_symmetric_product_compiles(capability: int) -> None:
    out = run(
        f"""
        import os, re, subprocess, tempfile
        import torch, triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from fastfid.kernels.symmetric import CONFIGS, _symmetric_product_kernel as kernel

        folder = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")
        for dtype, name in ((torch.float64, "fp64"), (torch.float32, "fp32")):
            config = CONFIGS[dtype]
            for has_d in (False, True):
                signature = {{argument: "i64" for argument in kernel.arg_names}}
                signature.update(x_ptr="*" + name, d_ptr="*" + name, c_ptr="*" + name, K="i32", Q="i32")
                signature.update(HAS_D="constexpr", BLOCK="constexpr", BLOCK_K="constexpr")
                constants = dict(HAS_D=has_d, BLOCK=config["BLOCK"], BLOCK_K=config["BLOCK_K"])
                made = triton.compile(
                    ASTSource(fn=kernel, signature=signature, constexprs=constants),
                    target=GPUTarget("cuda", {capability}, 32),
                    options=dict(num_warps=config["num_warps"], num_stages=config["num_stages"]),
                )
                ptx = made.asm["ptx"]
                assert "tf32" not in ptx
                assert (".f64.f64.f64.f64" in ptx) == (dtype == torch.float64), "DMMA for float64, FMA for float32"
                assembler = os.path.join(folder, "ptxas-blackwell" if {capability} >= 100 else "ptxas")
                if not os.path.exists(assembler):
                    assembler = os.path.join(folder, "ptxas")
                target = re.search(r"\\.target (sm_\\w+)", ptx).group(1)
                with tempfile.TemporaryDirectory() as scratch:
                    source = os.path.join(scratch, "a.ptx")
                    open(source, "w").write(ptx)
                    report = subprocess.run(
                        [assembler, "-v", "--gpu-name", target, source, "-o", os.path.join(scratch, "a.cubin")],
                        capture_output=True, text=True, check=True,
                    ).stderr
                registers = re.search(r"Used (\\d+) registers", report).group(1)
                spills = re.search(r"(\\d+) bytes spill stores", report).group(1)
                print(f"symmetric_product {{name}} addend={{has_d}} {{target}}: {{registers}} registers, "
                      f"{{spills}} bytes spilled, {{made.metadata.shared}} bytes shared")
        """
    )
    sys.stdout.write(out)
    lines = out.strip().splitlines()
    assert len(lines) == 4
    assert all(" 0 bytes spilled" in line for line in lines), out
