"""Scatter matrices of groups of rows, added to running ones in one launch (Triton).

    S_g += Σ_{rows of g} (x − m_g)(x − m_g)ᵀ + w_g δ_g δ_gᵀ         for g in range(G)

    x [b, d] float16/bfloat16/float32/float64; m, δ [G, d], w [G], S [G, d, d] float64

In torch, per group: ``c = x[rows].double() - m; s += c.T @ c + w * torch.outer(delta, delta)``.

Layout: rows of x at any stride, columns contiguous; rows of a group by an order table [b] and offsets [G + 1], or all
rows in the only group. x is read in its own dtype, converted and shifted in registers. Each program owns one tile on or
below the diagonal of one group's S, so sums are in a fixed order and the tiles above the diagonal stay untouched. A
group without rows in the batch costs one read of its offsets. Bytes: x and half of S read, half of S written; x is read
d/T times out of the L2 cache (T the tile). Flops: b d (d + T).

Two ways to the products.

*float64*: ``tl.dot`` on float64, DMMA instructions on sm_80, sm_90 and sm_100.

*sliced*, for devices without float64 tensor cores: each shifted value becomes a 48-bit integer v = round((x − m) 2^s),
with a power of two per column and group from its largest shifted value, and v is cut into six balanced bytes, which are
kept for a few thousand rows at a time. All 36 products of bytes run on the int8 tensor cores and are summed exactly in
int32; their weighted sum over the rows at hand is taken in float64. So the only errors are the rounding of the shifted
values to 2⁻⁴⁷ of their column's largest and of eleven additions in float64 per tile and 4096 rows. This is Ozaki's
splitting (Ozaki, Ogita, Oishi & Rump, Numer. Algorithms 59 (2012) 95-118, doi:10.1007/s11075-011-9478-1) on integers as
in Ootomo, Ozaki & Yokota, arXiv:2306.11975, without leaving any product out.

Cost model, 50,000 × 2048 float32 on a card with float64 at 1/64 of its float32 rate (RTX 4090 by its data sheet:
1.3 TFLOP/s float64, 660 TOP/s int8). One triangle is n d² = 2.1e11 flops, so plain float64 needs at least 0.16 s;
sliced, 36 times as many int8 operations need 12 ms, and writing and reading the slices (0.6 GB each way) 1 ms. The
network of the same 50,000 images takes such a card several seconds and more, a few percent of which plain float64 would
be: the sliced route matters where features are given, hardly where they are extracted.

Compiled for sm_80, sm_90, sm_100 (the sliced one also for sm_86, sm_89, sm_120) by a Triton that can
(``fastfid.kernels.probe``) and run in its interpreter by the tests; not run on a GPU, so tile sizes are untuned, the
figures above are no measurements, and ``auto`` prefers torch's engine.
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

PLAIN = {"BLOCK": 64, "BLOCK_K": 16, "num_warps": 8, "num_stages": 3}
SLICED = {"BLOCK": 64, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
SLICES = {"BLOCK": 64, "BLOCK_K": 32, "num_warps": 4}
SUMS = {"BLOCK": 64, "BLOCK_K": 32, "num_warps": 4}
"""Tile sizes that compile without spills on all targets; untuned (no GPU at hand)."""

_CHUNKS = 16
"""Parts that each group's rows are summed in, so that 2048 columns make programs enough for a large GPU."""

DIGITS: tl.constexpr = tl.constexpr(6)
"""Bytes of a sliced value."""

_BITS = 47
"""|v| < 2^47 / 1.01, which leaves room for the balancing constant below."""

SLICED_ROWS = 4096
"""Rows whose slices are in memory at once (6 bytes a value); int32 sums of six products of bytes hold 21 845."""

_MAGIC: tl.constexpr = tl.constexpr(6755399441055744.0)
"""1.5 · 2^52: adding it to |v| < 2^51 rounds v to an integer, which then stands in the low bits of the sum."""

_MAGIC_BITS: tl.constexpr = tl.constexpr(0x4338000000000000)
"""The same number's bit pattern."""

_BALANCE: tl.constexpr = tl.constexpr(0x808080808080)
"""128 in each of the six bytes: (v + this) is not negative, and its bytes less 128 are balanced digits of v."""


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
    sliced = "slices_ptr" in args
    b, d, tiles, groups = args["COUNT" if sliced else "B"], args["D"], grid[0], grid[1]
    item = DIGITS.value if sliced else args["x_ptr"].element_size()
    area = args["BLOCK"] * args["BLOCK"]
    return {
        "name": f"scatter_update_{'sliced_' if sliced else ''}{groups}x{b}x{d}",
        "flops8" if sliced else "flops64": 2 * b * tiles * area * (DIGITS.value**2 if sliced else 1),
        "bytes": item * b * d + 8 * groups * 2 * tiles * area,
    }


def _slice_metadata(grid: Any, kernel: Any, args: dict[str, Any]) -> dict[str, Any]:
    """Name, flops and bytes for profilers: x once, its slices once."""
    del grid, kernel
    size = args["COUNT"] * args["D"]
    return {
        "name": f"slices_{args['COUNT']}x{args['D']}",
        "flops64": 2 * size,
        "bytes": (args["x_ptr"].element_size() + DIGITS.value) * size,
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
    sums_ptr,  # [CHUNKS, G, D], and so low and high, which are not written unless RANGE
    low_ptr,
    high_ptr,
    B,
    D,
    stride_x: tl.int64,
    GROUPED: tl.constexpr,
    RANGE: tl.constexpr,
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
    low = tl.zeros((BLOCK_K, BLOCK), dtype=tl.float64)  # the range of x − origin always has zero in it
    high = tl.zeros((BLOCK_K, BLOCK), dtype=tl.float64)
    for start in range(begin, end, BLOCK_K):
        y = _shifted(x_ptr, stride_x, order_ptr, start + inner, end, columns, origin, D, GROUPED, False)
        total += y
        if RANGE:
            low = tl.minimum(low, y)
            high = tl.maximum(high, y)
    place = (chunk * tl.num_programs(1) + group) * D + columns
    tl.store(sums_ptr + place, tl.sum(total, axis=0), mask=columns < D)
    if RANGE:
        tl.store(low_ptr + place, tl.min(low, axis=0), mask=columns < D)
        tl.store(high_ptr + place, tl.max(high, axis=0), mask=columns < D)


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


@triton.jit(launch_metadata=_slice_metadata)
def _slice_kernel(
    x_ptr,  # [B, D]
    order_ptr,  # [B]; group_ptr [B], the group at each place of order; neither is read unless GROUPED
    group_ptr,
    shift_ptr,  # [G, D]
    scale_ptr,  # [G, D], powers of two
    slices_ptr,  # [DIGITS, D, ROWS]
    first,  # place in order of the first of COUNT rows
    COUNT,
    ROWS,
    D,
    stride_x: tl.int64,
    GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    k = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    columns = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = (k[:, None] < COUNT) & (columns[None, :] < D)
    source = first + k
    parameters = k[:, None] * 0 + columns[None, :]
    if GROUPED:
        parameters += tl.load(group_ptr + source, mask=k < COUNT, other=0)[:, None] * D
        source = tl.load(order_ptr + source, mask=k < COUNT, other=0)
    x = tl.load(x_ptr + source[:, None] * stride_x + columns[None, :], mask=inside, other=0.0)
    shift = tl.load(shift_ptr + parameters, mask=inside, other=0.0)
    scale = tl.load(scale_ptr + parameters, mask=inside, other=0.0)
    v = ((x.to(tl.float64) - shift) * scale + _MAGIC).to(tl.int64, bitcast=True) - _MAGIC_BITS + _BALANCE
    for p in tl.static_range(DIGITS):
        digit = (((v >> (8 * p)) & 255) - 128).to(tl.int8)
        place = (p * D + columns[None, :]) * ROWS + k[:, None]
        tl.store(slices_ptr + place, digit, mask=inside)


@triton.jit(launch_metadata=_product_metadata)
def _sliced_scatter_kernel(
    slices_ptr,  # [DIGITS, D, ROWS]
    offsets_ptr,  # [G + 1]; not read unless GROUPED
    scale_ptr,  # [G, D], powers of two
    delta_ptr,  # [G, D]
    weight_ptr,  # [G]
    s_ptr,  # [G, D, D]
    first,  # place in order of the first of COUNT rows
    COUNT,
    ROWS,
    D,
    GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    i, j = lower_tile(tl.program_id(0))
    group = tl.program_id(1).to(tl.int64)
    begin, end = _rows_of(offsets_ptr, first + COUNT, group, GROUPED)
    starts_here = begin >= first
    begin = tl.maximum(begin - first, 0).to(tl.int32)
    end = tl.minimum(end - first, COUNT).to(tl.int32)
    rows = i * BLOCK + tl.arange(0, BLOCK)
    columns = j * BLOCK + tl.arange(0, BLOCK)
    inner = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float64)
    for step in range(2 * DIGITS - 1):
        level = 2 * DIGITS - 2 - step  # digit p times digit q has weight 256^(p + q); the largest first
        products = tl.zeros((BLOCK, BLOCK), dtype=tl.int32)
        for p in range(tl.maximum(level - DIGITS + 1, 0), tl.minimum(level, DIGITS - 1) + 1):
            left_row = (p * D + rows[:, None]) * ROWS
            right_row = ((level - p) * D + columns[None, :]) * ROWS
            for start in range(begin, end, BLOCK_K):
                k = start + inner
                left_inside = (rows[:, None] < D) & (k[None, :] < end)
                right_inside = (columns[None, :] < D) & (k[:, None] < end)
                left = tl.load(slices_ptr + left_row + k[None, :], mask=left_inside, other=0)
                right = tl.load(slices_ptr + right_row + k[:, None], mask=right_inside, other=0)
                products = tl.dot(left, right, products, out_dtype=tl.int32)
        total = total * 256.0 + products.to(tl.float64)
    if begin < end:
        scale_i = tl.load(scale_ptr + group * D + rows, mask=rows < D, other=1.0)
        scale_j = tl.load(scale_ptr + group * D + columns, mask=columns < D, other=1.0)
        total = total * (1.0 / scale_i)[:, None] * (1.0 / scale_j)[None, :]
        weight = tl.where(starts_here, tl.load(weight_ptr + group), 0.0)
        _add_tile(total, delta_ptr, weight, s_ptr, group, rows, columns, D)


def column_sums(
    x: torch.Tensor, origin: torch.Tensor, segments: Segments | None, *, with_range: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(Σ (x − origin), min and max of x and origin), each [G, d]; the range is ``origin`` if not asked for."""
    (b, d), groups = x.shape, len(origin)
    order, _, offsets = segments or (origin, origin, origin)
    made = torch.empty(3 if with_range else 1, _CHUNKS, groups, d, dtype=torch.float64, device=x.device)
    sums, low, high = made if with_range else (made[0], made[0], made[0])
    grid = (triton.cdiv(d, SUMS["BLOCK"]), groups, _CHUNKS)
    with _on(x):
        _column_sums_kernel[grid](
            x,
            order,
            offsets,
            origin,
            sums,
            low,
            high,
            b,
            d,
            x.stride(0),
            GROUPED=segments is not None,
            RANGE=with_range,
            **SUMS,
        )
    if not with_range:
        return sums.sum(dim=0), origin, origin
    return sums.sum(dim=0), low.amin(dim=0) + origin, high.amax(dim=0) + origin


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
        _scatter_kernel[_triangle(scatter, PLAIN)](
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
            **PLAIN,
        )


def sliced_scatter_update(
    x: torch.Tensor,
    shift: torch.Tensor,
    reach: torch.Tensor,
    delta: torch.Tensor,
    weight: torch.Tensor,
    scatter: torch.Tensor,
    segments: Segments | None,
) -> None:
    """The same through slices; ``reach`` [G, d] bounds |x − shift| in each group."""
    b, d = x.shape
    order, group, offsets = segments or (shift, shift, shift)
    scale = _scales(reach)
    most = min(SLICED_ROWS, (2**31 - 1) // (DIGITS.value * d))  # places in ``slices`` are int32
    rows = triton.cdiv(min(b, most), 16) * 16
    slices = torch.empty(DIGITS.value, d, rows, dtype=torch.int8, device=x.device)
    grouped = segments is not None
    with _on(x):
        for first in range(0, b, most):
            count = min(b - first, most)
            grid = (triton.cdiv(count, SLICES["BLOCK_K"]), triton.cdiv(d, SLICES["BLOCK"]))
            places = (first, count, rows, d)
            _slice_kernel[grid](x, order, group, shift, scale, slices, *places, x.stride(0), GROUPED=grouped, **SLICES)
            _sliced_scatter_kernel[_triangle(scatter, SLICED)](
                slices, offsets, scale, delta, weight, scatter, *places, GROUPED=grouped, **SLICED
            )


def _triangle(scatter: torch.Tensor, config: dict[str, int]) -> tuple[int, int]:
    """Grid of the lower tiles of each group."""
    tiles = triton.cdiv(scatter.shape[1], config["BLOCK"])
    return tiles * (tiles + 1) // 2, len(scatter)


def _scales(reach: torch.Tensor) -> torch.Tensor:
    """2^s with reach · 2^s < 2^47 / 1.01; s at most 1000, so that neither it nor its reciprocal leaves float64."""
    exponent = _BITS - torch.frexp(reach * 1.01).exponent.long()
    return ((exponent.clamp(max=1000) + 1023) << 52).view(torch.float64)


def _on(x: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
