"""DataLoaders that already divide or shuffle what they yield, which ranks that divide it again would read wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

_OWN = (
    "pass distributed='own' if each process shall read just what its own loader yields (as Evaluator.update does), "
    "each image by one process"
)


def require_whole(role: str, given: Any) -> None:
    """Refuse a DataLoader of which each process would see other images, or the same in another order.

    Known by its samplers: one with ``num_replicas`` or ``num_processes`` above 1 divides, a RandomSampler,
    SubsetRandomSampler or WeightedRandomSampler shuffles (seeded alike or not: the seed is nobody's promise). Whatever
    else comes otherwise on one rank is found when it is read.

    Raises:
        ValueError: it is one; names the sampler and the ways out.
    """
    for part in _parts(given):
        name = type(part).__name__
        replicas = max(_number(part, "num_replicas"), _number(part, "num_processes"))
        if replicas > 1:
            raise ValueError(
                f"{role}: this {type(given).__name__} is divided among {replicas} processes already ({name}), and "
                "every process would read only a part of its part. Pass the Dataset, or a DataLoader without it, which "
                f"fastfid divides itself; or {_OWN}"
            )
        if isinstance(part, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)):
            raise ValueError(
                f"{role}: this {type(given).__name__} shuffles ({name}), each process in an order of its own, so that "
                "some images would be read twice and others not at all. Pass the Dataset, or a DataLoader with "
                f"shuffle=False: order does not matter to a distance; or {_OWN}"
            )


def repeated_by_sampler(given: Any) -> str | None:
    """What a DistributedSampler adds or leaves out so that all ranks have equally many, or None."""
    for part in _parts(given):
        if isinstance(part, DistributedSampler):
            extra = part.total_size - len(part.dataset)  # type: ignore[arg-type]
            if extra > 0:
                return (
                    f"DistributedSampler repeats {extra} of {len(part.dataset)} images, "  # type: ignore[arg-type]
                    "so that all processes have equally many; they are counted twice"
                )
            if extra < 0:
                return f"DistributedSampler(drop_last=True) leaves out {-extra} of {len(part.dataset)} images"  # type: ignore[arg-type]
    return None


def _parts(given: Any) -> Iterator[Any]:
    """A DataLoader's samplers, those inside them, and its dataset."""
    if not isinstance(given, DataLoader):
        return
    waiting: list[Any] = [given.batch_sampler, given.sampler, given.dataset]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop(0)
        if part is None or id(part) in seen or len(seen) > 16:
            continue
        seen.add(id(part))
        yield part
        waiting += [getattr(part, name, None) for name in ("sampler", "batch_sampler")]


def _number(part: Any, name: str) -> int:
    found = getattr(part, name, 1)
    return found if isinstance(found, int) else 1
