"""Run by tests/test_kernels_scatter.py under Triton's interpreter: the scatter kernels against two passes."""

from __future__ import annotations

import numpy as np
import tolerances as tol
import torch

from fastfid.kernels import scatter as kernels
from fastfid.moments.engine_triton import accumulate
from fastfid.moments.segments import Segments
from fastfid.moments.update import mirrored
from fastfid.reference.moments import two_pass

BLOCK = kernels.PRODUCTS["BLOCK"]
SHAPES = [(1, 1), (2, 3), (17, BLOCK - 1), (33, BLOCK), (70, BLOCK + 1)]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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
    counts = (0, 1, 37, 90, 0, 2)
    group = torch.repeat_interleave(torch.arange(6), torch.tensor(counts))[torch.randperm(130)]
    d = BLOCK + 2
    for dtype in (torch.float32, torch.bfloat16):
        x = (torch.randn(130, d + 4) * 0.5 + 40 * group[:, None]).to(dtype)[:, :d]
        mean, scatter = accumulators(6, d)
        n = torch.zeros(6, dtype=torch.int64)
        scatter += torch.full((d, d), 7.0).triu(1)  # what stands above the diagonal is neither read nor meant
        for start, end in ((0, 100), (100, 130)):
            segments = Segments.of(group[start:end], 6)
            accumulate(x[start:end], n, mean, scatter, segments)
            n += segments.counts
        assert n.tolist() == list(counts)
        for g, count in enumerate(counts):
            if count:
                compare(mean[g], scatter[g], x[group == g], (dtype, g))
            else:
                assert torch.count_nonzero(scatter[g].tril()) == torch.count_nonzero(mean[g]) == 0


if __name__ == "__main__":
    torch.manual_seed(0)
    one_group()
    far_and_wide()
    groups()
