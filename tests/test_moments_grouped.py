"""GroupedMoments: every group against two passes, empty and uneven groups, merging, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances as tol
import torch

import fastfid
from fastfid.reference.moments import two_pass

Rng = np.random.Generator

COUNTS = (1, 0, 400, 37, 2, 0)


def grouped(rng: Rng, d: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Rows of six groups of very different means, in random order."""
    group = rng.permutation(np.repeat(np.arange(6), COUNTS))
    x = rng.standard_normal((len(group), d)) * np.logspace(0, -2, d) + 100.0 * group[:, None]
    x[:, 3] = 0.1 * group
    return x, group


def check_groups(got: fastfid.GroupedMoments, x: np.ndarray, group: np.ndarray) -> None:
    assert got.n.tolist() == [int((group == g).sum()) for g in range(got.groups)]
    for g in range(got.groups):
        rows, one = x[group == g], got.moments(g)
        assert one.n == len(rows)
        if len(rows):
            _, mean, scatter = two_pass(rows)
            tol.check(one.mean, mean, relative=tol.MOMENTS_FROBENIUS)
            tol.check_frobenius(one.scatter, scatter, relative=tol.MOMENTS_FROBENIUS, what=f"group {g}")
            assert torch.count_nonzero(one.scatter[3]) == 0


@pytest.mark.parametrize("batches", [1, 3, 40])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_against_two_passes(rng: Rng, batches: int, dtype: type) -> None:
    x, group = grouped(rng)
    moments = fastfid.GroupedMoments(6)
    for part, ids in zip(np.array_split(x, batches), np.array_split(group.astype(dtype), batches), strict=True):
        moments.update(part, ids)
    moments.update(x[:0], group[:0])
    check_groups(moments, x, group)
    assert moments.dim == 9
    assert "n=440" in repr(moments)


def test_float32_tensors_and_what_is_returned_is_a_copy(rng: Rng) -> None:
    x, group = grouped(rng)
    single = torch.from_numpy(x).float()
    moments = fastfid.GroupedMoments(6, 9, device="cpu")
    moments.update(single, torch.from_numpy(group))
    check_groups(moments, single.double().numpy(), group)
    moments.moments(2).update(single)
    moments.n.zero_()
    check_groups(moments, single.double().numpy(), group)
    empty = moments.moments(1)
    assert (empty.n, empty.dim, empty.rows) == (0, 9, None)


def test_one_group_is_moments(rng: Rng) -> None:
    x = rng.standard_normal((50, 7))
    moments = fastfid.GroupedMoments(1)
    moments.update(x, np.zeros(50, dtype=np.int64))
    plain = fastfid.Moments(keep_rows=False)
    plain.update(x)
    assert torch.equal(moments.moments(0).scatter, plain.scatter)
    assert fastfid.frechet_moments(moments.moments(0), plain).value < 1e-10


@pytest.mark.parametrize("cut", [0, 1, 200, 440])
def test_merge(rng: Rng, cut: int) -> None:
    x, group = grouped(rng)
    a, b = fastfid.GroupedMoments(6), fastfid.GroupedMoments(6)
    a.update(x[:cut], group[:cut])
    b.update(x[cut:], group[cut:])
    before = (b.n, b.moments(2).scatter if cut < 440 else None)
    a.merge(b)
    check_groups(a, x, group)
    assert torch.equal(b.n, before[0])
    if cut < 440:
        assert torch.equal(b.moments(2).scatter, before[1])
    a.merge(fastfid.GroupedMoments(6))
    check_groups(a, x, group)


@pytest.mark.parametrize(
    ("features", "group", "error", "message"),
    [
        (np.zeros((2, 5)), np.array([0, 1]), ValueError, "5 features; these GroupedMoments have 4"),
        (np.zeros((2, 4)), np.array([0]), ValueError, r"group: shape \[1\]; accepted: \[2\]"),
        (np.zeros((2, 4)), np.array([[0], [1]]), ValueError, r"group: shape \[2, 1\]"),
        (np.zeros((3, 4)), np.array([0, 9, -1]), ValueError, r"group: -1, 9 \(first at row 1\); accepted: 0 to 2"),
        (np.zeros((2, 4)), np.array([0.0, 1.0]), TypeError, "group: float64"),
        (np.zeros((2, 4)), torch.tensor([True, False]), TypeError, "group: torch.bool"),
        (np.zeros((2, 4)), [0, 1], TypeError, "group: list"),
        (np.array([[0.0] * 4, [np.nan] * 4]), np.array([0, 1]), ValueError, "row 1 of this batch"),
        (np.zeros((2, 4), dtype=np.int64), np.array([0, 1]), TypeError, "features: int64"),
    ],
    ids=["d", "short", "2-d", "range", "float ids", "bool ids", "list", "nan", "int features"],
)
def test_refusals_change_nothing(features, group, error, message: str) -> None:  # type: ignore[no-untyped-def]
    moments = fastfid.GroupedMoments(3)
    moments.update(np.ones((1, 4)), np.array([2]))
    with pytest.raises(error, match=message):
        moments.update(features, group)
    assert moments.n.tolist() == [0, 0, 1]


def test_other_refusals() -> None:
    moments = fastfid.GroupedMoments(3, 4)
    with pytest.raises(ValueError, match="groups must be at least 1"):
        fastfid.GroupedMoments(0)
    with pytest.raises(ValueError, match="dim must be at least 1"):
        fastfid.GroupedMoments(1, 0)
    with pytest.raises(IndexError, match="group: 3; accepted: 0 to 2"):
        moments.moments(3)
    with pytest.raises(TypeError, match="other: Moments"):
        moments.merge(fastfid.Moments())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="other: 2 groups"):
        moments.merge(fastfid.GroupedMoments(2))
    other = fastfid.GroupedMoments(3)
    other.update(np.ones((1, 5)), np.array([0]))
    with pytest.raises(ValueError, match="other: 5 features"):
        moments.merge(other)


@pytest.mark.parametrize("bad", [0, -1, 2**31, 2**62, 2**64, 10**30, 2.0, "3", None, True, [3], float("nan")], ids=repr)
def test_numbers_of_groups_and_features_are_named(bad: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^groups must be"):
        fastfid.GroupedMoments(bad)
    if bad is not None:
        with pytest.raises((ValueError, TypeError), match=r"^dim must be"):
            fastfid.GroupedMoments(3, bad)
        with pytest.raises((ValueError, TypeError), match=r"^dim must be"):
            fastfid.Moments(bad)
