"""Precision, recall, density, coverage, realism, AuthPct, nearest training rows: counts, laws, copies, refusals."""

from __future__ import annotations

import json
import math

import direct_sums as oracle
import numpy as np
import pytest
import tolerances as tol
import torch

from fastfid import metrics
from fastfid.metrics.manifold import CONVENTIONS

Rng = np.random.Generator


def two_sets(rng: Rng, n: int, m: int, d: int, copied: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = rng.standard_normal((n, d)) + 0.4, 1.1 * rng.standard_normal((m, d)) + 0.4
    y[:copied] = x[:copied]
    return x.astype(np.float32), y.astype(np.float32)


def by_hand(x: np.ndarray, y: np.ndarray, k: int, *, strict: bool) -> dict[str, float]:
    """The definitions, on the matrix of direct sums."""
    compare = np.less if strict else np.less_equal
    d = oracle.squared(x, y)
    in_x, in_y = compare(d, oracle.radii(x, k)[:, None]), compare(d, oracle.radii(y, k)[None, :])
    return {
        "precision": in_x.any(0).sum() / len(y),
        "recall": in_y.any(1).sum() / len(x),
        "density": in_x.sum() / (k * len(y)),
        "coverage": in_x.any(1).sum() / len(x),
    }


@pytest.mark.parametrize(("n", "m", "d", "k"), [(300, 200, 64, 5), (7, 90, 2, 1), (90, 7, 300, 6), (120, 120, 2048, 3)])
def test_counts_are_the_direct_sums(n: int, m: int, d: int, k: int, rng: Rng) -> None:
    """With a third of the generated rows copied: distances tie with radii, and 'less' and 'at most' differ."""
    x, y = two_sets(rng, n, m, d, copied=min(n, m) // 3)
    got = metrics.prdc(x, y, nearest_k=k)
    assert {name: float(value) for name, value in got.items()} == by_hand(x, y, k, strict=True)
    for name, rule in CONVENTIONS.items():
        found = metrics.precision_recall(x, y, convention=name, nearest_k=k)
        want = by_hand(x, y, k, strict=rule.strict)
        assert {key: float(value) for key, value in found.items()} == {
            f"{key}[{name}]": want[key] for key in ("precision", "recall")
        }


def test_conventions_differ_where_they_say() -> None:
    """At a radius itself 'at most' counts a row and 'less' does not."""
    x, y = np.array([[0.0], [1.0]]), np.array([[-1.0], [50.0], [53.0], [2.0], [9.0]])
    edge = metrics.precision_recall(x, y, nearest_k=1)
    assert list(edge) == ["precision[adm]", "recall[adm]"]
    assert [float(value) for value in edge.values()] == [2 / 5, 1.0]
    strict = metrics.precision_recall(x, y, convention="prdc", nearest_k=1)
    assert [float(value) for value in strict.values()] == [0.0, 1.0]
    adm = metrics.precision_recall(np.repeat(x, 3, axis=0), y)
    assert adm["recall[adm]"].extra["nearest_k"] == 3
    assert adm["precision[adm]"].convention == "adm"
    assert "float16" in adm["precision[adm]"].notes[0]


def test_what_a_result_carries(rng: Rng) -> None:
    x, y = two_sets(rng, 90, 60, 5)
    got = metrics.prdc(x, y, nearest_k=np.int64(4))
    p, r = float(got["precision"]), float(got["recall"])
    for name in ("precision", "recall"):
        tol.check(got[name].extra["f_score"], 2 * p * r / (p + r), relative=tol.EPS)
    assert got["precision"].extra["count"] == round(60 * p)
    assert got["density"].extra["count"] == round(4 * 60 * got["density"])
    assert {value.convention for value in got.values()} == {"prdc"}
    assert [value.name for value in got.values()] == list(got) == ["precision", "recall", "density", "coverage"]
    assert json.loads(json.dumps([value.to_dict() for value in got.values()]))[2]["extra"]["nearest_k"] == 4


def test_sets_far_apart_have_nothing_in_common(rng: Rng) -> None:
    x, y = two_sets(rng, 60, 50, 6)
    got = metrics.prdc(x, y + 1000)
    assert [float(value) for value in got.values()] == [0.0, 0.0, 0.0, 0.0]
    assert got["precision"].extra["f_score"] == 0.0


def test_a_set_with_itself(rng: Rng) -> None:
    """Every row is the copy of a centre; its own ball and those of the rows it is a near neighbour of hold it."""
    x, _ = two_sets(rng, 150, 2, 12)
    got = metrics.prdc(x, x)
    assert [float(got[name]) for name in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
    assert got["density"] == 1.0  # itself and the k − 1 before the k-th: k in every ball
    adm = metrics.precision_recall(x, x)
    assert [float(value) for value in adm.values()] == [1.0, 1.0]
    assert metrics.authenticity(x, x) == 0.0


def test_density_and_coverage_of_equal_distributions(rng: Rng) -> None:
    """E density = 1 and E coverage = 1 − Π (n − i)/(m + n − i), i = 1…k, whatever the (continuous) distribution."""
    n, m, k, draws = 400, 300, 5, 12
    density, coverage = [], []
    for _ in range(draws):
        x, y = np.exp(rng.standard_normal((n, 3))), np.exp(rng.standard_normal((m, 3)))
        got = metrics.prdc(x, y, nearest_k=k)
        density.append(float(got["density"]))
        coverage.append(float(got["coverage"]))
    law = 1 - math.prod((n - i) / (m + n - i) for i in range(1, k + 1))
    assert abs(np.mean(coverage) - law) < tol.COVERAGE_LAW
    assert abs(np.mean(density) - 1) < tol.DENSITY_LAW


def test_a_collapsed_generator(rng: Rng) -> None:
    """One image a hundred times: its balls have radius 0, so that only 'at most' finds a copy in them."""
    x, _ = two_sets(rng, 80, 2, 16)
    y = np.repeat(x[:1], 100, axis=0)
    got = metrics.prdc(x, y)
    assert got["precision"] == 1.0
    assert got["recall"] == 0.0
    assert got["density"] == by_hand(x, y, 5, strict=True)["density"]
    assert metrics.precision_recall(x, y)["recall[adm]"] == 1 / 80
    assert metrics.nearest_training(x, y).copies == 100


def test_constant_features() -> None:
    x = np.full((20, 7), 0.1)
    assert [float(value) for value in metrics.prdc(x, x).values()] == [0.0] * 4
    assert [float(value) for value in metrics.precision_recall(x, x).values()] == [1.0, 1.0]
    with pytest.raises(ValueError, match="ref: no row's distance to its neighbour 3 lies above 0 and below the median"):
        metrics.realism(x, x)


# ── Realism, authenticity, nearest training rows ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [60, 61])
def test_realism(n: int, rng: Rng) -> None:
    x, y = two_sets(rng, n, 40, 9, copied=14)
    x[30:35] = x[29]  # radius 0 at k = 3
    radii = np.sqrt(oracle.radii(x, 3))
    kept = (radii < np.median(radii)) & (radii > 0)
    with np.errstate(divide="ignore"):
        want = (radii[kept, None] / np.sqrt(oracle.squared(x[kept], y))).max(0)
    got = metrics.realism_scores(x, y).numpy()
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    assert 0 < np.isinf(want).sum() < 14
    tol.check(got[np.isfinite(got)], want[np.isfinite(want)], relative=tol.REALISM)
    result = metrics.realism(x, y)
    tol.check(float(result), np.median(want), relative=tol.REALISM)
    assert result.extra["infinite"] == np.isinf(want).sum()
    assert result.extra["inside"] == (oracle.squared(x[kept], y) <= oracle.radii(x, 3)[kept, None]).any(0).mean()


def test_realism_of_radii_beyond_float32s_range(rng: Rng) -> None:
    """Groups whose sizes differ by 1e25: a row's score is that of its own group, whatever the others' scale."""
    x = np.concatenate([rng.standard_normal((30, 5)) * 10.0 ** (-25 + 25 * g) + 1e3 * g for g in (0, 1)])
    y = np.concatenate([x[:10] * 1.001, x[30:40] * 1.001])
    radii = np.sqrt(oracle.radii(x, 3))
    kept = radii < np.median(radii)
    want = (radii[kept, None] / np.sqrt(oracle.squared(x[kept], y))).max(0)
    tol.check(np.log(metrics.realism_scores(x, y).numpy()), np.log(want), relative=tol.REALISM)


def test_authenticity(rng: Rng) -> None:
    """Copies are not authentic; of two equally near rows the first decides."""
    x, y = two_sets(rng, 90, 70, 11, copied=20)
    y[20:30] = x[20:30] + np.float32(1e-3)
    d = oracle.squared(x, y)
    own, near = oracle.radii(x, 1), d.argmin(0)
    got = metrics.authenticity(x, y)
    assert got == 100 * (own[near] < d.min(0)).mean()
    assert got <= 100 * 40 / 70
    line = np.array([[0.0], [4.0], [5.0]])  # 2 is as near to 0 (own neighbour 4 away) as to 4 (1 away)
    assert metrics.authenticity(line, np.array([[2.0]])) == 0.0
    assert metrics.authenticity(line[[1, 0, 2]], np.array([[2.0]])) == 100.0


def test_nearest_training(rng: Rng) -> None:
    x, y = two_sets(rng, 90, 70, 11, copied=20)
    x[50] = x[3]
    x[61] = np.nextafter(x[60], np.float32(np.inf))
    y[30] = x[60]
    d = oracle.squared(x, y)
    got = metrics.nearest_training(x, y)
    np.testing.assert_array_equal(got.index.numpy(), d.argmin(0))
    np.testing.assert_array_equal(got.distance.numpy(), np.sqrt(d.min(0)))
    assert got.copies == 21
    assert got.index[3] == 3
    assert got.index[30] == 60


# ── What is taken and what is refused ─────────────────────────────────────────────────────────────────────────────────


def test_arrays_tensors_and_dtypes_give_the_same(rng: Rng) -> None:
    x, y = (side.astype(np.float16) for side in two_sets(rng, 70, 50, 6, copied=9))
    want = {name: float(value) for name, value in metrics.prdc(x, y).items()}
    for ref, gen in (
        (torch.from_numpy(x), torch.from_numpy(y)),
        (x.astype(np.float64), torch.from_numpy(y).float()),
        (torch.from_numpy(np.asfortranarray(x)), y[::1]),
    ):
        assert {name: float(value) for name, value in metrics.prdc(ref, gen).items()} == want


@pytest.mark.parametrize("function", [metrics.prdc, metrics.precision_recall, metrics.realism, metrics.authenticity])
def test_too_few_rows_are_refused(function: object, rng: Rng) -> None:
    k = {"prdc": 5, "authenticity": 1}.get(function.__name__, 3)  # type: ignore[attr-defined]
    x, y = two_sets(rng, k, 30, 4)
    with pytest.raises(ValueError, match=f"ref: {k} rows; accepted: more than nearest_k = {k}"):
        function(x, y)  # type: ignore[operator]
    if k > 1 and function is not metrics.realism:
        with pytest.raises(ValueError, match=f"gen: {k} rows; accepted: more than nearest_k = {k}"):
            function(y, x)  # type: ignore[operator]


def test_bad_arguments_are_refused(rng: Rng) -> None:
    x, y = two_sets(rng, 30, 30, 4)
    with pytest.raises(ValueError, match="nearest_k must be at least 1, got 0"):
        metrics.prdc(x, y, nearest_k=0)
    with pytest.raises(TypeError, match="nearest_k must be a whole number, got float"):
        metrics.prdc(x, y, nearest_k=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="convention: 'ADM'; accepted: adm, stylegan, kynkaanniemi"):
        metrics.precision_recall(x, y, convention="ADM")
    with pytest.raises(ValueError, match="gen: 3 features; accepted: 4"):
        metrics.prdc(x, y[:, :3])
    y[7, 2] = np.nan
    with pytest.raises(ValueError, match="gen: row 7"):
        metrics.prdc(x, y)
    with pytest.raises(TypeError, match="ref"):
        metrics.prdc(x.astype(np.int64), x)
    with pytest.raises(ValueError, match="gen: 0 rows"):
        metrics.nearest_training(x, x[:0])
