"""The parts of the agreement between ranks, one rank at a time: checksums, draws, loaders, sets of one's own."""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from images import photos
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

import fastfid
from fastfid.agreement import twins
from fastfid.agreement.digest import of_image, spread
from fastfid.agreement.loaders import repeated_by_sampler, require_whole
from fastfid.agreement.watch import SHARE, OwnItems, SharedItems, StreamWatch
from fastfid.distributed import World, asked
from fastfid.errors import BadImageError
from fastfid.resample import RaggedImages
from fastfid.sources import ImageBatch, Shard, open_source

MADE = photos(40, 20, 24)


class Told(World):
    """A rank that hears from the others what it says itself, or what ``others`` make of it."""

    def __init__(self, index: int = 0, size: int = 2, others: Any = None) -> None:
        super().__init__(index, size)
        self.others = others or (lambda _what, value: value)
        self.said: list[tuple[str, Any]] = []

    def gather(self, what: str, value: Any) -> list[Any]:
        self.said.append((what, value))
        return [value if rank == self.index else self.others(what, value) for rank in range(self.size)]


def batch(images: np.ndarray, first: int = 0, bad: tuple[BadImageError, ...] = ()) -> ImageBatch:
    return ImageBatch(torch.from_numpy(images), tuple(str(first + i) for i in range(len(images))), bad)


def test_a_checksum_depends_on_every_pixel_and_the_shape() -> None:
    image = MADE[0]
    want = zlib.crc32(image.tobytes(), zlib.crc32(b"(20, 24, 3)"))
    assert of_image(image) == of_image(torch.from_numpy(image)) == want
    assert of_image(image[:, ::-1][:, ::-1]) == want  # whatever the strides
    assert of_image(image.reshape(24, 20, 3)) != want
    for place in ((0, 0, 0), (19, 23, 2), (7, 11, 1)):
        other = image.copy()
        other[place] ^= 1
        assert of_image(other) != want


def test_a_spread_is_up_to_a_kilobyte_of_each_image() -> None:
    large = photos(2, 64, 80)
    assert spread(torch.from_numpy(MADE)).shape == (40, 720)  # 1440 bytes each, every second
    assert np.array_equal(spread(torch.from_numpy(large)).numpy(), large.reshape(2, -1)[:, ::15])
    ragged = RaggedImages.pack([MADE[0], large[0]])
    rows = spread(ragged).numpy()
    assert rows.shape == (2, 1024)
    assert np.array_equal(rows[0, :720], MADE[0].reshape(-1)[::2])
    assert not rows[0, 720:].any()
    assert np.array_equal(rows[1], large[0].reshape(-1)[::15])


@pytest.mark.parametrize(("n", "of", "want"), [(40, 3, 1), (1, 2, 1), (SHARE * 4, 2, 2), (SHARE * 9 + 5, 3, 3)])
def test_a_thousandth_of_each_share_is_read_by_the_next_rank(n: int, of: int, want: int) -> None:
    images = np.arange(n * 3, dtype=np.uint32).astype(np.uint8).reshape(n, 1, 1, 3)
    images[:, 0, 0, 1] = np.arange(n) // 256
    source = open_source(images)
    shares = [source.order(shard=Shard(rank, of)) for rank in range(of)]
    told = []
    for rank in range(of):
        world = Told(rank, of)
        watch = SharedItems(world, source, "gen", (shares[rank], shares[(rank + 1) % of]), 0, False)
        if len(shares[rank]):
            watch.see(batch(images[shares[rank]], int(shares[rank][0])))
        with suppress(ValueError):  # the others say what this rank says
            watch.finish()
        told.append(world.said[0][1])
    for rank in range(of):
        owner = (rank + 1) % of
        assert told[rank][1] == told[owner][0]
        assert len(told[rank][0]) == (want if len(shares[rank]) else 0)
        assert all(int(name) in shares[rank] for name, _ in told[rank][0])
        assert [digest for _, digest in told[rank][0]] == [of_image(images[int(name)]) for name, _ in told[rank][0]]
        world = Told(rank, of)
        world.gather = lambda _what, _value: told  # type: ignore[method-assign]
        SharedItems(
            world, source, "gen", (shares[rank], shares[owner]), 0, False
        ).finish()  # what all have said is right


@pytest.mark.parametrize("start", [0, 7, 20])
def test_what_a_pass_did_not_read_itself_is_read_again(start: int) -> None:
    """Resumed passes, features from a cache, and batches with unreadable images."""
    source = open_source(MADE)
    share = source.order(shard=Shard(0, 2))
    world = Told(0, 2)
    watch = SharedItems(world, source, "gen", (share, share), start, True)
    for begin in range(start, 20, 3):
        watch.see(batch(MADE[begin : min(begin + 3, 20)], begin))
    mine, _ = _said(watch, world)
    whole = SharedItems(Told(0, 2), source, "gen", (share, share), 20, True)
    assert mine == _said(whole, whole.world)[0]  # type: ignore[arg-type]
    broken = SharedItems(Told(0, 2), source, "gen", (share, share), 0, True)
    broken.see(batch(MADE[:19] * 0, 0, (BadImageError("19", "broken"),)))
    assert _said(broken, broken.world)[0] == mine  # type: ignore[arg-type]
    mixed = SharedItems(Told(0, 2), source, "gen", (share, share), 0, True)
    assert share.tolist().index(int(mine[0][0])) < 18  # or else the drawn one is among the last, and proves nothing
    mixed.see(batch(MADE[:1], 0, (BadImageError("1", "broken"),)))
    for begin in range(2, 20, 2):
        mixed.see(batch(MADE[begin : begin + 2], begin))
    assert _said(mixed, mixed.world)[0] == mine  # type: ignore[arg-type]


def _said(watch: SharedItems, world: Told) -> tuple[Any, Any]:
    with suppress(ValueError):
        watch.finish()
    mine, theirs = world.said[-1][1]
    return mine, theirs


def test_what_was_read_is_what_is_compared() -> None:
    """Pixels that came otherwise in the pass than they lie in the set are found by the next rank."""
    source = open_source(MADE)
    share = source.order()
    wrong = SharedItems(Told(0, 2, lambda _what, value: value), source, "gen", (share, share), 0, False)
    wrong.see(batch(MADE ^ np.uint8(1)))
    with pytest.raises(ValueError, match=r"gen: item '\d+', which rank \d read, is another one when rank \d reads it"):
        wrong.finish()


def test_a_stream_is_hashed_however_it_is_cut() -> None:
    def hashes(cuts: list[int], images: np.ndarray = MADE) -> list[Any]:
        world = Told()
        watch = StreamWatch(world, "gen")
        for part in np.split(images, cuts):
            watch(part, "NHWC")
        watch.finish()
        return world.said

    many = np.concatenate([MADE, MADE[::-1], MADE])
    want = hashes([], many)
    assert [what for what, _ in want] == ["first images", "stream"]
    assert [value[0] for _, value in want] == [64, 120]
    for cuts in ([63], [64], [65], [1, 2, 100], list(range(1, 120))):
        assert hashes(cuts, many) == want
    assert [value[0] for _, value in hashes([])] == [40, 40]  # one that ends before
    assert hashes([]) != hashes([], MADE[::-1].copy())
    assert hashes([]) != hashes([], MADE.reshape(40, 24, 20, 3))  # the same bytes in another shape
    low, high = (
        MADE[:2].reshape(4, 10, 24, 3),
        MADE[:2],
    )  # the same bytes and as many images, the low ones first or last
    said = []
    for parts in ((low, high), (high, low)):
        world = Told()
        watch = StreamWatch(world, "gen")
        for part in parts:
            watch(part, "NHWC")
        watch.finish()
        said.append(world.said[-1][1])
    assert said[0][0] == said[1][0] == 6
    assert said[0] != said[1]


def test_a_stream_that_differs_says_how() -> None:
    for theirs, text in (((39, 5), r"\(40 and 39\)"), ((40, 5), r"other ones among the first 40")):
        watch = StreamWatch(Told(others=lambda _what, _value, said=theirs: said), "gen='x'")
        watch(MADE, "NHWC")
        with pytest.raises(ValueError, match=rf"gen='x': rank 0 and rank 1 were given other images.*{text}"):
            watch.finish()


def own(*parts: np.ndarray, others: Any = None) -> tuple[str | None, Any]:
    world = Told(size=3, others=others or (lambda _what, _value: (7, 7, True)))
    watch = OwnItems(world, "gen")
    for part in parts:
        watch.see(batch(part))
    return watch.finish(), world.said[-1][1]


def test_own_images_are_told_apart_in_whatever_order() -> None:
    with pytest.raises(ValueError, match="rank 1 and rank 2 gave the same 7 images"):
        own(MADE)
    alone = iter(range(100))
    distinct = lambda _what, _value: (next(alone), 0, True)  # noqa: E731
    remark, said = own(MADE, others=distinct)
    assert remark == "each of 3 processes gave images of its own: 40, 0, 1"
    assert own(MADE[::-1][:13].copy(), MADE[:27], others=distinct)[1] == said
    assert own(MADE[:39], others=distinct)[1] != said
    assert own(np.concatenate([MADE[:39], MADE[:1]]), others=distinct)[1] != said
    with pytest.raises(ValueError, match="rank 0 and rank 1 gave the same 40 images"):
        own(MADE, others=lambda _what, value: value)
    same = np.repeat(MADE[:1], 9, axis=0)  # a model that has collapsed gives one image on every rank
    assert own(same, others=lambda _what, value: value)[0] == "each of 3 processes gave images of its own: 9, 9, 9"
    assert own(others=lambda _what, value: value)[0] == "each of 3 processes gave images of its own: 0, 0, 0"


def test_ranks_of_an_evaluator_that_took_the_same() -> None:
    one, two = (fastfid.Moments.from_features(np.eye(4)[:n]) for n in (3, 4))
    assert twins(Told(size=3), one) is not None
    assert twins(Told(size=3, others=lambda _what, _value: (4, 1, 2)), two) == (
        "ranks 1 and 2 took 4 images each whose features have the same mean to the last bit: the same images, it seems "
        "(a seed that is equal on all processes?), counted twice"
    )
    seen = iter(range(9))
    assert twins(Told(size=3, others=lambda _what, _value: (4, next(seen), 2)), two) is None
    assert twins(Told(size=3), fastfid.Moments()) is None


def loader(sampler: Any = None, **more: Any) -> Any:
    return DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(MADE)), 8, sampler=sampler, **more)


def sampler(n: int, **more: Any) -> Any:
    return DistributedSampler(range(n), 3, 0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (loader(), None),
        (loader(SequentialSampler(range(40))), None),
        (loader(DistributedSampler(range(40), 1, 0)), None),
        (list(MADE), None),
        (loader(sampler(40)), r"divided among 3 processes already \(DistributedSampler\)"),
        (loader(shuffle=True, generator=torch.Generator().manual_seed(0)), r"shuffles \(RandomSampler\)"),
        (loader(WeightedRandomSampler([1.0] * 40, 40)), r"shuffles \(WeightedRandomSampler\)"),
        (DataLoader(range(40), batch_sampler=BatchSampler(RandomSampler(range(40)), 4, False)), "RandomSampler"),
        (DataLoader(range(40), batch_size=None, sampler=sampler(40)), "divided among 3"),
    ],
)  # fmt: skip
def test_loaders_that_divide_or_shuffle(given: Any, text: str | None) -> None:
    if text is None:
        require_whole("ref", given)
    else:
        with pytest.raises(ValueError, match=f"ref: this DataLoader .*{text}.*distributed='own'"):
            require_whole("ref", given)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (
            loader(sampler(40)),
            "repeats 2 of 40 images, so that all processes have equally many; they are counted twice",
        ),
        (loader(sampler(39)), None),
        (loader(sampler(40, drop_last=True)), r"DistributedSampler(drop_last=True) leaves out 1 of 40 images"),
        (loader(), None),
        (list(MADE), None),
    ],
)
def test_what_a_distributed_sampler_repeats(given: Any, want: str | None) -> None:
    told = repeated_by_sampler(given)
    assert told == want if want is None else told is not None and told.endswith(want)


@pytest.mark.parametrize(
    ("given", "want"),
    [(False, (False, False)), (True, (True, False)), ("shared", (True, False)), ("own", (True, True))],
)
def test_what_distributed_means(given: Any, want: tuple[bool, bool]) -> None:
    assert asked(given) == want


@pytest.mark.parametrize("given", ["each", None, 2, ""])
def test_what_distributed_does_not_mean(given: Any) -> None:
    with pytest.raises(ValueError, match=r"distributed=.*; accepted: False, True or 'shared'.*'own'"):
        fastfid.fid(MADE, MADE, distributed=given)


def test_a_picked_set_reads_only_these_and_leaves_the_set_alone() -> None:
    source = open_source(MADE)
    picked = source.picked(np.array([3, 17, 39]))
    (found,) = picked.batches(8)
    assert found.names == ("3", "17", "39")
    assert np.array_equal(found.images.numpy(), MADE[[3, 17, 39]])  # type: ignore[union-attr]
    assert sum(len(one.names) for one in source.batches(8)) == 40
    assert source.order(limit=9, seed=4).tolist() == sorted(
        np.random.RandomState(4).permutation(40)[:9].tolist()
    )  # as EDM draws it
