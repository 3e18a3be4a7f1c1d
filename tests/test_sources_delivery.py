"""DataLoaders that lose or repeat images: counted, warned of, and refused where every worker gives the whole set."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from images import photos
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, get_worker_info
from torch.utils.data.sampler import BatchSampler, SequentialSampler, SubsetRandomSampler

import fastfid
from fastfid.errors import SetWarning
from fastfid.sources import open_source

IMAGES = torch.from_numpy(photos(70, 8, 8)).permute(0, 3, 1, 2).contiguous()
pytestmark = [
    pytest.mark.filterwarnings("ignore:Length of IterableDataset"),  # torch's own, after the fact
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def read(loader: Any, **options: Any) -> tuple[int, dict[str, int], str]:
    source = open_source(loader)
    n = sum(len(batch) for batch in source.batches(16, **options))
    return n, dict(source.unread), " ".join(source.remarks)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 48, 70])
@pytest.mark.parametrize("size", [1, 7, 16, 24])
def test_drop_last_is_counted(n: int, size: int) -> None:
    given = TensorDataset(IMAGES[:n])
    own = BatchSampler(SequentialSampler(given), size, drop_last=True)
    for loader in (DataLoader(given, size, drop_last=True), DataLoader(given, batch_sampler=own)):
        got, unread, said = read(loader)
        assert got == n - n % size
        assert unread == ({"drop_last": n % size} if n % size else {})
        assert (f"leaves out {n % size} of {n} images; {got} were read" in said) == bool(n % size)
    assert read(DataLoader(given, size)) == (n, {}, "")


def test_a_limit_below_the_rest_is_no_loss() -> None:
    assert read(DataLoader(TensorDataset(IMAGES), 16, drop_last=True), limit=40) == (40, {}, "")


def test_samplers_are_counted_without_a_warning() -> None:
    chosen = SubsetRandomSampler(range(50), generator=torch.Generator().manual_seed(0))
    assert read(DataLoader(TensorDataset(IMAGES), 16, sampler=chosen)) == (50, {"not drawn by the sampler": 20}, "")


class Stream(IterableDataset):
    """Every worker yields everything, in the order that ``order`` gives for it."""

    def __init__(self, order: Callable[[int], Any], says: int | None = None) -> None:
        self.order, self.says = order, says

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data._utils.worker._worker_info  # not by the name that is looked for
        for index in self.order(0 if info is None else info.id):
            yield IMAGES[index]


class Sized(Stream):
    def __len__(self) -> int:
        assert self.says is not None
        return self.says


class Sharded(IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        index, of = (0, 1) if info is None else (info.id, info.num_workers)
        yield from itertools.islice(IMAGES, index, None, of)


def everything(worker: int) -> Any:
    return range(70)


def shuffled(worker: int) -> Any:
    return np.random.default_rng(worker).permutation(70)


def by_parity(worker: int) -> Any:
    return range(worker, 70, 2)


def overlapping(worker: int) -> Any:
    return range(40) if worker == 0 else range(30, 70)


def only_a_few(worker: int) -> Any:
    return range(3)


@pytest.mark.parametrize(("size", "workers"), [(1, 2), (4, 3), (70, 2)])
@pytest.mark.parametrize("order", [everything, only_a_few])
def test_workers_that_all_yield_the_set_are_refused(size: int, order: Callable[[int], Any], workers: int) -> None:
    loader = DataLoader(Stream(order), size, num_workers=workers)
    with pytest.raises(ValueError, match=rf"its {workers} workers yield the same images.*get_worker_info"):
        read(loader)


def test_refused_at_once_and_not_at_the_end() -> None:
    batches = open_source(DataLoader(Stream(everything), 4, num_workers=2)).batches(4)
    assert len(next(batches)) == 4
    with pytest.raises(ValueError, match="would be counted 2 times"):
        next(batches)


def test_copies_in_another_order_are_refused_at_the_end() -> None:
    with pytest.raises(ValueError, match="each image came from all of its 2 workers"):
        read(DataLoader(Stream(shuffled), 8, num_workers=2))
    with pytest.raises(ValueError, match=r"more images come than the 70 .*get_worker_info"):
        read(DataLoader(Sized(shuffled, 70), 8, num_workers=2))


def test_shares_pass() -> None:
    """Those that ask which worker they are in without a word; others, whose code says nothing, with a warning."""
    for workers in (0, 3):
        assert read(DataLoader(Sharded(), 8, num_workers=workers)) == (70, {}, "")
    assert read(DataLoader(Stream(everything), 8, num_workers=1)) == (70, {}, "")
    n, unread, said = read(DataLoader(Stream(by_parity), 8, num_workers=2))
    assert (n, unread) == (70, {})
    assert "No image came twice" in said
    assert "get_worker_info" in said
    assert read(DataLoader(Stream(by_parity), 8, num_workers=2, worker_init_fn=by_parity)) == (70, {}, "")


def test_repetitions_are_counted() -> None:
    n, _, said = read(DataLoader(Stream(overlapping), 8, num_workers=2))
    assert n == 80
    assert "10 of 80 images are repetitions, from 2 workers" in said


def test_one_picture_many_times_is_no_proof() -> None:
    n, _, said = read(DataLoader(Stream(lambda worker: [5] * 20), 4, num_workers=2))
    assert n == 40
    assert "39 of 40 images are repetitions" in said


def test_streams_that_say_their_length() -> None:
    loader = DataLoader(Sized(everything, 70), 16, drop_last=True)
    n, unread, said = read(loader)
    assert (n, unread) == (64, {"drop_last": 6})
    assert "leaves out 6 of 70" in said
    n, unread, said = read(DataLoader(Sized(everything, 75), 16))
    assert (n, unread) == (70, {})
    assert "70 images came of the 75" in said


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def test_the_result_says_it() -> None:
    loader = DataLoader(TensorDataset(IMAGES), 16, drop_last=True)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        result = fastfid.fid(IMAGES, loader, extractor=Means(), device="cpu")
    assert [one.category for one in raised] == [SetWarning]
    assert result.run.gen.n == 64
    assert result.to_dict()["gen"]["unread"] == {"drop_last": 6}
    assert any("leaves out 6 of 70 images" in text for text in result.run.warnings)
    mine = fastfid.Evaluator(IMAGES, extractor=Means(), device="cpu")
    mine.update(loader)
    with pytest.warns(SetWarning, match="leaves out 6 of 70 images"):
        got = mine.compute()
    assert (got.run.gen.n, got.run.gen.unread) == (64, (("drop_last", 6),))
    with pytest.raises(ValueError, match="yield the same images"):
        mine.update(DataLoader(Stream(everything), 8, num_workers=2))
    assert mine.n == 64
