"""The one merge of moments across ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fastfid.distributed.world import World
from fastfid.moments import Moments
from fastfid.moments import metadata as _metadata


@dataclass(frozen=True)
class _Share:
    """What a rank says of its Moments before the large numbers move."""

    n: int
    dim: int | None
    mean: torch.Tensor | None
    has_rows: bool
    from_samples: bool
    metadata: dict[str, Any]


def merge_across(moments: Moments, world: World, *, device: torch.device | str | None = None) -> Moments:
    """The moments of all ranks' samples together, the same bits on every rank.

    Args:
        moments: this rank's; unchanged. Any of them may be empty.
        world: every rank of it must call.
        device: where the result's accumulators live; None means the CPU.

    Returns:
        Moments whose rows, while the total n ≤ d and every rank still has its own, are those of all ranks in the order
        of the ranks: the same bits as one process that read the shares one after the other. In metadata ``n`` is the
        total, ``source`` and ``skipped`` are lists of all ranks'. A World of one gives back ``moments`` itself.

    Raises:
        ValueError: the ranks' d differ (on every rank), or this one's statistics lack their number of samples.
        IncomparableError: the ranks' metadata name different protocols, networks or weights; on every rank.
        RankError: another rank failed or died.

    Numerics:
        Mean and scatter within 1e-12 of one process's with the same features, relative to their largest entry
        (tests/test_distributed.py::test_moments_equal_those_of_one_process); exactly symmetric; the same bits at every
        run with the same ranks.

    Source: Chan, Golub & LeVeque, doi:10.1080/00031305.1983.10483115.
    """
    if world.size == 1:
        return moments
    if moments.n is None:
        raise ValueError("moments: statistics without their number of samples can be compared but not merged")
    rows, mean = moments.rows, moments.mean.cpu() if moments.n else None
    own = _Share(moments.n, moments.dim, mean, rows is not None, moments.from_samples, moments.metadata)
    shares = world.gather("moments", own)
    dim = _common_dim(shares)
    n = sum(share.n for share in shares)
    metadata = _metadata_of_all(shares, n)
    if n == 0 or dim is None:
        return Moments(dim, device=device, metadata=metadata)
    where = torch.device("cpu" if device is None else device)
    if n <= dim and all(share.has_rows for share in shares if share.n):
        merged = Moments(dim, device=where, metadata=metadata)
        for block in _rows_of_all(rows, shares, dim, world):
            merged.update(block)
        return merged
    mean = _mean_of_all(shares, n)
    scatter = torch.zeros(dim, dim, dtype=torch.float64, device="cpu") if moments.n == 0 else moments.scatter.cpu()
    if own.mean is not None:
        delta = (own.mean - mean) * own.n**0.5
        scatter.addr_(delta, delta)
    state = {
        "n": n,
        "dim": dim,
        "mean": mean,
        "scatter": _sum_of_all(scatter, world),
        "rows": None,
        "cov": None,
        "seen": all(share.from_samples for share in shares if share.n),
        "keep_rows": False,
        "metadata": metadata,
    }
    return Moments.from_state(state, device=where)


def _common_dim(shares: list[_Share]) -> int | None:
    """The number of features that all ranks have; a rank without samples need not know it."""
    dim, whose = None, 0
    for rank, share in enumerate(shares):
        if dim is not None and share.dim is not None and share.dim != dim:
            raise ValueError(f"moments: rank {whose} has {dim} features, rank {rank} has {share.dim}")
        if dim is None:
            dim, whose = share.dim, rank
    return dim


def _metadata_of_all(shares: list[_Share], n: int) -> dict[str, Any]:
    """The ranks' metadata joined in their order; a rank without samples may still have left some out."""
    joined_so_far: dict[str, Any] = {}
    for share in shares:
        _metadata.require_alike(joined_so_far, share.metadata)
        taken = {} if joined_so_far else _metadata.of_one(share.metadata)
        joined_so_far = _metadata.joined({**taken, **joined_so_far}, share.metadata, n)
    return joined_so_far


def _mean_of_all(shares: list[_Share], n: int) -> torch.Tensor:
    """Σ n_r mean_r / n relative to the first mean, entry by entry, so that every rank rounds the same way."""
    present = [(share.n, share.mean) for share in shares if share.mean is not None]
    first = present[0][1]
    shift = torch.zeros_like(first)
    for count, mean in present[1:]:
        shift += (mean - first) * (count / n)
    return first + shift


def _rows_of_all(rows: torch.Tensor | None, shares: list[_Share], dim: int, world: World) -> Iterator[torch.Tensor]:
    """Every rank's samples in turn, float64 [n_r, d] on the CPU."""
    from torch.distributed import broadcast

    for rank, share in enumerate(shares):
        if share.n == 0:
            continue
        own = rank == world.index and rows is not None
        block = rows.cpu() if own and rows is not None else torch.empty(share.n, dim, dtype=torch.float64, device="cpu")
        sent = block.contiguous()
        world.collective("rows", partial(broadcast, sent, src=rank, group=world._group, async_op=True))
        yield sent


def _sum_of_all(matrix: torch.Tensor, world: World) -> torch.Tensor:
    """Σ over the ranks, added in their order: every rank sums one piece of the numbers and hands it to all."""
    from torch.distributed import all_gather, all_to_all_single

    numbers = matrix.numel()
    piece = -(-numbers // world.size)
    padded = torch.zeros(world.size * piece, dtype=torch.float64, device="cpu")
    padded[:numbers] = matrix.flatten()
    received = torch.empty_like(padded)
    world.collective("scatter", lambda: all_to_all_single(received, padded, group=world._group, async_op=True))
    total, *others = received.view(world.size, piece)
    for other in others:
        total += other
    pieces = list(padded.view(world.size, piece))
    world.collective("sum", lambda: all_gather(pieces, total, group=world._group, async_op=True))
    return padded[:numbers].view_as(matrix)
