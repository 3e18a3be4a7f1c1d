"""Run by tests/test_kernels_compile.py under Triton's interpreter: what every kernel computes; one process for all.

TRITON_INTERPRET=1 python tests/interpreted.py      JSON: the traceback of each case that fails, null of the others
"""

from __future__ import annotations

import json
import sys
import traceback

import numpy as np
import tolerances as tol
import torch

from fastfid.kernels import scatter as kernels
from fastfid.kernels import symmetric
from fastfid.linalg import engine_torch
from fastfid.linalg.iteration import Products, polar_iteration
from fastfid.moments.engine_triton import accumulate
from fastfid.moments.segments import Segments
from fastfid.moments.update import mirrored
from fastfid.reference.moments import two_pass

BLOCK = kernels.PRODUCTS["BLOCK"]
SHAPES = [(1, 1), (2, 3), (17, BLOCK - 1), (33, BLOCK), (70, BLOCK + 1)]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def symmetric_product() -> None:
    gram, quadratic, _ = symmetric.products()
    block = symmetric.CONFIGS[torch.float64]["BLOCK"]
    shapes = [(1, 1, 1), (2, 5, 3), (1, 3, block - 1), (1, 17, block), (3, 70, block + 1), (1, 2, 2 * block + 5)]
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        for batch, inner, size in shapes:
            x = torch.randn(batch, inner, size + 3, dtype=dtype)[:, :, :size]  # rows further apart than size
            d = torch.randn(batch, size, size, dtype=dtype)
            d = d + d.mT
            out = torch.full((batch, size, size), float("nan"), dtype=dtype)  # poison: every element is written
            symmetric.symmetric_product(x, d, out, square=0.1, linear=-1 / 3, constant=1.7)
            eye = torch.eye(size, dtype=torch.float64)
            want = 0.1 * x.double().mT @ x.double() - d.double() / 3 + 1.7 * eye
            assert (out - want).abs().max() <= bound * want.abs().max(), (dtype, batch, inner, size)
            assert torch.equal(out, out.mT)
            a = gram(x)
            assert (a - x.mT @ x).abs().max() <= bound * a.abs().max()
            got, want = quadratic(a, 8.2, -22.9, 16.4), 8.2 * eye.to(dtype) - 22.9 * a + 16.4 * a @ a
            assert (got - want).abs().max() <= bound * want.abs().max()
            assert torch.equal(got, got.mT)
    nothing = torch.empty(0, 2, 2)
    symmetric.symmetric_product(nothing, None, nothing, square=1.0, linear=0.0, constant=0.0)


def polar() -> None:
    """The iteration over Triton's products ends as over torch's."""
    m = torch.randn(2, 9, 7, dtype=torch.float64) * torch.logspace(0, -7, 7, dtype=torch.float64)
    found = [
        polar_iteration(m, Products(*table()), rtol=1e-8, rounding=torch.zeros(2), precision=precision)
        for table in (engine_torch.products, symmetric.products)
        for precision in ("float64", "mixed")
    ]
    for one in found:
        assert one.tight(1e-8)
        assert ((one.value - torch.linalg.svdvals(m).sum(-1)).abs() <= 1e-8 * one.value).all()
    assert found[0].steps == found[2].steps


def accumulators(groups: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(groups, d, dtype=torch.float64), torch.zeros(groups, d, d, dtype=torch.float64)


def compare(mean: torch.Tensor, scatter: torch.Tensor, x: torch.Tensor, what: object) -> None:
    _, want_mean, want = two_pass(x.double().numpy())
    tol.check(mean, want_mean, relative=tol.MOMENTS_FROBENIUS, what=f"{what}: mean")
    tol.check_frobenius(mirrored(scatter), want, relative=tol.MOMENTS_FROBENIUS, what=str(what))


def one_group() -> None:
    for number, (b, d) in enumerate(SHAPES):
        for dtype in DTYPES if number == 1 else DTYPES[:1]:
            x = (torch.randn(b + 9, d + 5) * torch.logspace(0, -3, d + 5) + 100).to(dtype)[:, :d]
            x[:, d // 2] = 0.1
            mean, scatter = accumulators(1, d)
            for start, end in ((0, b), (b, b + 9)):
                accumulate(x[start:end], start, mean, scatter, None)
            compare(mean[0], scatter[0], x, (b, d, dtype))
            assert torch.count_nonzero(mirrored(scatter[0])[d // 2]) == 0, "a constant column has no scatter"


def far_and_wide() -> None:
    """mean/std = 1e6; columns from 1e-200 to 1e150 in size, each of which keeps its own digits."""
    x = torch.randn(40, 8, dtype=torch.float64) + 1e6
    mean, scatter = accumulators(1, 8)
    accumulate(x, 0, mean, scatter, None)
    exact = x.numpy().astype(np.longdouble)
    centred = exact - exact.mean(axis=0)
    tol.check_frobenius(mirrored(scatter[0]), centred.T @ centred, relative=tol.MOMENTS_FROBENIUS, what="far")
    x = torch.randn(40, 3, dtype=torch.float64) * torch.tensor([1e-140, 1.0, 1e150], dtype=torch.float64)
    mean, scatter = accumulators(1, 3)
    accumulate(x, 0, mean, scatter, None)
    _, _, want = two_pass(x.numpy())
    scale = np.sqrt(np.diag(want))
    got = mirrored(scatter[0]).numpy() / scale / scale[:, None]
    tol.check(got, want / scale / scale[:, None], relative=tol.MOMENTS_FROBENIUS, what="wide")


def groups() -> None:
    counts = (0, 1, 37, 0, 2)
    n_rows = sum(counts)
    group = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))[torch.randperm(n_rows)]
    for dtype, d in ((torch.float32, BLOCK + 2), (torch.bfloat16, 5)):
        x = (torch.randn(n_rows, d + 4) * 0.5 + 40 * group[:, None]).to(dtype)[:, :d]
        mean, scatter = accumulators(5, d)
        n = torch.zeros(5, dtype=torch.int64)
        scatter += torch.full((d, d), 7.0).triu(1)  # what stands above the diagonal is neither read nor meant
        for start, end in ((0, 25), (25, n_rows)):
            segments = Segments.of(group[start:end], 5)
            accumulate(x[start:end], n, mean, scatter, segments)
            n += segments.counts
        assert n.tolist() == list(counts)
        for g, count in enumerate(counts):
            if count:
                compare(mean[g], scatter[g], x[group == g], (dtype, g))
            else:
                assert torch.count_nonzero(scatter[g].tril()) == torch.count_nonzero(mean[g]) == 0


CASES = {case.__name__: case for case in (symmetric_product, polar, one_group, far_and_wide, groups)}


def trouble(name: str) -> str | None:
    torch.manual_seed(0)
    try:
        CASES[name]()
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: trouble(name) for name in CASES}))
