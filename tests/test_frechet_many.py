"""Distances from Moments, the low-rank route, and one reference against many."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import spectra
import tolerances as tol
import torch

import fastfid
from fastfid.reference.frechet import frechet_distance as plain_distance
from fastfid.reference.linalg import nuclear_norm

Rng = np.random.Generator


def features(rng: Rng, n: int, d: int) -> np.ndarray:
    return rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.75 + 0.4


def moments(x: np.ndarray, **options: bool) -> fastfid.Moments:
    made = fastfid.Moments(x.shape[1], **options)
    made.update(x)
    return made


@pytest.mark.parametrize(("n1", "n2"), [(2, 2), (5, 60), (60, 5), (30, 40), (64, 64), (65, 64), (200, 300), (20, 400)])
@pytest.mark.parametrize("ddof", [1, 0, (1, 0)], ids=str)
def test_low_rank_equals_the_full_route(n1: int, n2: int, ddof: int | tuple[int, int], rng: Rng) -> None:
    x, y = features(rng, n1, 64), features(rng, n2, 64)
    got = fastfid.frechet_moments(moments(x), moments(y), ddof=ddof)
    ddofs = (ddof, ddof) if isinstance(ddof, int) else ddof
    want = plain_distance(x.mean(0), np.cov(x.T, ddof=ddofs[0]), y.mean(0), np.cov(y.T, ddof=ddofs[1]))
    traces = np.trace(np.cov(x.T, ddof=ddofs[0])) + np.trace(np.cov(y.T, ddof=ddofs[1]))
    tol.check(float(got), want, absolute=tol.TRACE_FLOAT64 * traces)
    assert got.method == ("low-rank" if min(n1, n2) <= 64 else "eigvalsh")
    assert (got.rank1, got.rank2) == (min(n1 - 1, 64), min(n2 - 1, 64))
    full = fastfid.frechet_moments(moments(x, keep_rows=False), moments(y, keep_rows=False), ddof=ddof)
    assert full.method in ("eigvalsh", "svd")
    tol.check(float(full), want, absolute=tol.TRACE_FLOAT64 * traces)


@pytest.mark.parametrize(("n1", "n2"), [(3, 4), (20, 31), (50, 10)])
def test_low_rank_against_the_samples(n1: int, n2: int, rng: Rng) -> None:
    # mean/std 1e5: the covariance has lost ten digits to rounding, the samples have not
    x, y = (features(rng, n, 64) + 1e5 * rng.uniform(size=64) for n in (n1, n2))
    centred = [(a - a.mean(0)) / np.sqrt(len(a) - 1) for a in (x, y)]
    want = nuclear_norm(centred[0] @ centred[1].T)
    for certify in (None, True):
        got = fastfid.frechet_moments(moments(x), moments(y), certify=certify)
        tol.check(got.trace_root, want, relative=1e-9 if certify is None else 1e-10)


def test_duplicated_samples(rng: Rng) -> None:
    x = np.repeat(features(rng, 3, 20), 4, axis=0)
    y = features(rng, 15, 20)
    got = fastfid.frechet_moments(moments(x), moments(y))
    want = plain_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    tol.check(float(got), want, relative=1e-10)


def test_same_samples_give_zero(rng: Rng) -> None:
    x = features(rng, 10, 20)
    got = fastfid.frechet_moments(moments(x), moments(x.copy()))
    assert (float(got), got.method) == (0.0, "equal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastfid.errors.NumericalWarning)
        shuffled = fastfid.frechet_moments(moments(x), moments(x[::-1].copy()))
    assert shuffled.lower <= 0.0 <= shuffled.upper
    assert abs(shuffled) < 1e-12


def test_low_rank_is_symmetric(rng: Rng) -> None:
    for n1, n2 in ((10, 20), (10, 100), (20, 20)):
        a, b = moments(features(rng, n1, 40)), moments(features(rng, n2, 40))
        assert float(fastfid.frechet_moments(a, b)) == float(fastfid.frechet_moments(b, a))


def test_float32_means(rng: Rng) -> None:
    x, y = features(rng, 100, 8), features(rng, 90, 8) + 0.1
    got = fastfid.frechet_moments(moments(x), moments(y), mean_dtype="float32")
    gap = x.mean(0).astype(np.float32).astype(np.float64) - y.mean(0).astype(np.float32).astype(np.float64)
    tol.check(got.mean_term, gap @ gap, relative=1e-12)


def test_statistics_without_a_count(rng: Rng) -> None:
    x, y = features(rng, 100, 8), features(rng, 5, 8)
    foreign = fastfid.Moments.from_statistics(x.mean(0), np.cov(x.T))
    want = fastfid.frechet_moments(moments(x), moments(y), certify=True)
    tol.check(float(fastfid.frechet_moments(foreign, moments(y), certify=True)), float(want), relative=1e-12)
    indefinite = fastfid.Moments.from_statistics(np.zeros(8), np.diag([1.0] * 7 + [-1.0]))
    with pytest.raises(fastfid.errors.NotPSDError, match="ref: not positive semi-definite"):
        fastfid.frechet_moments(indefinite, moments(y))


def test_refusals(rng: Rng) -> None:
    x = moments(features(rng, 5, 8))
    with pytest.raises(TypeError, match="gen: ndarray"):
        fastfid.frechet_moments(x, np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gen: 4 features; accepted: 8"):
        fastfid.frechet_moments(x, moments(features(rng, 5, 4)))
    with pytest.raises(ValueError, match="gen: 1 samples; a covariance with ddof = 1 needs at least 2"):
        fastfid.frechet_moments(x, moments(features(rng, 1, 8)))
    with pytest.raises(ValueError, match="ref: 0 samples"):
        fastfid.frechet_moments(fastfid.Moments(8), x)
    with pytest.raises(ValueError, match="mean_dtype: 'half'"):
        fastfid.frechet_moments(x, x, mean_dtype="half")
    many = moments(features(rng, 50, 8))
    with pytest.raises(ValueError, match="'low-rank' needs the samples"):
        fastfid.frechet_moments(many, many, method="low-rank")


@pytest.mark.parametrize("method", ["auto", "newton-schulz", "svd"])
def test_many_equals_one_by_one(method: str, rng: Rng) -> None:
    d = 24
    mu, sigma = rng.standard_normal(d), spectra.covariance(spectra.pair("power law", d)[0])
    reference = fastfid.FrechetReference(mu, sigma)
    candidates: list[object] = [
        (rng.standard_normal(d), spectra.covariance(spectra.pair("logarithmic to 1e-5", d, seed)[0]))
        for seed in range(5)
    ]
    candidates += [(mu, sigma), moments(features(rng, 9, d)), moments(features(rng, 90, d)), reference]
    found = fastfid.frechet_many(reference, candidates, method=method)
    assert len(found) == 9
    for one, got in zip(candidates[:6], found[:6], strict=True):
        want = fastfid.frechet(mu, sigma, *one, method=method)
        tol.check(float(got), float(want), absolute=1e-12 * np.trace(sigma))
        assert got.method == want.method
    assert (float(found[5]), float(found[8])) == (0.0, 0.0)
    for one, got in zip(candidates[6:8], found[6:8], strict=True):
        want = fastfid.frechet(mu, sigma, one.mean, one.cov(), certify=True)
        tol.check(float(got), float(want), relative=1e-10)
    for got in found:
        assert got.lower <= got <= got.upper
    assert fastfid.frechet_many(reference, []) == []


def test_many_hands_single_stragglers_over(rng: Rng) -> None:
    d = 24
    reference = fastfid.FrechetReference(np.zeros(d), np.eye(d))
    zero = np.zeros(d)
    found = fastfid.frechet_many(
        reference, [(zero, 2 * np.eye(d)), (zero, np.zeros((d, d)))], method="newton-schulz", rtol=1e-14
    )
    assert [r.method for r in found] == ["svd", "newton-schulz"]
    assert "handed over" in found[0].notes[0]
    tol.check(float(found[1]), d, relative=1e-14)


def test_the_reference_factor_is_made_once(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastfid.distance.gaussian as gaussian

    calls = []
    real = gaussian.factor
    monkeypatch.setattr(gaussian, "factor", lambda sigma, name, **how: calls.append(name) or real(sigma, name, **how))
    reference = fastfid.FrechetReference(np.zeros(6), np.diag(np.arange(1.0, 7)))
    for k in range(3):
        fastfid.frechet_many(reference, [(np.zeros(6), (k + 1) * np.eye(6))])
    assert calls.count("sigma") == 1


def test_the_reference_survives_pickling_with_its_factor(rng: Rng) -> None:
    reference = fastfid.FrechetReference(np.zeros(6), np.diag(np.arange(1.0, 7)))
    candidate = (np.ones(6), np.eye(6))
    want = float(fastfid.frechet_many(reference, [candidate])[0])
    back = pickle.loads(pickle.dumps(reference))
    assert "proven" in vars(back)
    assert float(fastfid.frechet_many(back, [candidate])[0]) == want


def test_many_names_the_candidate() -> None:
    reference = fastfid.FrechetReference(np.zeros(2), np.eye(2))
    good = (np.zeros(2), np.eye(2) * 2)
    with pytest.raises(ValueError, match=r"candidates\[1\]\[1\]: NaN"):
        fastfid.frechet_many(reference, [good, (np.zeros(2), np.full((2, 2), np.nan))])
    with pytest.raises(ValueError, match=r"candidates\[1\]\[1\]: 3 features; accepted: 2"):
        fastfid.frechet_many(reference, [good, (np.zeros(3), np.eye(3))])
    with pytest.raises(TypeError, match=r"candidates\[0\]: int"):
        fastfid.frechet_many(reference, [1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="ref: tuple"):
        fastfid.frechet_many(good, [good])  # type: ignore[arg-type]


def test_expected_bias_of_small_samples(rng: Rng) -> None:
    # E[FID_n] ≈ FID + s²d/n + s·d(d+1)/(4n) for N(0, s²I) against N(0, I): Chong & Forsyth's 1/n law in closed form
    d, n = 32, 2000
    reference = fastfid.FrechetReference(np.zeros(d), np.eye(d))
    found = fastfid.frechet_many(reference, [moments(rng.standard_normal((n, d))) for _ in range(8)])
    want = d / n + d * (d + 1) / (4 * n)
    tol.check(np.mean([float(r) for r in found]), want, relative=0.05)


@pytest.mark.gpu
def test_on_the_gpu(rng: Rng) -> None:
    d = 257
    sigmas = [
        spectra.covariance(spectra.pair(name, d)[0]) for name in ("power law", "logarithmic to 1e-5", "clustered")
    ]
    want = fastfid.frechet(np.zeros(d), sigmas[0], np.ones(d), sigmas[1], certify=True)
    on_gpu = [torch.from_numpy(s).cuda() for s in sigmas]
    zero, one = torch.zeros(d).cuda(), torch.ones(d).cuda()
    first = fastfid.frechet(zero, on_gpu[0], one, on_gpu[1])
    assert first.method == "newton-schulz"
    assert abs(first - want) <= 1e-8 * want.trace_root
    assert first.upper - first.lower <= 2.1e-8 * want.trace_root
    assert float(first) == float(fastfid.frechet(zero, on_gpu[0], one, on_gpu[1]))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    large = torch.eye(1024, dtype=torch.float64).cuda()
    fastfid.frechet(torch.zeros(1024).cuda(), large * 2, torch.zeros(1024).cuda(), large)
    assert torch.cuda.max_memory_allocated() - before <= (11 + 2) * 8 * 1024**2 * 1.1  # eleven, and the two given
    many = fastfid.frechet_many(fastfid.FrechetReference(zero, on_gpu[0]), [(one, s) for s in on_gpu])
    assert abs(many[1] - want) <= 1e-8 * want.trace_root
    assert float(many[0]) == d
