"""The features of all ranks, brought to the first one."""

from __future__ import annotations

from functools import partial

import torch

from fastfid.distributed.world import World

_PIECE_BYTES = 1 << 26


def rows_across(rows: torch.Tensor | None, world: World, *, interleaved: bool) -> torch.Tensor | None:
    """All ranks' rows in the order in which one process would have them; on the CPU of rank 0, None on the others.

    Args:
        rows: this rank's [n, d], or None; with a World of one they come back as they are.
        world: every rank of it must call.
        interleaved: each rank took every K-th image, as of a stream; else ranks have runs, one after the other.

    Raises:
        ValueError: the ranks' d differ; on every rank.
    """
    if world.size == 1:
        return rows
    from torch.distributed import gather

    told = world.gather("rows", None if rows is None else (tuple(rows.shape), rows.dtype))
    known = [one for one in told if one is not None]
    if not known:
        return None
    dim, dtype = known[0][0][1], known[0][1]
    if any(shape[1] != dim for shape, _ in known):
        raise ValueError(f"rows: the ranks have {', '.join(str(shape[1]) for shape, _ in known)} features")
    counts = [0 if one is None else one[0][0] for one in told]
    mine = torch.empty(0, dim, dtype=dtype) if rows is None else rows.cpu()
    piece = max(1, _PIECE_BYTES // max(1, dim * dtype.itemsize * world.size))
    found: list[list[torch.Tensor]] = [[] for _ in counts]
    for start in range(0, max(counts), piece):
        size = min(piece, max(counts) - start)
        sent = torch.zeros(size, dim, dtype=dtype, device="cpu")
        part = mine[start : start + size]
        sent[: len(part)] = part
        received = [torch.empty_like(sent) for _ in counts] if world.index == 0 else None
        world.collective("rows", partial(gather, sent, received, dst=0, group=world._group, async_op=True))
        for rank, block in enumerate(received or ()):
            found[rank].append(block[: max(0, min(size, counts[rank] - start))])
    if world.index != 0:
        return None
    whole = [torch.cat(blocks) if blocks else torch.empty(0, dim, dtype=dtype) for blocks in found]
    if not interleaved:
        return torch.cat(whole)
    made = torch.empty(sum(counts), dim, dtype=dtype, device="cpu")
    for rank, block in enumerate(whole):
        made[rank :: world.size] = block
    return made
