"""MIND and the Vendi score beside their formulas and closed forms."""

from __future__ import annotations

import math

import metric_formulas as formulas
import numpy as np
import pytest
import tolerances as tol
import torch

from fastfid import metrics
from fastfid.metrics import sliced, spectral

Rng = np.random.Generator
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "d", "projections"), [(1, 1, 1, 1), (7, 3, 2, 5), (40, 90, 30, 17), (90, 40, 3, 8)])
def test_mind_is_the_formula(
    dtype: torch.dtype, n: int, m: int, d: int, projections: int, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliced, "_ENTRIES", 100)
    monkeypatch.setattr(sliced, "_ROWS", 32)
    x = torch.from_numpy(rng.standard_normal((n, d)) + 3).to(dtype)
    y = torch.from_numpy(rng.exponential(size=(m, d))).to(dtype)
    got = metrics.mind(x, y, projections, 9)
    want = formulas.mind(formulas.exact(x), formulas.exact(y), projections, 9)
    tol.check(float(got), want.mean(), relative=tol.SLICED)
    assert got.extra["samples"] == min(n, m)
    assert len(got.notes) == (n != m)
    if projections > 1:
        tol.check(got.extra["projections_se"], want.std(ddof=1) / math.sqrt(projections), relative=1e-10)
    else:
        assert got.extra["projections_se"] is None


def test_mind_of_shifted_features(rng: Rng) -> None:
    """Along every u a shift c moves the sorted values by ⟨u, c⟩, so MIND is 3 d mean ⟨u, c⟩², which tends to 3 ‖c‖²."""
    x, shift = rng.standard_normal((30, 6)), rng.standard_normal(6)
    got = metrics.mind(x, rng.permutation(x + shift, axis=0), 4000)
    tol.check(float(got), 3 * shift @ shift, absolute=4 * got.extra["projections_se"])
    assert 0.0 <= float(metrics.mind(x, x[::-1])) <= 1e-28
    one = metrics.mind(x[:, :1], x[:, :1] + 0.5, 3)
    tol.check(float(one), 3 * 0.25, relative=1e-12)


def test_mind_of_copied_rows_takes_no_more_of_the_larger_set(rng: Rng) -> None:
    x = rng.standard_normal((20, 4))
    state = torch.get_rng_state()
    got = metrics.mind(np.concatenate([x, x]), x, 50)
    assert torch.equal(torch.get_rng_state(), state)
    tol.check(float(got), formulas.mind(np.concatenate([x, x]), x, 50, 2020).mean(), relative=tol.SLICED)
    assert got.notes == ("20 of the 40 rows of ref were drawn, as many as the other set has",)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 3), (5, 1), (30, 100), (100, 30), (64, 64)])
def test_vendi_is_the_formula(dtype: torch.dtype, n: int, d: int, rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_ROWS", 32)
    x = torch.from_numpy(rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -1.0 + 0.3).to(dtype)
    got = metrics.vendi(x)
    tol.check(float(got), formulas.vendi(formulas.exact(x)), relative=tol.VENDI)
    assert 0.0 < got.extra["largest"] <= 1.0 + 1e-14


def test_vendi_of_orthonormal_and_of_equal_rows(rng: Rng) -> None:
    q, _ = np.linalg.qr(rng.standard_normal((50, 20)))
    for rows, want in ((q.T, 20.0), (np.repeat(q.T, 7, axis=0), 20.0), (np.tile(q[0], (9, 1)), 1.0)):
        tol.check(float(metrics.vendi(rows)), want, relative=tol.VENDI)
        lengths = 10.0 ** rng.uniform(-150, 150, (len(rows), 1))
        tol.check(float(metrics.vendi(rows * lengths)), want, relative=tol.VENDI)
    tol.check(float(metrics.vendi(np.array([[1.0, 0.0], [-2.0, 0.0]]))), 1.0, relative=tol.VENDI)
    tol.check(float(metrics.vendi(np.full((3, 2), 5e-324))), 1.0, relative=tol.VENDI)
    shares = np.array([0.75, 0.25])
    rows = np.repeat(np.eye(2), [3, 1], axis=0)
    tol.check(float(metrics.vendi(rows)), np.exp(-(shares * np.log(shares)).sum()), relative=tol.VENDI)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.mind(np.ones((3, 2)), np.ones((3, 2)), 0), ValueError, "projections must be at least 1"),
        (lambda: metrics.mind(np.ones((3, 2)), np.ones((3, 2)), 5.0), TypeError, "projections must be a whole"),
        (lambda: metrics.mind(np.ones((3, 2)), np.ones((3, 2)), 5, -1), ValueError, "seed must be at least 0"),
        (lambda: metrics.mind(np.ones((3, 2)), np.ones((0, 2))), ValueError, "gen: 0 rows"),
        (lambda: metrics.mind(np.ones((3, 2)), np.ones((3, 1))), ValueError, "gen: 1 features; accepted: 2"),
        (lambda: metrics.mind(np.full((3, 2), 1e300), np.ones((3, 2))), ValueError, "overflows float64"),
        (lambda: metrics.vendi(np.array([[1.0], [0.0]])), ValueError, "features: row 1 is zero"),
        (lambda: metrics.vendi(np.zeros((0, 2))), ValueError, "features: 0 rows"),
        (lambda: metrics.vendi(np.array([[np.nan]])), ValueError, "features: row 0 has NaN"),
        (lambda: metrics.vendi([[1.0]]), TypeError, "features: list"),
    ],
)
def test_refusals(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
