"""The scatter update behind Moments: accuracy in the Frobenius norm, deferred checks, states that keep every bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tolerances as tol
import torch

import fastfid
from fastfid.moments import engine_torch
from fastfid.moments.update import mirrored
from fastfid.reference.moments import two_pass

Rng = np.random.Generator


def hard(rng: Rng, n: int, d: int, kind: str) -> np.ndarray:
    x = rng.standard_normal((n, d)) * np.logspace(0, -3, d)
    if kind == "far":
        x += 1000.0
    elif kind == "constant":
        x[:, ::2] = 0.1  # not a number of float64's: means of it that are summed naively are off
    elif kind == "sorted":
        x = x[np.argsort(x[:, 0])] + np.linspace(0.0, 50.0, n)[:, None]
    elif kind == "outlier first":
        x[0] = 1e6
    return x


def exact(x: np.ndarray) -> np.ndarray:
    """The scatter in long double, two passes."""
    wide = x.astype(np.longdouble)
    centred = wide - wide.mean(axis=0)
    return (centred.T @ centred).astype(np.float64)


@pytest.mark.parametrize("kind", ["near", "far", "constant", "sorted", "outlier first"])
@pytest.mark.parametrize("sizes", [[], [1], [64] * 40, [700, 0, 1, 1299]], ids=["one", "single first", "64", "odd"])
def test_accuracy(rng: Rng, kind: str, sizes: list[int]) -> None:
    x = hard(rng, 2600, 33, kind)
    moments = fastfid.Moments()
    for start, end in itertools.pairwise([0, *np.cumsum(sizes, dtype=int).tolist(), len(x)]):
        moments.update(x[start:end])
    tol.check_frobenius(moments.scatter, exact(x), relative=tol.MOMENTS_FROBENIUS, what=kind)
    if kind == "constant":
        assert torch.count_nonzero(moments.scatter[::2]) == 0


@pytest.mark.parametrize("block", [400, engine_torch._LONG - 1, 3000])
@pytest.mark.parametrize("d", [511, 512, 515])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_blocks(rng: Rng, d: int, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to the product: by block rows of the triangle, and by syrk where blocks are long."""
    monkeypatch.setattr(engine_torch, "BLOCK_ROWS", block)
    x = torch.from_numpy(rng.standard_normal((2400, d)) + 3).to(dtype)[::2]  # a row stride of 2 d
    mean, scatter = torch.zeros(1, d, dtype=torch.float64), torch.zeros(1, d, d, dtype=torch.float64)
    engine_torch.accumulate(x, 0, mean, scatter, None)
    n, want_mean, want = two_pass(x.double().numpy())
    assert n == 1200
    tol.check(mean[0], want_mean, relative=tol.MOMENTS_FROBENIUS)
    tol.check_frobenius(mirrored(scatter[0]), want, relative=tol.MOMENTS_FROBENIUS)


@pytest.mark.parametrize("n", [40, 4000])
def test_order_of_merging(rng: Rng, n: int) -> None:
    parts = [hard(rng, n + 17 * k, 12, "sorted") + k for k in range(6)]
    made = []
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]):
        total = fastfid.Moments()
        for index in order:
            total.merge(fastfid.Moments.from_features(parts[index]))
        made.append(total.scatter)
    bound = tol.MERGE_ORDER * sum(map(len, parts))
    for other in made[1:]:
        tol.check_frobenius(other, made[0], relative=bound)


def test_statistics_that_were_given_are_not_written_to(rng: Rng) -> None:
    mu, sigma = torch.from_numpy(rng.standard_normal(5)), torch.eye(5, dtype=torch.float64)
    before = mu.clone()
    moments = fastfid.Moments.from_statistics(mu, sigma, 10)
    first = moments.mean
    moments.update(rng.standard_normal((20, 5)))
    assert torch.equal(mu, before)
    assert torch.equal(sigma, torch.eye(5, dtype=torch.float64))
    assert torch.equal(first, before)


@pytest.mark.parametrize("sizes", [[3, 2], [3, 40], [50, 1, 50]], ids=str)
def test_deferred_gives_the_same_bits(rng: Rng, sizes: list[int]) -> None:
    at_once, later = fastfid.Moments(), fastfid.Moments()
    for size in sizes:
        batch = hard(rng, size, 8, "far")
        at_once.update(batch)
        later.update(batch, deferred=True)
    later.check()
    assert later.n == at_once.n
    assert torch.equal(later.mean, at_once.mean)
    assert torch.equal(later.scatter, at_once.scatter)


@pytest.mark.parametrize("n", [4, 40])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("access", ["mean", "scatter", "rows", "cov", "save", "merge", "merged", "state", "check"])
def test_deferred_names_the_first_bad_sample(rng: Rng, tmp_path, n: int, value: float, access: str) -> None:  # type: ignore[no-untyped-def]
    moments = fastfid.Moments()
    moments.update(rng.standard_normal((n, 8)), deferred=True)
    bad = rng.standard_normal((3, 8))
    bad[1, 5] = bad[2, 0] = value
    moments.update(bad, deferred=True)
    bad[0, 0] = value
    moments.update(bad, deferred=True)
    assert moments.n == n + 6
    reach = {
        "save": lambda: moments.save(tmp_path / "a.npz"),
        "merge": lambda: moments.merge(fastfid.Moments(8)),
        "merged": lambda: fastfid.Moments.from_features(rng.standard_normal((2, 8))).merge(moments),
        "cov": moments.cov,
        "state": moments.state,
        "check": moments.check,
    }.get(access, lambda: getattr(moments, access))
    for _ in range(2):  # it stays refused
        with pytest.raises(ValueError, match=rf"sample {n + 1} has NaN or infinity"):
            reach()


def test_deferred_still_checks_what_needs_no_values(rng: Rng) -> None:
    moments = fastfid.Moments(8)
    with pytest.raises(ValueError, match="7 features"):
        moments.update(rng.standard_normal((3, 7)), deferred=True)
    with pytest.raises(TypeError, match="int64"):
        moments.update(torch.zeros(3, 8, dtype=torch.int64), deferred=True)
    moments.update(np.empty((0, 8)), deferred=True)
    moments.check()
    assert moments.n == 0


def test_deferred_reads_no_value_on_the_host(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each of these would wait; the gpu test asks CUDA itself."""
    batches = [torch.from_numpy(hard(rng, size, 16, "near")).float() for size in (3, 40, 0, 7)]
    moments = fastfid.Moments()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a value was read on the host")

    reading = ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "nonzero", "cpu", "numpy")
    with monkeypatch.context() as patched:
        for name in reading:
            patched.setattr(torch.Tensor, name, refuse)
        for batch in batches:
            moments.update(batch, deferred=True)
    tol.check_frobenius(moments.scatter, exact(torch.cat(batches).double().numpy()), relative=tol.MOMENTS_FROBENIUS)


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("keep_rows", [True, False])
def test_state_continues_bit_for_bit(rng: Rng, stop: int, keep_rows: bool) -> None:
    batches = [hard(rng, size, 16, "sorted") for size in (5, 7, 9, 300)]
    straight = fastfid.Moments(16, keep_rows=keep_rows, metadata={"source": ["a"]})
    stopped = fastfid.Moments(16, keep_rows=keep_rows, metadata={"source": ["a"]})
    for index, batch in enumerate([*batches, np.empty((0, 16))]):
        if index == stop:
            _ = stopped.mean if stopped.n else None  # looking changes nothing
            state = stopped.state()
            stopped = fastfid.Moments.from_state(state)
            for tensor in state.values():
                if isinstance(tensor, torch.Tensor):
                    tensor.fill_(torch.nan)
        straight.update(batch)
        stopped.update(batch)
    assert stopped.n == straight.n == 321
    assert stopped.metadata == straight.metadata
    assert stopped.from_samples
    assert torch.equal(stopped.mean, straight.mean)
    assert torch.equal(stopped.scatter, straight.scatter)


@pytest.mark.parametrize("n", [None, 30])
def test_state_of_statistics(rng: Rng, n: int | None) -> None:
    given = fastfid.Moments.from_statistics(rng.standard_normal(4), np.diag([1.0, 2.0, 3.0, 4.0]), n)
    found = fastfid.Moments.from_state(given.state(), device="cpu")
    assert (found.n, found.dim, found.from_samples) == (n, 4, False)
    assert torch.equal(found.mean, given.mean)
    assert torch.equal(found.cov(), given.cov())
    assert not isinstance(given.state()["mean"], type(None))


def test_state_of_nothing_and_of_nonsense(rng: Rng) -> None:
    empty = fastfid.Moments.from_state(fastfid.Moments().state())
    assert (empty.n, empty.dim) == (0, None)
    empty.update(rng.standard_normal((30, 4)))
    state = empty.state()
    with pytest.raises(ValueError, match="without mean, seen"):
        fastfid.Moments.from_state({key: state[key] for key in state if key not in ("mean", "seen")})
    with pytest.raises(ValueError, match=r"mean is torch.float64 \[3\]; accepted: torch.float64 \[4\]"):
        fastfid.Moments.from_state({**state, "mean": state["mean"][:3]})
    with pytest.raises(ValueError, match=r"scatter is torch.float32 \[4, 4\]"):
        fastfid.Moments.from_state({**state, "scatter": state["scatter"].float()})


FOREIGN = ("text", 2.5, -1, [1], (), {}, object(), np.zeros((2, 2, 2)), torch.zeros(3), torch.zeros(2, 2).to_sparse())


@pytest.mark.parametrize("n", [0, 3, 30, None])
@pytest.mark.parametrize("key", ["n", "dim", "mean", "scatter", "rows", "cov", "seen", "keep_rows", "metadata"])
def test_foreign_values_in_a_state_are_named(key: str, n: int | None, rng: Rng) -> None:
    if n is None:
        given = fastfid.Moments.from_statistics(np.zeros(4), np.eye(4))
    else:
        given = fastfid.Moments(4)
        given.update(rng.standard_normal((n, 4)))
    assert fastfid.Moments.from_state(given.state()).n == n
    for value in FOREIGN:
        if not (key == "metadata" and isinstance(value, dict)):
            with pytest.raises((ValueError, TypeError), match=rf"state: .*\b{key}\b.*"):
                fastfid.Moments.from_state({**given.state(), key: value})


def test_a_state_that_says_two_things(rng: Rng) -> None:
    """Tensors that are not those of n and keep_rows: none is let go or left out without a word."""
    few, many, known = fastfid.Moments(), fastfid.Moments(), fastfid.Moments.from_statistics(np.zeros(4), np.eye(4))
    few.update(rng.standard_normal((3, 4)))
    many.update(rng.standard_normal((30, 4)))
    states = (
        {**few.state(), "keep_rows": False},
        {**few.state(), "rows": None},
        {**many.state(), "keep_rows": True},
        {**many.state(), "scatter": None},
        {**many.state(), "mean": None},
        {**many.state(), "n": None},
        {**known.state(), "n": 5},
        {**known.state(), "cov": None},
    )
    for state in states:
        with pytest.raises(ValueError, match="state: n is"):
            fastfid.Moments.from_state(state)
    for nothing in (None, 3, "abc", [("n", 0)]):
        with pytest.raises(TypeError, match="state: "):
            fastfid.Moments.from_state(nothing)
