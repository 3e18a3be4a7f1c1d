"""Neighbour work against direct float64 sums: equal, ties included; its bound, its memory, and what it refuses."""

from __future__ import annotations

import fractions
import json
import subprocess
import sys

import direct_sums as oracle
import numpy as np
import pytest
import torch

from fastfid.pairwise import balls, direct, nearest, tiles
from fastfid.pairwise.direct import Direct, copy_number, first_equal
from fastfid.pairwise.neighbours import Within, between, nearest_within, squared_radii
from fastfid.pairwise.tiles import Pairs, Sizes

Rng = np.random.Generator
Pair = tuple[torch.Tensor, torch.Tensor]
SMALL = Sizes(tile=48, panel=2**14)


def normal(rng: Rng, n: int, d: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal((n, d)).astype(np.float32))


def copies(rng: Rng, n: int, m: int, d: int) -> Pair:
    """A third of y are rows of x, and some rows of x stand there several times."""
    x, y = normal(rng, n, d), normal(rng, m, d)
    x[n // 2 : n // 2 + 7] = x[0]
    taken = min(n, m // 3)
    y[:taken] = x[:taken]
    return x, y


def mirrored(rng: Rng, n: int, m: int, d: int) -> Pair:
    """Differences ±1 in one column each: nearly all distances tie, between rows that are not equal."""
    x, y = torch.zeros(n, d), torch.zeros(m, d)
    x[torch.arange(n), torch.from_numpy(rng.integers(0, d, n))] = torch.from_numpy(rng.choice([-1.0, 1.0], n)).float()
    y[torch.arange(m), torch.from_numpy(rng.integers(0, d, m))] = torch.from_numpy(rng.choice([-1.0, 1.0], m)).float()
    return x + 0.1, y + 0.1


def clusters(rng: Rng, n: int, m: int, d: int) -> Pair:
    """Three clusters as wide as float32 products' error beside their distance."""
    centre = 100 * normal(rng, 3, d)
    return tuple(centre[torch.arange(k) % 3] + 1e-3 * normal(rng, k, d) for k in (n, m))  # type: ignore[return-value]


def collapsed(rng: Rng, n: int, m: int, d: int) -> Pair:
    """The generator gives one image, but once."""
    x = normal(rng, n, d)
    y = x[3:4].repeat(m, 1)
    y[-1] += 1
    return x, y


def constant(rng: Rng, n: int, m: int, d: int) -> Pair:
    return torch.full((n, d), 0.3), torch.full((m, d), 0.3)


def lost_in_float32(rng: Rng, n: int, m: int, d: int) -> Pair:
    """float64 rows that differ by less than float32 can say, with copies."""
    x, y = copies(rng, n, m, d)
    return x.double() * 1e-10 + 1, y.double() * 1e-10 + 1


def one_far_row(rng: Rng, n: int, m: int, d: int) -> Pair:
    """One row so far away that the others vanish in float32 when it is scaled to 1."""
    x, y = copies(rng, n, m, d)
    x[n // 3] *= 1e25
    return 1e-10 * x, 1e-10 * y


KINDS = {
    "plain": lambda *a: (normal(a[0], a[1], a[3]), normal(a[0], a[2], a[3])),
    "copies": copies,
    "means of 1e4": lambda *a: tuple(side + 1e4 for side in copies(*a)),
    "of 1e-30": lambda *a: tuple(side * 1e-30 for side in copies(*a)),
    "of 1e30": lambda *a: tuple(side * 1e30 for side in copies(*a)),
    "float64 of 1e120": lambda *a: tuple(side.double() * 1e120 for side in copies(*a)),
    "whole numbers": lambda *a: tuple(side.round() for side in copies(*a)),
    "float16": lambda *a: tuple(side.half() for side in copies(*a)),
    "bfloat16": lambda *a: tuple(side.bfloat16() for side in copies(*a)),
    "mixed dtypes": lambda *a: (copies(*a)[0].half(), copies(*a)[1].double()),
    "mirrored": mirrored,
    "clusters": clusters,
    "collapsed": collapsed,
    "constant": constant,
    "lost in float32": lost_in_float32,
    "one far row": one_far_row,
}


def check_within(x: torch.Tensor, k: int, sizes: Sizes | None) -> torch.Tensor:
    values, which = oracle.nearest(oracle.among_others(oracle.squared(x, x)), k)
    got = squared_radii(x, k, sizes=sizes)
    np.testing.assert_array_equal(got.numpy(), values[:, -1])
    near = nearest_within(x, k, sizes=sizes)
    np.testing.assert_array_equal(near.squared.numpy(), values)
    np.testing.assert_array_equal(near.which.numpy(), which)
    return got


def check_ball(got: Within | None, flags: np.ndarray) -> None:
    assert got is not None
    np.testing.assert_array_equal(got.of_x.numpy(), flags.sum(1))
    np.testing.assert_array_equal(got.of_y.numpy(), flags.sum(0))


def check_between(x: torch.Tensor, y: torch.Tensor, rx: torch.Tensor, ry: torch.Tensor, sizes: Sizes | None) -> None:
    d = oracle.squared(x, y)
    most = min(2, len(x), len(y))
    for strict, compare in ((True, np.less), (False, np.less_equal)):
        got = between(x, y, x_squared=rx, y_squared=ry, strict=strict, x_nearest=most, y_nearest=most, sizes=sizes)
        check_ball(got.in_x, compare(d, rx.numpy()[:, None]))
        check_ball(got.in_y, compare(d, ry.numpy()[None, :]))
        for found, distances in ((got.x_nearest, d), (got.y_nearest, d.T)):
            assert found is not None
            values, which = oracle.nearest(distances, most)
            np.testing.assert_array_equal(found.squared.numpy(), values)
            np.testing.assert_array_equal(found.which.numpy(), which)


@pytest.mark.parametrize("sizes", [None, SMALL], ids=["one tile", "many tiles"])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_equals_the_direct_sums(kind: str, sizes: Sizes | None, rng: Rng) -> None:
    for n, m, d, k in ((151, 113, 40, 5), (40, 101, 2, 3)):
        x, y = KINDS[kind](rng, n, m, d)
        check_between(x, y, check_within(x, k, sizes), check_within(y, k, sizes), sizes)


@pytest.mark.parametrize(("n", "m", "d", "k"), [(2, 2, 1, 1), (6, 1500, 33, 5), (300, 7, 4096, 6), (90, 80, 2048, 60)])
def test_shapes(n: int, m: int, d: int, k: int, rng: Rng) -> None:
    x, y = copies(rng, n, m, d)
    check_between(x, y, check_within(x, k, None), check_within(y, k, None), None)


def test_copied_rows_at_two_thousand_columns(rng: Rng) -> None:
    """Where float32 libraries go wrong: copies among y tie exactly with radii of x, and a product is off by 1e-2."""
    x = normal(rng, 300, 2048) + 0.4
    y = normal(rng, 250, 2048) + 0.4
    y[:100] = x[200:300]
    rx, ry = (torch.from_numpy(oracle.radii(side, 5)) for side in (x, y))
    check_between(x, y, rx, ry, Sizes(100, 2**21))
    product = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
    wrong = (product < rx.float()[:, None]) != (torch.from_numpy(oracle.squared(x, y)) < rx[:, None])
    assert bool(wrong.any()), "float32 would have done: the test asks nothing"


def test_weights(rng: Rng) -> None:
    for x, y in (copies(rng, 130, 70, 24), clusters(rng, 130, 70, 24)):
        for spread in (1.0, 60.0):
            weights = torch.exp2(torch.from_numpy(rng.uniform(-spread, spread, len(x))))
            for sizes in (None, SMALL):
                got = between(x, y, y_nearest=1, x_weights=weights, sizes=sizes).y_nearest
                assert got is not None
                values, which = oracle.nearest((oracle.squared(x, y) * weights.numpy()[:, None]).T, 1)
                np.testing.assert_array_equal(got.squared.numpy(), values)
                np.testing.assert_array_equal(got.which.numpy(), which)


def test_radii_of_zero_infinity_and_exactly_a_distance(rng: Rng) -> None:
    x, y = copies(rng, 60, 50, 10)
    d = oracle.squared(x, y)
    rx = torch.from_numpy(d[:, 7].copy())
    rx[:5], rx[5:10] = 0.0, torch.inf
    ry = torch.from_numpy(np.nextafter(d[11], np.inf))
    check_between(x, y, rx, ry, SMALL)


@pytest.mark.parametrize("kind", ["copies", "mirrored", "clusters", "collapsed", "constant", "lost in float32"])
def test_the_ways_out_of_a_crowd(kind: str, rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles multiplied again, candidates decided on the way, equal rows summed once: each at the least excuse."""
    x, y = KINDS[kind](rng, 101, 70, 24)
    for names in ({"_MANY": 1}, {"_HELD": -(10**6)}, {"_CROWDED": -1.0}, {"_MANY": 1, "LISTED": 40}):
        with monkeypatch.context() as patch:
            for module in (direct, nearest, balls, tiles):
                for name in names.keys() & vars(module).keys():
                    patch.setattr(module, name, names[name])
            check_between(x, y, check_within(x, 4, SMALL), check_within(y, 4, SMALL), SMALL)


def test_a_collapsed_generator_needs_few_sums(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of ties among copies are settled by a few sums, not one each."""
    summed = []
    sums = direct._sums
    monkeypatch.setattr(direct, "_sums", lambda *a: (summed.append(len(a[2])), sums(*a))[1])
    x, y = normal(rng, 1500, 64), normal(rng, 1, 64).repeat(1500, 1)
    rx, ry = squared_radii(x, 5), squared_radii(y, 5)
    assert torch.count_nonzero(ry) == 0
    got = between(x, y, x_squared=rx, y_squared=ry, strict=False, x_nearest=1)
    check_ball(got.in_x, oracle.squared(x, y[:1]).repeat(1500, 1) <= rx.numpy()[:, None])
    assert sum(summed) < 20 * 1500


# ── The direct sum ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("d", [1, 2, 3, 31, 32, 1000])
def test_direct_sums_depend_on_their_rows_alone(d: int, rng: Rng) -> None:
    x, y = normal(rng, 70, d).double(), normal(rng, 50, d).double()
    rows, columns = (torch.from_numpy(a.ravel()) for a in np.meshgrid(np.arange(70), np.arange(50), indexing="ij"))
    want = torch.from_numpy(oracle.squared(x, y).ravel())
    assert torch.equal(Direct(x, y)(rows, columns), want)
    assert torch.equal(Direct(y, x)(columns, rows), want)
    at = 1234
    assert torch.equal(Direct(x, y)(rows[at : at + 1], columns[at : at + 1]), want[at : at + 1])
    wide = torch.zeros(70, 3 * d, dtype=torch.float64)[:, ::3]
    wide.copy_(x)
    assert torch.equal(Direct(wide, y)(rows, columns), want)


def test_direct_sums_are_as_accurate_as_they_say(rng: Rng) -> None:
    x, y = normal(rng, 20, 777).double() + 3, normal(rng, 20, 777).double()
    got = Direct(x, y)(torch.arange(20), torch.arange(20))
    for row, other, value in zip(x.tolist(), y.tolist(), got.tolist(), strict=True):
        exact = sum((fractions.Fraction(a) - fractions.Fraction(b)) ** 2 for a, b in zip(row, other, strict=True))
        assert abs(fractions.Fraction(value) - exact) <= 13 * exact / 2**53


def test_equal_rows_are_found_and_colliding_keys_told_apart(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(rng, 40, 6)
    x[30:] = x[5]
    x[7] = x[2]
    x[8], x[9] = 0.0, -0.0
    want = torch.arange(40)
    want[30:], want[7], want[9] = 5, 2, 8
    assert torch.equal(first_equal(x), want)
    assert copy_number(x)[[5, 7, 9, 30, 39]].tolist() == [0, 1, 1, 1, 10]
    monkeypatch.setattr(direct, "_fold", lambda terms: torch.zeros(len(terms), dtype=torch.float64))
    assert torch.equal(first_equal(x), torch.arange(40))  # all keys collide: nothing is equal to row 0


# ── The bound ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one far row"])
def test_bound(kind: str, wide: bool, rng: Rng) -> None:
    """Every interval holds the scaled distance, and is no wider than γ and η say."""
    for d in (3, 500):
        x, y = KINDS[kind](rng, 60, 50, d)
        for pairs in (Pairs(x, y), Pairs(x)):
            want = oracle.squared(pairs.x, pairs.y) * pairs.frame.square
            for tile in pairs.tiles(wide=wide, sizes=SMALL):
                i, j = (
                    at.ravel()
                    for at in torch.meshgrid(torch.arange(len(tile.x)), torch.arange(len(tile.y)), indexing="ij")
                )
                given = ~torch.isinf(tile.lower[i, j])
                i, j = i[given], j[given]
                low, high = tile.interval(i, j)
                true = torch.from_numpy(want)[i + tile.x.start, j + tile.y.start]
                assert bool((low <= true).all())
                assert bool((true <= high).all())
                small = (d + 128) * torch.finfo(tile.lower.dtype).eps / 2
                most = 2.1 * small * (tile.x.squares[i] + tile.y.squares[j]) + 1e-30
                assert bool((high - low <= most).all())


def test_bound_where_every_product_rounds_the_same_way() -> None:
    """Entries 1 + 2⁻¹² square to what float32 rounds down, and every partial sum is odd: errors add up in one sense."""
    d = 4096
    x = torch.full((3, d), 1.0 + 2.0**-12)
    y = -x
    x[0], y[0] = 0.0, 0.0
    pairs = Pairs(x, y)
    (tile,) = pairs.tiles()
    i, j = torch.tensor([1, 2, 0, 1]), torch.tensor([1, 0, 0, 2])
    low, high = tile.interval(i, j)
    true = pairs.direct(i, j) * pairs.frame.square
    assert bool((low <= true).all())
    assert bool((true <= high).all())


def test_every_pair_is_in_one_tile(rng: Rng) -> None:
    x, y = normal(rng, 211, 5), normal(rng, 97, 5)
    for pairs in (Pairs(x, y), Pairs(x)):
        seen = torch.zeros(len(pairs.x), len(pairs.y), dtype=torch.int64)
        for tile in pairs.tiles(sizes=Sizes(16, 16 * 5 * 4 * 3)):
            seen[tile.x.span, tile.y.span] += ~torch.isinf(tile.lower)
        if pairs.within:
            seen = seen + seen.T + torch.eye(len(x), dtype=torch.int64)
        assert bool((seen == 1).all())


# ── What must not matter ──────────────────────────────────────────────────────────────────────────────────────────────


def test_settings_of_the_process_do_not_matter(rng: Rng) -> None:
    x, y = copies(rng, 150, 130, 300)
    x.requires_grad_()
    radii = squared_radii(x, 3)
    want = between(x, y, x_squared=radii, x_nearest=1)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(squared_radii(x, 3), radii)
        got = between(x, y, x_squared=radii, x_nearest=1)
    assert want.in_x is not None
    assert got.in_x is not None
    assert torch.equal(got.in_x.of_x, want.in_x.of_x)
    assert not want.in_x.of_x.requires_grad
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert Pairs(x).frame.dtype == torch.float64
        assert torch.equal(squared_radii(x, 3), radii)
    finally:
        torch.set_float32_matmul_precision(before)


def test_layout_does_not_matter(rng: Rng) -> None:
    x = normal(rng, 90, 70)
    want = squared_radii(x, 4)
    assert torch.equal(squared_radii(x.T.contiguous().T, 4), want)
    assert torch.equal(squared_radii(torch.stack([x, x], 2)[:, :, 1], 4), want)


def test_a_row_far_away_leaves_the_others_apart(rng: Rng) -> None:
    x, _ = one_far_row(rng, 40, 9, 12)
    tile = next(Pairs(x).tiles())
    assert bool((tile.lower[tile.lower < 1] <= 0).all()), "float32 told them apart: the test asks nothing"
    check_within(x, 3, None)


@pytest.mark.parametrize("k", [0, 5, 6])
def test_more_neighbours_than_there_are_are_refused(k: int, rng: Rng) -> None:
    with pytest.raises(ValueError, match=f"k: {k} of 5 rows; accepted: at least 1 and below"):
        squared_radii(normal(rng, 5, 3), k)
    with pytest.raises(ValueError, match="y_nearest: 6 of 5 rows"):
        between(normal(rng, 5, 3), normal(rng, 9, 3), y_nearest=6)


def test_distances_beyond_float64_are_refused(rng: Rng) -> None:
    x = normal(rng, 5, 3).double() * 1e160
    with pytest.raises(ValueError, match=r"lie .*e\+160 from their mean; accepted: up to 3\.27e\+150"):
        squared_radii(x, 2)


# ── Memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────

MEASURE = """
import json, torch
from pathlib import Path
from fastfid.pairwise.neighbours import between, squared_radii
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
def work(x, y):
    rx, ry = squared_radii(x, 5), squared_radii(y, 5)
    return between(x, y, x_squared=rx, y_squared=ry, x_nearest=1, y_nearest=1)
generator = torch.Generator().manual_seed(1)
x, y = (torch.randn(n, 8, generator=generator) for n in (9000, 8000))
y[:3000] = y[0]
work(x[:1200], y[3000:4200])
before = peak()
work(x, y)
print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_memory_is_that_of_tiles() -> None:
    """Three matrices of distances would take 870 MB in float32; and y has one row 3,000 times."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 200 * 2**20


def test_what_fifty_thousand_rows_take() -> None:
    """Tiles and panels of 50,000² × 2048 by their sizes: far below 2 GB, a centred copy of the features is not made."""
    size = tiles.SIZES["cpu"]
    d, n = 2048, 50_000
    panels = 2 * max(size.panel, 2 * size.tile * d * 4)
    sharper = 2 * size.tile * d * 8 + size.tile**2 * 8
    held = 32 * (nearest._HELD + 4 * 5 * n) + 100 * tiles.LISTED
    assert panels + 4 * size.tile**2 + sharper + 3 * held < 2**30
