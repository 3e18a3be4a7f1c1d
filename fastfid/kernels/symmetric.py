"""Symmetric products for the polar iteration, computed as one triangle and mirrored (Triton).

    C = square · XᵀX + linear · D + constant · I          X [B, K, Q],  C, D [B, Q, Q],  D symmetric

which is both products of a step that have a symmetric result: XᵀX itself, and with X = D = A (symmetric, so AᵀA = A²)
the polynomial a I + b A + c A². In torch: ``torch.baddbmm(d, x.mT, x, beta=linear, alpha=square)`` and a diagonal
added.

Layout: row-major with any batch and row stride, columns contiguous. Each program computes one tile on or below the
diagonal and writes it twice, so the result is exactly symmetric and costs half the flops: K Q (Q + T) per matrix for
tiles of T. Bytes per matrix: X is read Q/T times out of the L2 cache, D once (its lower half), C written once.
Accumulation in the dtype of X; float32 operands are multiplied as IEEE float32, never TF32. float64 tiles become DMMA
instructions on sm_80, sm_90 and sm_100.

Compiled for sm_80, sm_90 and sm_100 and run in Triton's interpreter by tests/test_kernels_compile.py (any float64
product takes Triton 3.5, sm_100's DMMA 3.8: ``fastfid.kernels.probe``); not run on a GPU, so the tile sizes below are
untuned and ``auto`` prefers torch's products.

Source: the idea of one triangle per product is BLAS's syrk (Dongarra et al., ACM TOMS 16 (1990) 1-17,
doi:10.1145/77626.79170).
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import torch
import triton
import triton.language as tl

CONFIGS = {
    torch.float64: {"BLOCK": 64, "BLOCK_K": 16, "num_warps": 8, "num_stages": 3},
    torch.float32: {"BLOCK": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3},
}
"""Tile sizes that compile without spills on the three targets; untuned (no GPU at hand)."""


def _metadata(grid: Any, kernel: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Name, flops and bytes for profilers: one triangle of tiles; X and D once from memory, C once to it."""
    del kernel
    tiles, batch = grid[0], grid[1]
    inner, size, block = args["K"], args["Q"], args["BLOCK"]
    item = args["x_ptr"].element_size()
    return {
        "name": f"symmetric_product_{batch}x{inner}x{size}",
        f"flops{item * 8}": 2 * batch * tiles * block * block * inner,
        "bytes": item * batch * (inner * size + (3 if args["HAS_D"] else 2) * size * size // 2),
    }


@triton.jit
def lower_tile(tile):
    """(i, j) with tile = i (i + 1) / 2 + j and j ≤ i: tiles of the lower triangle, numbered row by row."""
    # the square root may round either way, so it is corrected
    i = ((tl.sqrt(8.0 * tile.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    return i, tile - i * (i + 1) // 2


_UNSPECIALIZED = ["square_bits", "linear_bits", "constant_bits"]


@triton.jit(launch_metadata=_metadata, do_not_specialize=_UNSPECIALIZED)
def _symmetric_product_kernel(
    x_ptr,  # [B, K, Q]
    d_ptr,  # [B, Q, Q], symmetric; not read unless HAS_D
    c_ptr,  # [B, Q, Q]
    K,
    Q,
    stride_xb: tl.int64,
    stride_xk: tl.int64,
    stride_db: tl.int64,
    stride_dq: tl.int64,
    stride_cb: tl.int64,
    stride_cq: tl.int64,
    square_bits: tl.int64,  # float64 as bits, since Triton passes a Python float as float32
    linear_bits: tl.int64,
    constant_bits: tl.int64,
    HAS_D: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tile = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    i, j = lower_tile(tile)
    rows = i.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    columns = j.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inner = tl.arange(0, BLOCK_K).to(tl.int64)
    x_base = x_ptr + batch * stride_xb
    element = x_ptr.dtype.element_ty
    total = tl.zeros((BLOCK, BLOCK), dtype=element)
    for start in range(0, K, BLOCK_K):
        k = start + inner
        left = tl.load(
            x_base + k[None, :] * stride_xk + rows[:, None], mask=(k[None, :] < K) & (rows[:, None] < Q), other=0.0
        )
        right = tl.load(
            x_base + k[:, None] * stride_xk + columns[None, :],
            mask=(k[:, None] < K) & (columns[None, :] < Q),
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision="ieee", out_dtype=element)

    square = square_bits.to(tl.int64).to(tl.float64, bitcast=True).to(element)
    linear = linear_bits.to(tl.int64).to(tl.float64, bitcast=True).to(element)
    constant = constant_bits.to(tl.int64).to(tl.float64, bitcast=True).to(element)
    out = total * square
    inside = (rows[:, None] < Q) & (columns[None, :] < Q)
    if HAS_D:
        d = tl.load(d_ptr + batch * stride_db + rows[:, None] * stride_dq + columns[None, :], mask=inside, other=0.0)
        out += d * linear
    out += tl.where(rows[:, None] == columns[None, :], constant, 0.0)
    # a tile on the diagonal is mirrored in itself; one below it is written to its place and, transposed, above
    out = tl.where(rows[:, None] >= columns[None, :], out, tl.trans(out))
    c_base = c_ptr + batch * stride_cb
    tl.store(c_base + rows[:, None] * stride_cq + columns[None, :], out, mask=inside)
    if i != j:
        above = (columns[:, None] < Q) & (rows[None, :] < Q)
        tl.store(c_base + columns[:, None] * stride_cq + rows[None, :], tl.trans(out), mask=above)


def symmetric_product(
    x: torch.Tensor, d: torch.Tensor | None, out: torch.Tensor, *, square: float, linear: float, constant: float
) -> None:
    """Write square · xᵀx + linear · d + constant · I into ``out``; shapes and layout as in the module docstring."""
    batch, inner, size = x.shape
    if batch == 0 or size == 0:
        return
    config = CONFIGS[x.dtype]
    tiles = triton.cdiv(size, config["BLOCK"])
    addend = x if d is None else d
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        _symmetric_product_kernel[(tiles * (tiles + 1) // 2, batch)](
            x,
            addend,
            out,
            inner,
            size,
            x.stride(0),
            x.stride(1),
            addend.stride(0),
            addend.stride(1),
            out.stride(0),
            out.stride(1),
            _bits(square),
            _bits(linear),
            _bits(constant),
            HAS_D=d is not None,
            **config,
        )


def products() -> tuple[Any, Any, Any]:
    """(XᵀX, a I + b A + c A², X R) on contiguous [B, p, q]; the last one is an ordinary product, left to cuBLAS."""
    return _gram, _quadratic, torch.matmul


def _gram(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty(x.shape[0], x.shape[2], x.shape[2], dtype=x.dtype, device=x.device)
    symmetric_product(x.contiguous(), None, out, square=1.0, linear=0.0, constant=0.0)
    return out


def _quadratic(a: torch.Tensor, constant: float, linear: float, square: float) -> torch.Tensor:
    out = torch.empty_like(a)
    symmetric_product(a, a, out, square=square, linear=linear, constant=constant)
    return out


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])
