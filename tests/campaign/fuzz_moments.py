"""Fuzz of Moments, GroupedMoments and the distance between them, against two passes in long double."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastfid
from campaign import truths
from campaign.fuzz_numerics import oracle
from campaign.trial import Entry, close, either, pick, refuses, require, returns
from campaign.values import (
    formed,
    huge_integer,
    wrong_array,
    wrong_choice,
    wrong_device,
    wrong_integer,
    wrong_positive,
)

Generator = np.random.Generator


def features(rng: Generator, n: int | None = None, d: int | None = None) -> Any:
    """[n, d] of an ordinary, a far-off or a constant kind; float64 or float32."""
    n = int(rng.integers(2, 14)) if n is None else n
    d = int(rng.integers(1, 9)) if d is None else d
    x = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 4, d) + rng.normal(size=d) * 10.0 ** rng.integers(0, 4)
    if rng.integers(4) == 0:
        x[:, int(rng.integers(d))] = rng.normal()
    return x if rng.integers(2) else x.astype(np.float32)


def two_pass(x: Any) -> tuple[Any, Any, float]:
    """(mean, scatter, the size that errors are measured by) in long double."""
    y = np.asarray(x).astype(np.longdouble)
    mean = y.mean(0)
    centred = y - mean
    return mean, centred.T @ centred, float(np.abs(y).max() or 1.0)


def same(moments: Any, x: Any, label: str) -> None:
    """n, mean and scatter are those of x."""
    mean, scatter, size = two_pass(x)
    require(moments.n == len(x), f"{label}: wrong n", f"{moments.n}, not {len(x)}")
    close(moments.mean, mean, 1e-14 * size, f"{label}: mean")
    spread = float(np.trace(scatter))
    rounding = len(x) * size * (np.sqrt(spread) + 1e-15 * size)  # n · ulp(mean) · spread: of what centring leaves
    close(moments.scatter, scatter, 1e-12 * spread + 1e-14 * rounding, f"{label}: scatter")


def fed(rng: Generator, x: Any, label: str) -> Any:
    """Moments of x, however its rows come."""
    moments = fastfid.Moments(keep_rows=bool(rng.integers(2)))
    at = 0
    while at < len(x):
        step = int(rng.integers(0, len(x) + 1))
        part = x[at : at + step]
        deferred = bool(rng.integers(2))
        returns(moments.update, formed(rng, part) if len(part) else part, label=label, deferred=deferred)
        at += step
    return moments


def moments(rng: Generator, folder: Path) -> None:
    kind = int(rng.integers(14))
    x = features(rng)
    if kind < 4:
        made = fed(rng, x, "Moments.update")
        same(made, x, "Moments.update")
        again = pickle.loads(pickle.dumps(copy.deepcopy(made)))
        require(torch.equal(again.mean, made.mean), "Moments: not itself after pickle")
    elif kind == 4:
        cut = int(rng.integers(0, len(x) + 1))
        first, second = fed(rng, x[:cut], "Moments.update"), fed(rng, x[cut:], "Moments.update")
        returns(first.merge, second, label="Moments.merge")
        same(first, x, "Moments.merge")
    elif kind == 5:
        made, path = fed(rng, x, "Moments.update"), folder / "m.npz"
        returns(made.save, path, label="Moments.save", metadata={"a": [1, None, "ü"]})
        back = returns(fastfid.Moments.load, path, label="Moments.load")
        same(back, x, "Moments.load")
        require(back.metadata == {"a": [1, None, "ü"]}, "Moments.load: metadata", repr(back.metadata))
    elif kind == 6:
        state = fed(rng, x, "Moments.update").state()
        same(returns(fastfid.Moments.from_state, state, label="Moments.from_state"), x, "Moments.from_state")
        key = pick(rng, state)
        if rng.integers(2):
            state.pop(key)
            refuses(fastfid.Moments.from_state, state, label=f"Moments.from_state: without {key}", names=(key, "state"))
        else:
            state[key] = pick(rng, ("text", 2.5, -1, [1], np.zeros((2, 2, 2)), torch.zeros(3), object()))
            label = f"Moments.from_state: {key} of another kind"
            either(fastfid.Moments.from_state, state, label=label)
    elif kind == 7:
        mean, sigma = rng.normal(size=x.shape[1]), truths.covariance(rng, x.shape[1])
        n = pick(rng, (None, 1, 5, 10**6))
        given = formed(rng, mean, "list"), formed(rng, sigma, "list")
        made = returns(fastfid.Moments.from_statistics, *given, n, label="Moments.from_statistics")
        close(made.mean, mean, 0.0, "Moments.from_statistics: mean")
        if n != 1:
            close(made.cov(), sigma, 1e-13 * float(np.abs(sigma).max()), "Moments.from_statistics: cov")
    elif kind == 8:
        mean, sigma = rng.normal(size=x.shape[1]), truths.covariance(rng, x.shape[1])
        how, bad = wrong_integer(rng, 1, none=False)
        label = f"Moments.from_statistics: n {how}"
        refuses(fastfid.Moments.from_statistics, mean, sigma, bad, label=label, names=("n:", "n=", "n "))
    elif kind == 9:
        how, bad = wrong_array(rng, np.asarray(x, dtype=np.float64), but=("empty",))
        made = fed(rng, x, "Moments.update")
        refuses(made.update, bad, label=f"Moments.update: features {how}", names=("features",))
        same(made, x, "Moments.update after a refusal")
    elif kind == 10:
        name = pick(rng, ("dim", "device"))
        how, bad = wrong_integer(rng, 1, none=False) if name == "dim" else wrong_device(rng)
        label = f"Moments: {name} {how}"
        refuses(fastfid.Moments, label=label, names=(name,), **{name: bad}, errors=UNAVAILABLE)
    elif kind == 11:
        made = fed(rng, x, "Moments.update")
        how, bad = wrong_integer(rng, 0)
        refuses(made.cov, bad, label=f"Moments.cov: ddof {how}", names=("ddof",))
    elif kind == 12:
        bad = pick(rng, (None, 3, "text", x, {}, fastfid.GroupedMoments(2)))
        refuses(
            fed(rng, x, "Moments.update").merge, bad, label=f"Moments.merge: {type(bad).__name__}", names=("other",)
        )
    else:
        extreme = x.astype(np.float64) * 10.0 ** rng.uniform(-330, 300)
        either(
            fastfid.Moments.from_features, extreme, label="Moments of extremes", check=lambda m: _orderly(m, extreme)
        )


UNAVAILABLE = (ValueError, TypeError, fastfid.errors.BackendUnavailableError)


def _orderly(made: Any, x: Any) -> None:
    size = float(np.abs(x).max())
    close(made.mean, np.asarray(x).astype(np.longdouble).mean(0), 1e-13 * size, "Moments of extremes: mean")


def grouped(rng: Generator, _: Path) -> None:
    kind = int(rng.integers(8))
    groups = int(rng.integers(1, 5))
    x = features(rng)
    ids = rng.integers(0, groups, len(x))
    made = fastfid.GroupedMoments(groups)
    if kind < 3:
        half = len(x) // 2
        for part in (slice(0, half), slice(half, None)):
            given = formed(rng, x[part]) if len(x[part]) else x[part]
            kind_of = pick(rng, (np.int64, np.int32, np.uint8))
            own = ids[part].astype(kind_of)
            returns(
                made.update, given, torch.from_numpy(own) if rng.integers(2) else own, label="GroupedMoments.update"
            )
        other = fastfid.GroupedMoments(groups)
        if kind == 2:
            returns(other.merge, made, label="GroupedMoments.merge")
            made = other
        for group in range(groups):
            if (ids == group).any():
                same(made.moments(group), x[ids == group], "GroupedMoments")
            else:
                require(made.moments(group).n == 0, "GroupedMoments: an empty group has samples")
        pickle.loads(pickle.dumps(copy.deepcopy(made)))
    elif kind == 3:
        how, bad = wrong_array(rng, np.asarray(x, dtype=np.float64), but=("empty",))
        refuses(made.update, bad, ids, label=f"GroupedMoments.update: features {how}", names=("features",))
    elif kind == 4:
        bad_ids: dict[str, Any] = {
            "floats": ids.astype(float),
            "outside": ids + groups,
            "negative": ids - groups,
            "too few": ids[:-1],
            "list": ids.tolist(),
            "None": None,
            "text": "abc",
            "huge": np.full(len(x), 2**63, np.uint64),
            "booleans": ids.astype(bool),
            "objects": ids.astype(object),
            "masked": np.ma.MaskedArray(ids, np.ones(len(x), bool)),
            "meta": torch.empty(len(x), dtype=torch.int64, device="meta"),
        }
        how = pick(rng, bad_ids)
        refuses(made.update, x, bad_ids[how], label=f"GroupedMoments.update: group {how}", names=("group",))
    elif kind == 5:
        how, bad = wrong_integer(rng, 1)
        refuses(fastfid.GroupedMoments, bad, label=f"GroupedMoments: groups {how}", names=("groups",))
        how, bad = pick(rng, (("2**62", 2**62), ("2**64", 2**64), ("10**30", 10**30)))
        either(fastfid.GroupedMoments, bad, label=f"GroupedMoments: groups {how}")
    elif kind == 6:
        how, bad = wrong_integer(rng, 0)
        errors = (ValueError, TypeError, IndexError)
        refuses(made.moments, bad, label=f"GroupedMoments.moments: {how}", names=("group",), errors=errors)
        how, bad = huge_integer(rng)
        refuses(made.moments, bad, label=f"GroupedMoments.moments: {how}", names=("group",), errors=errors)
    else:
        bad = pick(rng, (None, 3, "text", x, fastfid.Moments(), fastfid.GroupedMoments(groups + 1)))
        refuses(made.merge, bad, label=f"GroupedMoments.merge: {type(bad).__name__}", names=("other",))


def frechet_moments(rng: Generator, _: Path) -> None:
    d = int(rng.integers(1, 7))
    x, y = features(rng, d=d), features(rng, d=d)
    first, second = fed(rng, x, "Moments.update"), fed(rng, y, "Moments.update")
    kind = int(rng.integers(8))
    function = fastfid.frechet_moments
    if kind < 4:
        ddof = int(rng.integers(2))
        want = oracle(*_gaussian(x, ddof), *_gaussian(y, ddof))
        method = pick(rng, ("auto", "eigvalsh", "newton-schulz", "svd"))
        label = f"frechet_moments({method})"
        got = returns(function, first, second, label=label, ddof=ddof, method=method)
        size = float(np.trace(_gaussian(x, ddof)[1]) + np.trace(_gaussian(y, ddof)[1]))
        reach = max(float(np.abs(x).max()), float(np.abs(y).max())) ** 2
        close(float(got), want, 2e-6 * size + 1e-12 * (abs(want) + reach), label)
        require(got.lower <= float(got) <= got.upper, f"{label}: value outside its bounds", repr(got))
    elif kind == 4:
        at = int(rng.integers(2))
        both: list[Any] = [first, second]
        both[at] = pick(rng, (None, 3, "text", x, {}, fastfid.Moments(), fastfid.Moments(d + 1)))
        name = ("ref", "gen")[at]
        refuses(function, *both, label=f"frechet_moments: {name} {type(both[at]).__name__}", names=(name,))
    elif kind == 5:
        how, bad = wrong_integer(rng, 0)
        refuses(function, first, second, label=f"frechet_moments: ddof {how}", names=("ddof",), ddof=bad)
    elif kind == 6:
        name = pick(rng, ("method", "mean_dtype"))
        how, bad = wrong_choice(rng)
        refuses(function, first, second, label=f"frechet_moments: {name} {how}", names=(name,), **{name: bad})
    else:
        name = pick(rng, ("rtol", "device"))
        how, bad = wrong_positive(rng) if name == "rtol" else wrong_device(rng)
        label = f"frechet_moments: {name} {how}"
        refuses(function, first, second, label=label, names=(name,), errors=UNAVAILABLE, **{name: bad})


def _gaussian(x: Any, ddof: int) -> tuple[Any, Any]:
    mean, scatter, _ = two_pass(x)
    return mean.astype(np.float64), (scatter / (len(x) - ddof)).astype(np.float64)


ENTRIES = [
    Entry("fuzz/Moments", moments, ("Moments",)),
    Entry("fuzz/GroupedMoments", grouped, ("GroupedMoments",)),
    Entry("fuzz/frechet_moments", frechet_moments, ("frechet_moments",)),
]
