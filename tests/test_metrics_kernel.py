"""KID and MMD beside their formulas written out: every convention, both routes, odd tiles, constants, far means."""

from __future__ import annotations

import math

import metric_formulas as formulas
import numpy as np
import pytest
import tolerances as tol
import torch

from fastfid import Moments, metrics
from fastfid.errors import SmallSampleWarning
from fastfid.metrics import kernel_mmd, kernel_tiles
from fastfid.metrics.mmd_variance import MMDSums, variance

Rng = np.random.Generator
CONVENTIONS = list(kernel_mmd.KERNEL_CONVENTIONS)


def features(rng: Rng, n: int, d: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.abs(rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + 0.4)).to(dtype)


def route(monkeypatch: pytest.MonkeyPatch, sweep: bool, forms: bool) -> None:
    monkeypatch.setattr(kernel_mmd, "_plan", lambda *_: kernel_mmd._Plan(sweep, forms))


def scale(x: torch.Tensor, y: torch.Tensor) -> float:
    """The largest of the three mean kernel values."""
    a, b = formulas.exact(x), formulas.exact(y)
    return max(float(formulas.polynomial(p, q).mean()) for p, q in ((a, a), (b, b), (a, b)))


@pytest.fixture(params=["float64 where small", "float32 always"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "float32 always":
        monkeypatch.setattr(kernel_tiles, "_SMALL", 0)
    return request.param


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "m", "d", "size"), [(2, 2, 1, 2), (2, 9, 3, 2), (40, 30, 5, 30), (90, 140, 33, 20)])
def test_kid_is_the_formula(
    convention: str, dtype: torch.dtype, n: int, m: int, d: int, size: int, products: str, rng: Rng
) -> None:
    x, y = features(rng, n, d, dtype), features(rng, m, d, dtype) * 1.25
    got = metrics.kid(x, y, 7, size, 11, convention, full=True)
    a, b = formulas.exact(x), formulas.exact(y)
    tol.check(got.extra["kernel_mean"], formulas.polynomial(a, b).mean(), relative=1e-6)
    want = [*formulas.kid(a, b, 7, size, 11, convention), formulas.unbiased_mmd(a, b)]
    single = products == "float32 always" and dtype != torch.float64
    bound = tol.KERNEL_FLOAT32 if single else tol.KERNEL_FLOAT64
    tol.check([float(got), got.extra["std"], got.extra["full"]], want, absolute=bound * scale(x, y))
    assert (got.name, got.convention, got.extra["subset_size"]) == ("kid", convention, size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_routes_agree(dtype: torch.dtype, rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_tiles, "_SMALL", 0)
    x, y = features(rng, 700, 40, dtype), features(rng, 610, 40, dtype) + 0.05
    want = formulas.kid(formulas.exact(x), formulas.exact(y), 9, 150, 2020, "torch-fidelity")
    bound = tol.KERNEL_FLOAT64 if dtype == torch.float64 else tol.KERNEL_FLOAT32 / 10
    for plan in ((True, True), (True, False), (False, False)):
        route(monkeypatch, *plan)
        got = metrics.kid(x, y, 9, 150)
        tol.check((float(got), got.extra["std"]), want, absolute=bound * scale(x, y))
        assert (got.extra["full"] is None) == (not plan[0])


def test_the_cheaper_route_is_taken() -> None:
    plan = kernel_mmd._plan
    assert plan(10_000, 10_000, 2048, 100, 1000, False) == kernel_mmd._Plan(True, True)
    assert plan(50_000, 50_000, 2048, 100, 1000, False) == kernel_mmd._Plan(False, False)
    assert plan(50_000, 50_000, 2048, 100, 1000, True) == kernel_mmd._Plan(True, False)
    assert plan(3000, 3000, 64, 2, 10, True) == kernel_mmd._Plan(True, False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tiling", [(1, 1, 1), (2, 4, 6), (3, 9, 3), (128, 512, 1024)])
@pytest.mark.parametrize("n", [1, 2, 5, 12, 13])
def test_sums_of_tiles(
    n: int, tiling: tuple[int, int, int], dtype: torch.dtype, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_tiles, "_SMALL", 0)
    monkeypatch.setitem(kernel_tiles._TILINGS, "cpu", kernel_tiles.Tiling(*tiling))
    x, y = (torch.from_numpy(rng.standard_normal((k, 4))).to(dtype) for k in (n, 11))
    u, v = (torch.from_numpy(rng.integers(0, 2, (k, 3))).to(dtype) for k in (n, 11))
    one, two = kernel_tiles.polynomial_sides(x, y)
    assert one.rows.dtype == two.rows.dtype == dtype
    kernel = kernel_tiles.Polynomial(3, 0.25, 1.0, 0.5)
    for a, b, wa, wb in ((one, two, u, v), (one, one, u, u), (two, two, v, v)):
        k = formulas.polynomial(formulas.exact(a.rows), formulas.exact(b.rows)) - 0.5
        if a is b:
            np.fill_diagonal(k, 0.0)
        got = kernel_tiles.kernel_sums(kernel, a, b, (wa, wb), square=True)
        bound = (1e-14 if dtype == torch.float64 else 3e-7) * np.abs(k).sum()
        weighted = np.einsum("is,ij,js->s", wa.double().numpy(), k, wb.double().numpy())
        for value, want in ((got.rows, k.sum(1)), (got.columns, k.sum(0)), (got.weighted, weighted)):
            tol.check(value, want, absolute=bound)
        tol.check([got.total, got.square], [k.sum(), (k**2).sum()], relative=bound, absolute=bound)
    own = formulas.polynomial(formulas.exact(x), formulas.exact(x))
    tol.check(kernel.diagonal(one), np.diag(own) - 0.5, relative=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (4, 6), (6, 5)])
def test_variance_is_the_unbiased_estimate(n: int, m: int, rng: Rng) -> None:
    x, y = features(rng, n, 3), features(rng, m, 3) * 1.5
    kernel, sides = kernel_tiles.Polynomial(3, 1 / 3, 1.0, 0.7), kernel_tiles.polynomial_sides(x, y)
    pairs = ((sides[0], sides[0]), (sides[1], sides[1]), sides)
    sums = MMDSums(*(kernel_tiles.kernel_sums(kernel, a, b, square=True) for a, b in pairs))
    a, b = x.numpy(), y.numpy()
    ks = [formulas.polynomial(p, q) for p, q in ((a, a), (b, b), (a, b))]
    tol.check(variance(sums), formulas.mmd_variance(*ks), relative=1e-9)


def test_full_se_is_the_spread_of_full(rng: Rng) -> None:
    """300 times: the mean square of full_se is full's variance to 4 of its own spreads, and full's mean the truth."""
    repetitions, found = 300, []
    for _ in range(repetitions):
        one = metrics.kid(rng.uniform(0, 1, (30, 2)), rng.uniform(0.2, 1.4, (50, 2)), 1, 2, full=True)
        found.append(one)
    full, se = np.array([(one.extra["full"], one.extra["full_se"]) for one in found]).T
    tol.check(np.mean(se**2), np.var(full, ddof=1), relative=4 * math.sqrt(2 / repetitions))
    x, y = (torch.from_numpy(rng.uniform(*ends, (20_000, 2))) for ends in ((0, 1), (0.2, 1.4)))
    truth = metrics.kid(x, y, 1, 2, full=True).extra["full"]
    tol.check(np.mean(full), truth, absolute=4 * np.std(full) / math.sqrt(repetitions))
    inside = [one.interval.lower <= truth <= one.interval.upper for one in found if one.interval is not None]
    assert len(inside) == repetitions
    assert 0.91 <= np.mean(inside) <= 0.98


# --- inputs that break lesser code ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(0.7, 0.3), (1.1, -1.1), (0.1, 0.1), (0.0, 0.0), (1e-30, 1e3)])
def test_constant_features_in_float32(a: float, b: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every float32 product is off the same way there, by up to 2e-6 with 2,048 features; the mean of a tile is not."""
    monkeypatch.setattr(kernel_tiles, "_SMALL", 0)
    d = 2048
    x, y = (torch.full((n, d), value, dtype=torch.float32) for n, value in ((300, a), (260, b)))
    p, q = float(x[0, 0]), float(y[0, 0])
    kxx, kyy, kxy = (p * p + 1) ** 3, (q * q + 1) ** 3, (p * q + 1) ** 3
    for plan in ((True, True), (False, False)):
        route(monkeypatch, *plan)
        got = metrics.kid(x, y, 3, 200)
        tol.check(float(got), kxx + kyy - 2 * kxy, absolute=tol.KERNEL_FLOAT32 * max(kxx, kyy))
        assert got.extra["std"] <= tol.KERNEL_FLOAT32 * max(kxx, kyy)


def test_means_far_above_the_spread(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_tiles, "_SMALL", 0)
    x = torch.from_numpy(1000 + rng.standard_normal((300, 64))).float()
    y = torch.from_numpy(1000 + 2 * rng.standard_normal((200, 64))).float()
    got = metrics.kid(x, y, 5, 100, full=True)
    a, b = formulas.exact(x), formulas.exact(y)
    want = [*formulas.kid(a, b, 5, 100, 2020, "torch-fidelity"), formulas.unbiased_mmd(a, b)]
    tol.check([float(got), got.extra["std"], got.extra["full"]], want, absolute=tol.KERNEL_FLOAT32 / 10 * scale(x, y))


def test_copies_of_the_reference(rng: Rng) -> None:
    """The value of a set beside itself is below zero and is not clamped; rows twice in a set count as two samples."""
    x = features(rng, 50, 7)
    got = metrics.kid(x, x.flip(0), 1, 50)
    assert float(got) < 0
    want = formulas.unbiased_mmd(x.numpy(), x.numpy())
    tol.check([float(got), got.extra["full"]], [want, want], absolute=1e-12)
    twice = torch.cat([x, x])
    want = formulas.unbiased_mmd(twice.numpy(), x.numpy())
    tol.check(metrics.kid(twice, x, 1, 2, full=True).extra["full"], want, absolute=1e-12)


def test_subsets_larger_than_a_set(rng: Rng) -> None:
    x, y = features(rng, 12, 3), features(rng, 30, 3)
    with pytest.warns(SmallSampleWarning, match="subset_size: 1000, but one set has 12"):
        got = metrics.kid(x, y)
    assert got.extra["subset_size"] == 12
    assert "1000" in got.notes[0]
    tol.check(float(got), formulas.kid(x.numpy(), y.numpy(), 100, 12, 2020, "torch-fidelity")[0], absolute=1e-12)


def test_too_few_for_an_error_and_a_variance_below_zero(rng: Rng) -> None:
    got = metrics.kid(features(rng, 3, 2), features(rng, 9, 2), 2, 2, full=True)
    assert got.extra["full"] is not None
    assert got.extra["full_se"] is None
    assert got.interval is None
    assert "4 samples" in got.notes[0]
    same = torch.ones(6, 2, dtype=torch.float64)
    constant = metrics.kid(same, same, 2, 3, full=True)
    assert (float(constant), constant.extra["full"], constant.extra["full_se"]) == (0.0, 0.0, 0.0)


BAD = [
    ({"ref": np.zeros((3, 2), dtype=int)}, TypeError, "ref: int64"),
    ({"ref": [[1.0]]}, TypeError, "ref: list"),
    ({"gen": np.zeros(4)}, ValueError, r"gen: shape \[4\]"),
    ({"gen": np.zeros((1, 2))}, ValueError, "gen: 1 rows; accepted: at least 2"),
    ({"ref": np.zeros((0, 2))}, ValueError, "ref: 0 rows"),
    ({"gen": np.zeros((4, 3))}, ValueError, "gen: 3 features; accepted: 2"),
    ({"gen": np.array([[1.0, 2.0], [np.nan, 0.0]])}, ValueError, "gen: row 1 has NaN"),
    ({"ref": Moments.from_features(np.eye(3))}, TypeError, "ref: Moments"),
    ({"convention": "mine"}, ValueError, "convention: 'mine'; accepted: torch-fidelity"),
    ({"convention": None}, ValueError, "convention: None"),
    ({"subset_size": 1}, ValueError, "subset_size must be at least 2"),
    ({"subsets": 0}, ValueError, "subsets must be at least 1"),
    ({"subsets": 1.5}, TypeError, "subsets must be a whole number"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"ref": np.full((3, 2), 1e200)}, ValueError, "overflows float64"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD)
def test_refusals(given: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"ref": np.ones((5, 2)), "gen": np.ones((4, 2)), "subset_size": 2, **given}
    with pytest.raises(error, match=message):
        metrics.kid(**arguments)


def test_nothing_else_is_touched(rng: Rng) -> None:
    """Neither the inputs nor the global generators; strides, read-only arrays and gradients are no matter."""
    x, y = features(rng, 40, 6), features(rng, 20, 6)
    legacy = np.random.get_state
    kept, states = (x.clone(), y.clone()), (legacy()[1].copy(), torch.get_rng_state())
    want = [float(metrics.kid(x, y, 3, 10, convention=one)) for one in CONVENTIONS]
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert np.array_equal(legacy()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    strided = torch.stack([x, x], dim=2)[:, :, 0]
    frozen = y.numpy().copy()
    frozen.setflags(write=False)
    for one, value in zip(CONVENTIONS, want, strict=True):
        assert float(metrics.kid(strided.requires_grad_(), frozen[::-1][::-1], 3, 10, convention=one)) == value


# --- MMD --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["rbf", "polynomial"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(("n", "m", "d", "sigma"), [(2, 3, 1, 1.0), (60, 90, 17, 10.0), (150, 20, 5, 0.1)])
def test_mmd_is_the_formula(
    kernel: str, biased: bool, dtype: torch.dtype, n: int, m: int, d: int, sigma: float, products: str, rng: Rng
) -> None:
    x, y = features(rng, n, d, dtype), features(rng, m, d, dtype) + 0.25
    got = metrics.mmd(x, y, kernel, sigma, 7.0, biased)
    a, b = formulas.exact(x), formulas.exact(y)
    k = [
        formulas.gaussian(p, q, sigma) if kernel == "rbf" else formulas.polynomial(p, q)
        for p, q in ((a, a), (b, b), (a, b))
    ]
    means = [*(one.mean() if biased else formulas.off_diagonal(one) for one in k[:2]), k[2].mean()]
    single = products == "float32 always" and dtype != torch.float64
    bound = (tol.KERNEL_FLOAT32 if single else tol.KERNEL_FLOAT64) * max(means)
    tol.check([got.extra[key] for key in ("k_xx", "k_yy", "k_xy")], means, absolute=bound)
    tol.check(float(got), 7.0 * (means[0] + means[1] - 2 * means[2]), absolute=14 * bound)


def test_mmd_of_equal_sets_and_of_points(rng: Rng) -> None:
    x = features(rng, 70, 9, torch.float32)
    assert float(metrics.mmd(x, x.clone())) == 0.0
    assert abs(float(metrics.mmd(x, x.flip(0)))) <= 1e-11
    assert float(metrics.mmd(x, x, biased=False)) < 0.0
    points = np.zeros((3, 2)), np.full((5, 2), 10.0)
    tol.check(float(metrics.mmd(*points)), 2000 * (1 - math.exp(-1.0)), relative=1e-13)
    tol.check(float(metrics.mmd(np.zeros((1, 1)), np.full((1, 1), 1e-6))), 1000 * 1e-14, relative=1e-9)


def test_mmd_takes_float64_where_float32_is_too_little(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two far clusters: distances within one are a millionth of the squared lengths."""
    monkeypatch.setattr(kernel_tiles, "_SMALL", 0)
    x = torch.from_numpy(rng.standard_normal((60, 8))).float()
    x[::2] += 5000
    y = x + 0.5
    want = [formulas.gaussian(formulas.exact(p), formulas.exact(q), 2.0).mean() for p, q in ((x, x), (y, y), (x, y))]
    tol.check(float(metrics.mmd(x, y, sigma=2.0, scale=1.0)), want[0] + want[1] - 2 * want[2], absolute=1e-11)
    near = torch.from_numpy(rng.standard_normal((60, 8))).float() / 10
    assert kernel_tiles.gaussian_sides(near, near + 0.01, 2.0)[0].rows.dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"kernel": "linear"}, ValueError, "kernel: 'linear'; accepted: rbf, polynomial"),
        ({"sigma": 0.0}, ValueError, "sigma: 0.0; accepted: above 0"),
        ({"sigma": "1"}, TypeError, "sigma must be a number"),
        ({"scale": math.inf}, ValueError, "scale: inf"),
        ({"ref": np.zeros((0, 2))}, ValueError, "ref: 0 rows"),
        ({"ref": np.ones((1, 2)), "biased": False}, ValueError, "ref: 1 rows; accepted: at least 2"),
    ],
)
def test_mmd_refuses(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metrics.mmd(**{"ref": np.ones((5, 2)), "gen": np.ones((4, 2)), **given})
