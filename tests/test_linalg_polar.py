"""The minimax quintics, the polar iteration with its enclosure, and the public polar and nuclear_norm."""

from __future__ import annotations

import numpy as np
import pytest
import spectra
import tolerances as tol
import torch

import fastfid
from fastfid.linalg import iteration, nuclear
from fastfid.linalg.coefficients import Quintic, composition, minimax_quintic
from fastfid.linalg.engine_torch import products
from fastfid.linalg.iteration import Products, polar_iteration
from fastfid.reference import linalg as plain
from fastfid.runtime.dispatch import report

Rng = np.random.Generator

PUBLISHED = (  # Polar Express, arXiv:2505.16932, implementation 1 in appendix A: ℓ = 1e-3
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)

SINGULAR_VALUES = {
    "power law": lambda d: np.arange(1.0, d + 1) ** -1,
    "steep power law": lambda d: np.arange(1.0, d + 1) ** -1.55,
    "logarithmic to 1e-5": lambda d: np.logspace(0, -5, d),
    "logarithmic to 1e-8": lambda d: np.logspace(0, -8, d),
    "logarithmic to 1e-16": lambda d: np.logspace(0, -16, d),
    "clustered": lambda d: np.r_[1.0, np.full(d - 1, 1e-3)],
    "two blocks 1e-4": lambda d: np.r_[np.ones(d - d // 2), np.full(d // 2, 1e-4)],
    "two blocks 1e-7": lambda d: np.r_[np.ones(d - d // 2), np.full(d // 2, 1e-7)],
    "rank deficient": lambda d: np.r_[np.ones(d - 2 * d // 3), np.zeros(2 * d // 3)],
    "zero": lambda d: np.zeros(d),
}


def matrix(name: str, d: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """(M [d, d], its nuclear norm)."""
    rng = np.random.default_rng([seed, d])
    values = SINGULAR_VALUES[name](d)
    return (spectra.orthogonal(d, rng) * values) @ spectra.orthogonal(d, rng).T, float(values.sum())


def test_published_coefficients() -> None:
    got = composition(1e-3)
    assert len(got) == len(PUBLISHED)
    for (p, _), want in zip(got, PUBLISHED, strict=True):
        np.testing.assert_allclose(tuple(p), want, rtol=1e-9)


@pytest.mark.parametrize("lower", [1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("upper", [1.0, 1.7])
def test_minimax_equioscillates(lower: float, upper: float) -> None:
    p = minimax_quintic(lower * upper, upper)
    x = np.linspace(lower * upper, upper, 200_001)
    error = 1.0 - np.array([p(value) for value in x])
    largest = np.abs(error).max()
    turns = np.sign(error[np.abs(error) > largest * (1 - 1e-6)])
    assert np.count_nonzero(np.diff(turns)) == 3  # four extremes of alternating sign: Chebyshev's criterion
    assert abs(abs(1.0 - p(lower * upper)) - largest) <= 1e-12 + 1e-9 * largest
    # no other odd quintic nearby does better
    for step in np.random.default_rng(0).standard_normal((20, 3)):
        other = Quintic(*(np.array(p) + 1e-3 * step * np.abs(np.array(p))))
        assert max(abs(1.0 - other(value)) for value in x[::500]) > largest * (1 - 1e-3)


@pytest.mark.parametrize(("lower", "steps"), [(1e-3, 8), (1e-4, 10), (1e-5, 11), (1e-8, 16), (0.999, 2)])
def test_composition_reaches_one(lower: float, steps: int) -> None:
    found = composition(lower)
    assert len(found) == steps
    x = np.geomspace(lower, 1.0, 20_001)
    for p, upper in found:
        assert upper * (1 - 1e-3) <= x.max() <= upper * (1 + 1e-12)
        x = np.array([p(value) for value in x])
        assert x.min() > 0
    np.testing.assert_allclose(x, 1.0, atol=1e-13)


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (0.5, float("inf"))])
def test_minimax_refuses(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match="accepted: 0 < lower ≤ upper"):
        minimax_quintic(lower, upper)


@pytest.mark.parametrize("d", [1, 5, 32, 131])
@pytest.mark.parametrize("name", SINGULAR_VALUES)
def test_nuclear_norm_spectra(name: str, d: int) -> None:
    m, want = matrix(name, d)
    for method in ("svd", "newton-schulz"):
        value, lower, upper = fastfid.nuclear_norm(m, method=method, bounds=True)
        tol.check(value, want, relative=tol.TRACE_FLOAT64, absolute=1e-300, what=method)
        slack = d * tol.EPS  # of the test's own matrix product, against its largest singular value
        assert lower - slack <= want <= upper + slack
        assert upper - lower <= 1e-9 * want + 1e-300


@pytest.mark.parametrize("d", [5, 32, 131])
@pytest.mark.parametrize("name", SINGULAR_VALUES)
def test_mixed_precision_counts_only_where_it_is_tight(name: str, d: int) -> None:
    m, want = matrix(name, d)
    found = nuclear.by_newton_schulz(torch.from_numpy(m)[None], torch.zeros(1), 1e-5, precision="mixed")
    assert found.tight(nuclear.NS_RTOL)
    tol.check(float(found.value), want, relative=tol.TRACE_AUTO, absolute=1e-300, what=found.precision)
    slack = d * tol.EPS
    assert float(found.lower) - slack <= want <= float(found.upper) + slack
    if name in ("power law", "steep power law", "clustered"):  # like real features: float32 is enough
        assert found.precision == "mixed"
    if name in ("two blocks 1e-7", "logarithmic to 1e-16"):  # it has lost the tail, and knows
        assert found.precision == "float64"


def test_stopping_is_by_the_enclosure_not_by_a_count() -> None:
    steps = {name: _iterate(name, 64).steps for name in ("power law", "logarithmic to 1e-8", "logarithmic to 1e-16")}
    assert steps["power law"] == 11
    assert steps["logarithmic to 1e-8"] == 21
    assert steps["logarithmic to 1e-16"] >= 21


def _iterate(name: str, d: int, engine: Products | None = None) -> iteration.PolarIterate:
    m = torch.from_numpy(matrix(name, d)[0])[None]
    return polar_iteration(m, engine or Products(*products()), rtol=1e-8, rounding=torch.zeros(1), precision="float64")


def test_a_wrong_engine_cannot_pass_for_a_right_one() -> None:
    good = Products(*products())
    broken = Products(lambda x: good.gram(x) * 0.97, good.quadratic, good.multiply)
    found = _iterate("power law", 32, broken)
    _, want = matrix("power law", 32)
    assert not found.tight(1e-8)
    assert float(found.upper) >= want * (1 - 1e-14)


def test_bounds_hold_for_unconverged_iterates() -> None:
    # what a stage leaves unconverged must show in the width, whatever the tail
    for seed in range(200):
        rng = np.random.default_rng(seed)
        d = int(rng.integers(1, 9))
        values = 10.0 ** -rng.uniform(0, 14, d)
        m = torch.from_numpy((spectra.orthogonal(d, rng) * values) @ spectra.orthogonal(d, rng).T)[None]
        x = m / torch.linalg.matrix_norm(m)
        stage = composition(1e-2)
        x, spectral = iteration._apply(
            x, stage[: rng.integers(0, len(stage) + 1)], 1.0 + 1e-14, Products(*products()), 2**-53
        )
        assert float(torch.linalg.matrix_norm(x, 2)) <= spectral
        found = iteration._bounds(x, m, torch.zeros(1), 0, "float64")
        want = float(spectra.exact_nuclear_norms(m.numpy())[0])
        assert float(found.lower) <= want <= float(found.upper)


def test_each_term_of_the_bounds_counts(rng: Rng) -> None:
    """With an exact polar factor what is left is rounding: it widens both sides, by its size and not by 1e3 of it."""
    p, q = 12, 5
    m = rng.standard_normal((1, p, q))
    u, _, vh = np.linalg.svd(m, full_matrices=False)
    given, factor = torch.from_numpy(m), torch.from_numpy(u @ vh)
    bare = iteration._bounds(factor, given, torch.zeros(1), 0, "float64")
    sums = (2 * p.bit_length() + 2 + 2 * q.bit_length() + 2) * 2.0**-53 * np.sqrt(q) * np.linalg.norm(m)
    assert sums <= float(bare.value - bare.lower) <= 3 * sums + 1e-12 * float(bare.value)
    assert 0 < float(bare.upper - bare.value) <= 300 * sums + 1e-12 * float(bare.value)
    with pytest.MonkeyPatch.context() as patch:  # without the norm of the factor, the sums' own rounding is left
        patch.setattr(iteration, "_spectral", lambda u: torch.ones(1, dtype=torch.float64))
        alone = iteration._bounds(factor, given, torch.zeros(1), 0, "float64")
    assert sums <= float(alone.value - alone.lower) <= 3 * sums
    for size in (1e-9, 1e-3):
        known = iteration._bounds(factor, given, torch.tensor([size], dtype=torch.float64), 0, "float64")
        for moved in (bare.lower - known.lower, known.upper - bare.upper):
            tol.check(float(moved), size * np.sqrt(q), relative=1e-5)
    half = iteration._bounds(factor / 2, given, torch.zeros(1), 0, "float64")  # twice the norm is still to be found
    assert float(half.lower) <= float(bare.value) / 2 * (1 + 1e-12)
    assert float(half.upper) >= float(bare.value) * (1 - 1e-12)
    double = iteration._bounds(factor * 2, given, torch.zeros(1), 0, "float64")  # too long a factor proves no more
    assert float(double.lower) <= float(bare.value)


@pytest.mark.parametrize("method", ["svd", "newton-schulz"])
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (9, 4), (4, 9), (3, 2, 6, 5), (0, 3, 3), (40, 40)], ids=str)
def test_polar_properties(shape: tuple[int, ...], method: str, rng: Rng) -> None:
    m = rng.standard_normal(shape)
    u, h, _ = fastfid.polar(m, method=method)
    assert u.shape == m.shape
    p, q = shape[-2:]
    assert h.shape == (*shape[:-2], q, q)
    bound = tol.POLAR * max(p, q) * tol.EPS
    for one, factor, positive in zip(m.reshape(-1, p, q), u.reshape(-1, p, q), h.reshape(-1, q, q), strict=True):
        small = factor.T @ factor if p >= q else factor @ factor.T
        assert np.linalg.norm(small - np.eye(min(p, q))) <= bound
        assert np.linalg.norm(factor @ positive - one) <= bound * np.linalg.norm(one)
        np.testing.assert_array_equal(positive, (positive + positive.T) / 2)
        assert np.linalg.eigvalsh(positive)[0] >= -bound * np.linalg.norm(one)
        want_u, want_h = plain.polar(one)
        tol.check(positive, want_h, relative=bound * 10)
        if p == q and np.linalg.cond(one) < 1e3:
            tol.check(factor, want_u, relative=1e-11)


@pytest.mark.parametrize("method", ["svd", "newton-schulz"])
@pytest.mark.parametrize("condition", [1e3, 1e8, 1e12])
def test_polar_of_ill_conditioned(condition: float, method: str, rng: Rng) -> None:
    d = 48
    m = (spectra.orthogonal(d, rng) * np.geomspace(1, 1 / condition, d)) @ spectra.orthogonal(d, rng).T
    u, h, _ = fastfid.polar(m, method=method)
    assert np.linalg.norm(u.T @ u - np.eye(d)) <= tol.POLAR * d * tol.EPS
    assert np.linalg.norm(u @ h - m) <= tol.POLAR * d * tol.EPS * np.linalg.norm(m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kind_and_dtype_come_back(dtype: torch.dtype, rng: Rng) -> None:
    m = torch.from_numpy(rng.standard_normal((5, 5))).to(dtype)
    before = m.clone()
    u, h, _ = fastfid.polar(m)
    assert (u.dtype, h.dtype) == (dtype, dtype)
    assert isinstance(fastfid.polar(m.numpy()).u, np.ndarray)
    assert fastfid.polar(m.numpy()).u.dtype == m.numpy().dtype
    assert fastfid.nuclear_norm(m).dtype == torch.float64
    assert isinstance(fastfid.nuclear_norm(m.numpy()), float)
    assert torch.equal(m, before)


@pytest.mark.parametrize("power", [-280, -160, 160, 280])
def test_scaled_to_the_ends_of_float64(power: int, rng: Rng) -> None:
    m = rng.standard_normal((2, 5, 4))
    scale = 2.0 ** np.floor(power / np.log10(2))
    for method in ("svd", "newton-schulz"):
        plain_bounds = fastfid.nuclear_norm(m, method=method, bounds=True)
        for got, want in zip(fastfid.nuclear_norm(m * scale, method=method, bounds=True), plain_bounds, strict=True):
            tol.check(got / scale, want, relative=1e-14)
        u, h, _ = fastfid.polar(m * scale, method=method)
        tol.check(u, fastfid.polar(m, method=method).u, relative=1e-13)
        tol.check(u @ (h / scale), m, relative=1e-13)


@pytest.mark.parametrize(("switch", "taken"), [("highest", "mixed"), ("medium", "float64")])
def test_float32_steps_are_left_out_where_a_switch_narrows_them(switch: str, taken: str) -> None:
    m, want = matrix("power law", 64)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(switch)
    try:
        found = nuclear.by_newton_schulz(torch.from_numpy(m)[None], torch.zeros(1), 1e-5, precision="mixed")
        assert torch.get_float32_matmul_precision() == switch
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.precision == taken
    tol.check(float(found.value), want, relative=tol.TRACE_AUTO)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"m: shape \[3\]"):
        fastfid.polar(np.zeros(3))
    with pytest.raises(ValueError, match="m: NaN"):
        fastfid.nuclear_norm(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="method: 'qr'; accepted: auto, svd, newton-schulz"):
        fastfid.polar(np.eye(2), method="qr")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("d", [5, 131, 512])
def test_engines_on_the_gpu(backend: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTFID_BACKEND_POLAR_PRODUCTS", backend)
    reason = report("polar_products", "cuda")[backend]
    if reason is not None:  # this Triton can't compile them for this GPU
        pytest.skip(reason)
    for name in SINGULAR_VALUES:
        m, want = matrix(name, d)
        for precision in ("float64", "mixed"):
            found = nuclear.by_newton_schulz(
                torch.from_numpy(m)[None].cuda(), torch.zeros(1).cuda(), 1e-5, precision=precision
            )
            assert found.tight(nuclear.NS_RTOL)
            tol.check(float(found.value), want, relative=tol.TRACE_AUTO, absolute=1e-300, what=name)


def test_memory_of_a_distance() -> None:
    """Every allocation and release of d×d float64 or more, as the profiler sees them, the operators' own included."""
    d = 256
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 2 * d, d, dtype=torch.float64, generator=generator)
    first, second = (x.T @ x / (2 * d) for x in rows)  # symmetric to rounding only, so that copies are made
    mean = torch.zeros(d, dtype=torch.float64)
    fastfid.frechet(mean, first, mean, second, method="newton-schulz")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        found = fastfid.frechet(mean, first, mean, second, method="newton-schulz")
    assert (found.method, found.notes) == ("newton-schulz", ())
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    matrices = np.cumsum([size / (8 * d * d) for size in sizes if abs(size) >= 8 * d * d])
    assert matrices[-1] == 0.0
    assert 5.0 <= matrices.max() <= tol.POLAR_MATRICES  # x, A, R and the factors at least, or it did not count
