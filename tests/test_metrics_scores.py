"""Inception score, FID and MIFID of features beside their formulas; underflow, copies, refusals."""

from __future__ import annotations

import math
import warnings

import metric_formulas as formulas
import numpy as np
import pytest
import tolerances as tol
import torch

import fastfid
from fastfid import metrics
from fastfid.errors import NumericalWarning
from fastfid.metrics import inception_scores

Rng = np.random.Generator
CONVENTIONS = list(inception_scores.SCORE_CONVENTIONS)
DDOF = {"torchmetrics": 1}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "classes", "splits"), [(2, 3, 2), (15, 4, 10), (203, 1000, 10), (64, 1, 3)])
def test_score_is_the_formula(convention: str, dtype: torch.dtype, n: int, classes: int, splits: int, rng: Rng) -> None:
    logits = torch.from_numpy(rng.standard_normal((n, classes)) * 4).to(dtype)
    got = metrics.inception_score(logits, splits, convention, seed=5)
    parts = formulas.score_splits(convention, n, splits, 5)
    want = formulas.inception_score(formulas.exact(logits), parts)
    tol.check(got.extra["per_split"], want, relative=tol.SCORE)
    tol.check(float(got), np.mean(want), relative=tol.SCORE)
    assert (got.name, got.convention, got.extra["splits"]) == ("is", convention, len(want))
    if len(want) > DDOF.get(convention, 0):
        tol.check(got.extra["std"], np.std(want, ddof=DDOF.get(convention, 0)), absolute=tol.SCORE * max(want))
    assert (len(got.notes) > 0) == (len(want) != splits)


def test_adm_splits_by_five_thousand(rng: Rng) -> None:
    logits = rng.standard_normal((10_003, 5)).astype(np.float32)
    got = metrics.inception_score(logits, convention="adm")
    parts = [np.arange(5000), np.arange(5000, 10_000), np.arange(10_000, 10_003)]
    tol.check(got.extra["per_split"], formulas.inception_score(formulas.exact(logits), parts), relative=tol.SCORE)
    assert "3 splits, where 10 were asked for" in got.notes[0]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_uniform_and_certain(convention: str) -> None:
    """Equal logits have score 1; certain and balanced classes as many as there are, however large the logits."""
    assert float(metrics.inception_score(np.zeros((50, 8)), 5, convention)) == 1.0
    assert metrics.inception_score(np.full((50, 8), -3e38, np.float32), 5, convention).extra["std"] == 0.0
    for size in (40.0, 1e4, 1e308):
        certain = np.tile(np.eye(4) * size, (3, 1))
        tol.check(float(metrics.inception_score(certain, 1, convention)), 4.0, relative=1e-12)


def test_what_underflows_is_no_nan() -> None:
    """A probability of exp(−800) is 0 in float64: packages that take its logarithm give NaN."""
    logits = np.array([[0.0, -800.0, -1e5], [0.0, -800.0, -1e300]])
    assert float(metrics.inception_score(logits, 1)) == 1.0
    mixed = np.array([[0.0, -1e308, 0.0], [-1e308, 0.0, 0.0]])
    tol.check(float(metrics.inception_score(mixed, 1)), math.sqrt(2.0), relative=1e-14)


def test_one_split_and_the_seed(rng: Rng) -> None:
    logits = rng.standard_normal((40, 6))
    one = metrics.inception_score(logits, 1, "torchmetrics")
    assert one.extra["std"] is None
    assert "no standard deviation" in one.notes[0]
    assert one.to_dict()["extra"]["std"] is None
    for convention, moves in (("torch-fidelity", True), ("torchmetrics", True), ("stylegan", False), ("adm", False)):
        first, second = (metrics.inception_score(logits, 4, convention, seed=seed) for seed in (1, 2))
        assert (float(first) != float(second)) == moves


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"splits": 7}, ValueError, "splits: 7; accepted: at most 6"),
        ({"splits": 0}, ValueError, "splits must be at least 1"),
        ({"splits": 2.0}, TypeError, "splits must be a whole number"),
        ({"convention": "ADM"}, ValueError, "convention: 'ADM'; accepted: torch-fidelity, adm"),
        ({"convention": ["adm"]}, ValueError, "convention: "),
        ({"seed": 2**32}, ValueError, "seed must be at most"),
        ({"logits": np.zeros((0, 3))}, ValueError, "logits: 0 rows"),
        ({"logits": np.full((9, 3), np.inf)}, ValueError, "logits: row 0 has NaN or infinity"),
        ({"logits": np.zeros((9, 3), dtype=int)}, TypeError, "logits: int64"),
    ],
)
def test_score_refuses(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metrics.inception_score(**{"logits": np.ones((6, 3)), "splits": 2, **given})


# --- FID --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("n", "m", "d"), [(2, 3, 1), (40, 60, 7), (10, 14, 30), (200, 9, 20)])
def test_fid_is_the_formula(n: int, m: int, d: int, ddof: int, rng: Rng) -> None:
    x, y = rng.standard_normal((n, d)) + 0.4, rng.standard_normal((m, d)) * 1.3
    for a, b in ((x, y), (torch.from_numpy(x), y), (fastfid.Moments.from_features(x), y)):
        got = metrics.fid(a, b, ddof=ddof, certify=True)
        want = formulas.frechet(x, y, ddof)
        tol.check(float(got), want, absolute=tol.FEATURE_DISTANCE * (x.var() + y.var() + 1) * d)
        assert got.bounds is not None
        assert got.bounds.lower <= want * (1 + 1e-9)
        assert want * (1 - 1e-9) <= got.bounds.upper
        assert got.extra["proof"] == "proven"
        tol.check(got.extra["mean_term"] + got.extra["trace_term"], float(got), relative=1e-12)
    assert got.bounds.covers.startswith("the d×d arithmetic")


def test_fid_of_shifted_and_scaled_features(rng: Rng) -> None:
    """FD(x, x + c) = ‖c‖² and FD(x, s x) = ‖(1 − s) mean‖² + (1 − s)² tr Σ, whatever the distribution."""
    x = rng.exponential(size=(300, 20))
    shift = rng.standard_normal(20)
    tol.check(float(metrics.fid(x, x + shift)), shift @ shift, relative=1e-10)
    want = 0.25 * (x.mean(0) @ x.mean(0) + x.var(0, ddof=1).sum())
    tol.check(float(metrics.fid(x, x * 1.5)), want, relative=1e-10)
    assert float(metrics.fid(x, x)) == 0.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"gen": np.ones((1, 3))}, ValueError, "gen: 1 samples; a covariance with ddof = 1 needs at least 2"),
        ({"gen": np.ones((0, 3))}, ValueError, "gen: 0 rows"),
        ({"gen": np.ones((4, 2))}, ValueError, "gen: 2 features; accepted: 3"),
        ({"ref": np.full((4, 3), np.nan)}, ValueError, "ref: row 0 has NaN"),
        ({"ref": "a.npz"}, TypeError, "ref: str"),
    ],
)
def test_fid_refuses(given: dict[str, object], error: type[Exception], message: str) -> None:
    for metric in (metrics.fid, metrics.mifid):
        with pytest.raises(error, match=message):
            metric(**{"ref": np.ones((5, 3)), "gen": np.ones((4, 3)), **given})


# --- MIFID ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("near", [True, False])
def test_mifid_is_the_formula(dtype: torch.dtype, near: bool, rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastfid.metrics.gaussian_distance, "_TILE", 32)
    x = torch.from_numpy(np.abs(rng.standard_normal((90, 12))) + (3 if near else 0)).to(dtype)
    y = torch.from_numpy(rng.standard_normal((70, 12)) + (3 if near else 0)).to(dtype)
    got = metrics.mifid(x, y)
    a, b = formulas.exact(x), formulas.exact(y)
    cosine = formulas.cosine_distance(a, b)
    tol.check(got.extra["cosine_distance"], cosine, absolute=tol.COSINE)
    assert (cosine < 0.1) == near
    want = formulas.frechet(a, b) / ((cosine if near else 1.0) + 1e-14)
    tol.check(float(got), want, relative=1e-9)
    assert got.extra["penalty"] == (got.extra["cosine_distance"] if near else 1.0)
    tol.check(float(metrics.mifid(x, y, eps=1e-6)), float(metrics.fid(x, y)), relative=1e-12)


def test_mifid_of_copies(rng: Rng) -> None:
    """Copies of the whole reference give 0, as FID vanishes; copies among others raise the value without bound."""
    x = np.abs(rng.standard_normal((50, 6)))
    assert float(metrics.mifid(x, x.copy())) == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)  # of FID, which is 0 to rounding
        assert float(metrics.mifid(x, x[::-1])) == 0.0
    many = np.concatenate([x, x[:25], -x])  # of either sign: the angle counts, not the direction
    got = metrics.mifid(x, many)
    assert abs(got.extra["cosine_distance"]) <= tol.COSINE
    assert float(got) >= float(metrics.fid(x, many)) * 1e13


def test_mifid_leaves_rows_without_angle_out(rng: Rng) -> None:
    x, y = np.abs(rng.standard_normal((8, 3))) + 2, np.abs(rng.standard_normal((9, 3))) + 2
    x[2], y[0] = 0.0, (1.0, -1.0, 0.0)
    got = metrics.mifid(x, y)
    tol.check(got.extra["cosine_distance"], formulas.cosine_distance(np.delete(x, 2, 0), y[1:]), absolute=tol.COSINE)
    assert got.notes[-2:] == tuple(f"1 rows of {name} add up to zero and have no angle" for name in ("ref", "gen"))
    with pytest.raises(ValueError, match="gen: every row adds up to zero"):
        metrics.mifid(x, np.zeros((4, 3)))
    for eps in (0.0, 1.5, float("nan"), "1"):
        with pytest.raises((ValueError, TypeError), match="eps"):
            metrics.mifid(x, y, eps=eps)
    tiny, huge = np.full((3, 2), 5e-324), np.full((4, 2), 1e150)
    assert abs(metrics.mifid(tiny + np.eye(3, 2), huge).extra["cosine_distance"]) <= 1.0
