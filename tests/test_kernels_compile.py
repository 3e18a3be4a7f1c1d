"""Triton kernels without a GPU: values in the interpreter, compiles for many GPUs; both in processes of their own.

The interpreter proves indexing, masks and layout, not precision, races or speed. Compiling prints registers and spills.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import child
import pytest

from fastfid.kernels import probe

pytest.importorskip("triton", reason="Triton is an optional extra and has no wheel for this platform")

VERSION = tuple(int(part) for part in str(probe.triton_version()).split(".")[:2])


def run(code: str, **variables: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command, cwd=child.TESTS, env=child.environment(**variables), capture_output=True, text=True, timeout=500
    )
    if VERSION < (3, 5):  # has no product in float64, neither compiled nor here
        assert "Unsupported lhs dtype fp64" in done.stderr
        return ""
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


_SLOW = [
    pytest.param(operation, capability, marks=pytest.mark.slow)
    for operation, capabilities in (
        ("polar_products", (80,)),
        ("scatter", (80,)),
    )
    for capability in capabilities
]


@pytest.mark.parametrize(
    ("operation", "capability"),
    [*((name, sm) for name in ("polar_products", "scatter") for sm in (90, 100)), *_SLOW],
)
def test_kernels_compile_or_are_not_available(
    operation: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Almost) without spills, products on tensor cores, by a Triton that can; else availability says why not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    probe.why_not_compiled.cache_clear()
    reason = probe.why_not_compiled(operation, capability, True)
    wanted = refusal(operation, capability)
    if wanted is not None:
        assert reason is not None
        assert re.search(wanted, reason), reason
        return
    assert reason is None
    command = [sys.executable, str(child.TESTS / "compiled.py"), operation, str(capability)]
    done = subprocess.run(command, env=child.environment(), capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    sys.stdout.write(done.stdout)
    lines = done.stdout.splitlines()
    assert len(lines) == len(list(probe.variants(operation)))
    spilled = [int(re.search(r"(\d+) bytes spilled", line)[1]) for line in lines]
    assert all(count == 0 if "MMA]" in line else count <= 8 for line, count in zip(lines, spilled, strict=True)), lines
    assert all(("[DMMA]" in line) == ("float64" in line) for line in lines), done.stdout


def refusal(operation: str, capability: int) -> str | None:
    """What the installed Triton is known to say of kernels that it can't compile well; None of those it can."""
    if VERSION < (3, 3):
        return "does not compile"  # its ASTSource takes other arguments
    if VERSION < (3, 5):
        return "does not compile .* in float64|does not compile the float64"
    if capability == 100 and VERSION < (3, 8):
        return "for sm_100"
    return None
