"""Scatter matrices of groups of rows, added to running ones in one launch (Triton).

    S_g += Σ_{rows of g} (x − m_g)(x − m_g)ᵀ + w_g δ_g δ_gᵀ         for g in range(G)

    x [b, d] float16/bfloat16/float32/float64; m, δ [G, d], w [G], S [G, d, d] float64

In torch, per group: ``c = x[rows].double() - m; s += c.T @ c + w * torch.outer(delta, delta)``.

Layout: rows of x at any stride, columns contiguous; rows of a group by an order table [b] and offsets [G + 1], or all
rows in the only group. x is read in its own dtype, converted and shifted in registers. Each program owns one tile on or
below the diagonal of one group's S, so sums are in a fixed order and the tiles above the diagonal stay untouched. A
group without rows in the batch costs one read of its offsets. Bytes: x and half of S read, half of S written; x is read
d/T times out of the L2 cache (T the tile). Flops: b d (d + T).

Products are ``tl.dot`` on float64: DMMA instructions on sm_80, sm_90 and sm_100. Where a card has no float64 tensor
cores, torch's engine takes the kernels' place.

Compiled for sm_80, sm_90, sm_100 by a Triton that can (``fastfid.kernels.probe``) and run in its interpreter by the
tests; not run on a GPU, so tile sizes are untuned, and ``auto`` prefers torch's engine.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl

from fastfid.kernels.symmetric import lower_tile

Segments = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""int64 row numbers sorted by group [b], their groups [b], offsets [G + 1]; as fastfid.moments.segments.Segments."""

PRODUCTS = {"BLOCK": 64, "BLOCK_K": 16, "num_warps": 8, "num_stages": 3}
SUMS = {"BLOCK": 64, "BLOCK_K": 32, "num_warps": 4}
"""Tile sizes that compile without spills on all targets; untuned (no GPU at hand)."""

_CHUNKS = 16
"""Parts that each group's rows are summed in, so that 2048 columns make programs enough for a large GPU."""


@triton.jit
def _rows_of(offsets_ptr, B, group, GROUPED: tl.constexpr):
    """(begin, end) of a group in the order table."""
    if GROUPED:
        begin = tl.load(offsets_ptr + group)
        end = tl.load(offsets_ptr + group + 1)
    else:
        begin = group * 0
        end = begin + B
    return begin, end


@triton.jit
def _hidden(value):
    """The value; of 16-bit types as the larger of itself twice, past which Triton does not look for a product's width.

    From a 16-bit load it would choose operands of two neighbours for the float64 product, which it cannot lower.
    """
    if value.dtype.primitive_bitwidth == 16:
        value = tl.max(tl.join(value, value).to(tl.float32), axis=2)
    return value


@triton.jit
def _shifted(x_ptr, stride, order_ptr, k, end, columns, shift, D, GROUPED: tl.constexpr, TRANSPOSED: tl.constexpr):
    """x − shift in float64 for rows k and some columns, [k, column] or [column, k]; zero beyond the group's end."""
    valid = k < end
    if GROUPED:
        source = tl.load(order_ptr + k, mask=valid, other=0)
    else:
        source = k
    if TRANSPOSED:
        mask = valid[None, :] & (columns[:, None] < D)
        value = tl.load(x_ptr + source[None, :] * stride + columns[:, None], mask=mask, other=0.0)
        value = _hidden(value)
        y = tl.where(mask, value.to(tl.float64) - shift[:, None], 0.0)
    else:
        mask = valid[:, None] & (columns[None, :] < D)
        value = tl.load(x_ptr + source[:, None] * stride + columns[None, :], mask=mask, other=0.0)
        value = _hidden(value)
        y = tl.where(mask, value.to(tl.float64) - shift[None, :], 0.0)
    return y


@triton.jit
def _add_tile(total, delta_ptr, weight, s_ptr, group, rows, columns, D):
    """S += total + w δ δᵀ on one tile."""
    left = tl.load(delta_ptr + group * D + rows, mask=rows < D, other=0.0)
    right = tl.load(delta_ptr + group * D + columns, mask=columns < D, other=0.0)
    inside = (rows[:, None] < D) & (columns[None, :] < D)
    place = s_ptr + (group * D + rows[:, None]) * D + columns[None, :]
    total += tl.load(place, mask=inside, other=0.0) + (weight * left)[:, None] * right[None, :]
    tl.store(place, total, mask=inside)


def _product_metadata(grid: Any, kernel: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Name, flops and bytes for profilers: operands once; one triangle of each S, as if all groups had rows, twice."""
    del kernel
    b, d, tiles, groups = args["B"], args["D"], grid[0], grid[1]
    area = args["BLOCK"] * args["BLOCK"]
    return {
        "name": f"scatter_update_{groups}x{b}x{d}",
        "flops64": 2 * b * tiles * area,
        "bytes": args["x_ptr"].element_size() * b * d + 8 * groups * 2 * tiles * area,
    }


def _sums_metadata(grid: Any, kernel: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Name, flops and bytes for profilers: x once."""
    del kernel
    return {
        "name": f"column_sums_{grid[1]}x{args['B']}x{args['D']}",
        "flops64": 2 * args["B"] * args["D"],
        "bytes": args["x_ptr"].element_size() * args["B"] * args["D"],
    }


@triton.jit(launch_metadata=_sums_metadata)
def _column_sums_kernel(
    x_ptr,  # [B, D]
    order_ptr,  # [B]; offsets_ptr [G + 1]; neither is read unless GROUPED
    offsets_ptr,
    origin_ptr,  # [G, D]
    sums_ptr,  # [CHUNKS, G, D]
    B,
    D,
    stride_x: tl.int64,
    GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    columns = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1).to(tl.int64)
    chunk = tl.program_id(2).to(tl.int64)
    begin, end = _rows_of(offsets_ptr, B, group, GROUPED)
    length = tl.cdiv(end - begin, tl.num_programs(2))
    begin += chunk * length
    end = tl.minimum(begin + length, end)
    inner = tl.arange(0, BLOCK_K).to(tl.int64)
    origin = tl.load(origin_ptr + group * D + columns, mask=columns < D, other=0.0)
    total = tl.zeros((BLOCK_K, BLOCK), dtype=tl.float64)
    for start in range(begin, end, BLOCK_K):
        total += _shifted(x_ptr, stride_x, order_ptr, start + inner, end, columns, origin, D, GROUPED, False)
    place = (chunk * tl.num_programs(1) + group) * D + columns
    tl.store(sums_ptr + place, tl.sum(total, axis=0), mask=columns < D)


@triton.jit(launch_metadata=_product_metadata)
def _scatter_kernel(
    x_ptr,  # [B, D]
    order_ptr,  # [B]; offsets_ptr [G + 1]; neither is read unless GROUPED
    offsets_ptr,
    shift_ptr,  # [G, D]
    delta_ptr,  # [G, D]
    weight_ptr,  # [G]
    s_ptr,  # [G, D, D]
    B,
    D,
    stride_x: tl.int64,
    GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    i, j = lower_tile(tl.program_id(0))
    group = tl.program_id(1).to(tl.int64)
    begin, end = _rows_of(offsets_ptr, B, group, GROUPED)
    rows = i.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    columns = j.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inner = tl.arange(0, BLOCK_K).to(tl.int64)
    shift_i = tl.load(shift_ptr + group * D + rows, mask=rows < D, other=0.0)
    shift_j = tl.load(shift_ptr + group * D + columns, mask=columns < D, other=0.0)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float64)
    for start in range(begin, end, BLOCK_K):
        k = start + inner
        left = _shifted(x_ptr, stride_x, order_ptr, k, end, rows, shift_i, D, GROUPED, True)
        right = _shifted(x_ptr, stride_x, order_ptr, k, end, columns, shift_j, D, GROUPED, False)
        total = tl.dot(left, right, total, out_dtype=tl.float64)
    if begin < end:
        _add_tile(total, delta_ptr, tl.load(weight_ptr + group), s_ptr, group, rows, columns, D)


def column_sums(x: torch.Tensor, origin: torch.Tensor, segments: Segments | None) -> torch.Tensor:
    """Σ (x − origin) [G, d]."""
    (b, d), groups = x.shape, len(origin)
    order, _, offsets = segments or (origin, origin, origin)
    sums = torch.empty(_CHUNKS, groups, d, dtype=torch.float64, device=x.device)
    grid = (triton.cdiv(d, SUMS["BLOCK"]), groups, _CHUNKS)
    with _on(x):
        _column_sums_kernel[grid](
            x, order, offsets, origin, sums, b, d, x.stride(0), GROUPED=segments is not None, **SUMS
        )
    return sums.sum(dim=0)


def scatter_update(
    x: torch.Tensor,
    shift: torch.Tensor,
    delta: torch.Tensor,
    weight: torch.Tensor,
    scatter: torch.Tensor,
    segments: Segments | None,
) -> None:
    """Update the lower tiles of ``scatter`` in place in float64; shapes as in the module docstring."""
    order, _, offsets = segments or (shift, shift, shift)
    with _on(x):
        _scatter_kernel[_triangle(scatter, PRODUCTS)](
            x,
            order,
            offsets,
            shift,
            delta,
            weight,
            scatter,
            len(x),
            x.shape[1],
            x.stride(0),
            GROUPED=segments is not None,
            **PRODUCTS,
        )


def _triangle(scatter: torch.Tensor, config: dict[str, int]) -> tuple[int, int]:
    """Grid of the lower tiles of each group."""
    tiles = triton.cdiv(scatter.shape[1], config["BLOCK"])
    return tiles * (tiles + 1) // 2, len(scatter)


def _on(x: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
