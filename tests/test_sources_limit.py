"""``limit`` with ``skip_bad``: what can't be read is replaced in the drawn order, and n is never silently less."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import photo, png

import fastfid
from fastfid.errors import BadImageError, BadImageWarning
from fastfid.sources import Shard, open_source

N = 40


def names_of(numbers: list[int]) -> list[str]:
    return [f"{number:02}.png" for number in numbers]


def make(folder: Path, bad: set[int], kind: str) -> Path:
    content = {name: b"none" if i in bad else png(photo(i, 6, 6)) for i, name in enumerate(names_of(list(range(N))))}
    if kind == "zip":
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return folder / "set.zip"
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def expected(bad: set[int], limit: int, seed: int) -> tuple[list[int], list[int]]:
    """(read in order, unreadable in order): a draw that goes through the shuffled order until it has enough."""
    order = np.arange(N)
    np.random.RandomState(seed).shuffle(order)
    drawn, rest = sorted(order[:limit].tolist()), order[limit:].tolist()
    good, missed = [i for i in drawn if i not in bad], [i for i in drawn if i in bad]
    for i in rest:
        if len(good) < limit:
            (missed if i in bad else good).append(i)
    return good, missed


def read(path: Path, size: int, **options: Any) -> tuple[list[str], list[str]]:
    batches = list(open_source(path).batches(size, skip_bad=True, **options))
    return [name for batch in batches for name in batch.names], [one.name for batch in batches for one in batch.bad]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_draw_goes_on_until_it_has_enough(tmp_path: Path, seed: int, kind: str) -> None:
    draw = np.random.default_rng(seed)
    bad = set(draw.choice(N, draw.integers(0, 25), replace=False).tolist())
    path = make(tmp_path, bad, kind)
    for limit in (1, 7, 20, 39, 40):
        good, missed = expected(bad, limit, seed)
        for size in (1, 4, 64):
            assert read(path, size, limit=limit, seed=seed) == (names_of(good), names_of(missed))
    if seed < 2:
        assert read(path, 8, limit=9, seed=seed, num_workers=1) == tuple(map(names_of, expected(bad, 9, seed)))


@pytest.mark.parametrize("start", [1, 5, 12, 13, 17])
def test_going_on_within_the_draw_and_beyond_it(tmp_path: Path, start: int) -> None:
    """A pass that stopped after ``start`` images of the set, some of them unreadable, reads what is left."""
    bad = set(range(0, N, 3))
    path = make(tmp_path, bad, "folder")
    whole: list[tuple[str, bool]] = []
    for batch in open_source(path).batches(1, limit=12, seed=4, skip_bad=True):
        whole += [(name, True) for name in batch.names] + [(one.name, False) for one in batch.bad]
    good, missed = expected(bad, 12, 4)
    assert len(whole) == 12 + len(missed) > 12
    assert [name for name, ok in whole if ok] == names_of(good)
    before, after = whole[:start], whole[start:]
    got = read(path, 4, limit=12, seed=4, start=start, missed=sum(not ok for _, ok in before))
    assert got == ([name for name, ok in after if ok], [name for name, ok in after if not ok])


@pytest.mark.parametrize("of", [2, 3, 5])
def test_shards_together_reach_the_limit_and_share_nothing(tmp_path: Path, of: int) -> None:
    path = make(tmp_path, set(range(0, N, 4)), "folder")
    parts = [read(path, 4, limit=14, seed=1, shard=Shard(index, of)) for index in range(of)]
    good = [name for names, _ in parts for name in names]
    assert len(good) == len(set(good)) == 14
    assert not set(good) & {name for _, missed in parts for name in missed}


def test_without_skip_bad_the_first_stops_it_and_without_a_limit_nothing_is_replaced(tmp_path: Path) -> None:
    bad = expected(set(), 5, 0)[0][2]
    path = make(tmp_path, {bad}, "folder")
    with pytest.raises(BadImageError):
        list(open_source(path).batches(4, limit=5))
    assert read(path, 4) == (names_of([i for i in range(N) if i != bad]), names_of([bad]))


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


MEANS = Means()


def test_n_is_the_limit_or_the_warning_says_why_not(tmp_path: Path) -> None:
    bad = {1, 2, 3, 5, 8, 13, 21, 34}
    path = make(tmp_path, bad, "folder")
    settings: dict[str, Any] = {"extractor": MEANS, "device": "cpu", "skip_bad": True, "batch_size": 8}
    good, missed = expected(bad, 20, 0)
    with pytest.warns(BadImageWarning, match=f"left out {len(missed)} .*; others were drawn .* so that n is 20"):
        moments = fastfid.stats(path, limit=20, **settings)
    want = fastfid.stats(np.stack([photo(i, 6, 6) for i in good]), extractor=MEANS, device="cpu")
    assert moments.n == 20
    assert moments.metadata["skipped"] == names_of(missed)
    np.testing.assert_allclose(moments.mean, want.mean, rtol=1e-12)
    with pytest.warns(BadImageWarning, match="limit=35, but n=32: there were not enough others"):
        few = fastfid.stats(path, limit=35, **settings)
    assert few.n == N - len(bad) == 32
    with pytest.warns(BadImageWarning, match="left out 8 unreadable images: .*, 08.png and 3 more$"):
        assert fastfid.stats(path, **settings).n == 32
    with pytest.warns(BadImageWarning, match="so that n is 10"):
        part, other = (fastfid.stats(path, limit=20, shard=(i, 2), **settings) for i in range(2))
    part.merge(other)
    assert part.n == 20
