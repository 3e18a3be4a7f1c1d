"""The distance: closed forms, symmetry, handovers, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest
import spectra
import tolerances as tol
import torch

import fastfid
from fastfid.errors import NotPSDError, NumericalWarning
from fastfid.reference.frechet import frechet_distance as plain_distance

Rng = np.random.Generator
ROUTES = spectra.ROUTES
quiet = spectra.quiet
NO_NUMBERS = ("3", [3], None, 3j, b"3", {}, object(), (1, 2, 3), np.arange(2), torch.ones(1), float("nan"), True, -1)


def test_identity_is_exact() -> None:
    # pytorch-fid's own published case, tests/test_fid_score.py::test_calculate_fid_given_statistics
    d = 2048
    m1, m2, sigma = np.zeros(d), np.ones(d), np.eye(d)
    assert fastfid.frechet_distance(m1, sigma, m2, sigma.copy()) == np.sum((m1 - m2) ** 2) == 2048.0


def test_published_small_cases() -> None:
    # physicsnemo test/metrics/diffusion/test_fid.py
    got = fastfid.frechet_distance([1, 2], [[1, 0.5], [0.5, 2]], [0, 1], [[2, 0.3], [0.3, 1.5]])
    tol.check(got, 2.2347582206083363, relative=1e-15)
    # MONAI tests/metrics/test_compute_fid_metric.py
    x, y = np.array([[1.0, 2.0]] * 3), np.array([[2.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    got = fastfid.frechet_moments(fastfid.Moments.from_features(x), fastfid.Moments.from_features(y))
    tol.check(got, 4 / 9, relative=1e-14)
    tol.check(fastfid.frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T)), 4 / 9, relative=1e-14)


def test_one_dimension_in_closed_form(rng: Rng) -> None:
    for _ in range(50):
        m, s = rng.standard_normal(2), rng.uniform(0.1, 3, 2)
        want = (m[0] - m[1]) ** 2 + (s[0] - s[1]) ** 2
        got = fastfid.frechet([m[0]], [[s[0] ** 2]], [m[1]], [[s[1] ** 2]])
        tol.check(got, want, absolute=1e-14)


def test_commuting_covariances_in_closed_form(rng: Rng) -> None:
    q = spectra.orthogonal(40, rng)
    a, b = 10.0 ** rng.uniform(-4, 0, (2, 40))
    got = fastfid.frechet(np.zeros(40), (q * a) @ q.T, np.zeros(40), (q * b) @ q.T)
    tol.check(got, ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), absolute=1e-12)


@pytest.mark.parametrize("name", spectra.SPECTRA)
@pytest.mark.parametrize(("method", "certify"), ROUTES)
def test_symmetric(name: str, method: str, certify: bool | None, rng: Rng) -> None:
    f1, f2 = spectra.pair(name, 23)
    mu1, mu2 = rng.standard_normal((2, 23))
    s1, s2 = spectra.covariance(f1), spectra.covariance(f2)
    there = quiet(mu1, s1, mu2, s2, method=method, certify=certify)
    back = quiet(mu2, s2, mu1, s1, method=method, certify=certify)
    tol.check(float(there), float(back), absolute=tol.SYMMETRY * (np.trace(s1) + np.trace(s2)))


def test_rotation_invariance(rng: Rng) -> None:
    f1, f2 = spectra.pair("logarithmic to 1e-5", 50)
    mu1, mu2 = rng.standard_normal((2, 50))
    q = spectra.orthogonal(50, rng)
    s1, s2 = spectra.covariance(f1), spectra.covariance(f2)
    turned = fastfid.frechet(q @ mu1, spectra.covariance(q @ f1), q @ mu2, spectra.covariance(q @ f2))
    tol.check(float(turned), float(fastfid.frechet(mu1, s1, mu2, s2)), absolute=tol.ROTATION * np.trace(s1 + s2))


@pytest.mark.parametrize("name", spectra.SPECTRA)
def test_identical_is_zero(name: str) -> None:
    sigma = spectra.covariance(spectra.pair(name, 30)[0])
    got = fastfid.frechet(np.ones(30), sigma, np.ones(30), sigma.copy())
    assert (float(got), got.lower, got.upper, got.method) == (0.0, 0.0, 0.0, "equal")


def test_nearly_identical_keeps_its_digits() -> None:
    # by construction the distance is ‖√A − √B‖² of diagonal matrices, 1e-6 of the trace and less
    a = np.arange(1.0, 65) ** -1
    for change in (1e-3, 1e-5, 1e-7):
        b = a * (1 + change * np.cos(np.arange(64)))
        want = float(np.sum((np.sqrt(a) - np.sqrt(b)) ** 2))
        got = quiet(np.zeros(64), np.diag(a), np.zeros(64), np.diag(b))
        tol.check(got.value, want, absolute=1e-14)
        assert got.lower <= want <= got.upper


def test_a_value_below_zero_says_so() -> None:
    # distances of the size of rounding: some come out negative, each of those with a warning and a note
    negative = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sigma = spectra.covariance(spectra.orthogonal(20, rng) * np.arange(1.0, 21) ** -0.5)
        other = sigma.copy()
        other[0, 0] *= 1 + 4 * tol.EPS
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = fastfid.frechet(np.zeros(20), sigma, np.zeros(20), other)
        assert got.lower <= 0.0 <= got.upper
        if got < 0:
            negative += 1
            assert any("below zero by rounding" in str(w.message) for w in caught)
            assert any("below zero by rounding" in note for note in got.notes)
        else:
            assert not any("below zero" in str(w.message) for w in caught)
        # one rounding of an entry moves a distance of zero by all of it: the narrowest interval, and a word
        assert any("no route gives a narrower one" in str(w.message) for w in caught)
        assert (got.method, got.proof) == ("svd", "proven")
        assert got.upper < 1e-11 * got.trace_root
    assert negative > 0


@pytest.mark.parametrize("bits", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["numpy", "torch", "mixed"])
def test_kinds_of_input(rng: Rng, bits: type, kind: str) -> None:
    d = 9
    arrays = [
        rng.standard_normal(d),
        np.diag(rng.uniform(1, 2, d)),
        rng.standard_normal(d),
        np.diag(rng.uniform(1, 2, d)),
    ]
    arrays = [a.astype(bits) for a in arrays]
    want = plain_distance(*(a.astype(np.float64) for a in arrays))
    given = [torch.from_numpy(a) if kind == "torch" or (kind == "mixed" and i % 2) else a for i, a in enumerate(arrays)]
    before = [np.array(a, copy=True) for a in arrays]
    got = fastfid.frechet_distance(*given)
    assert type(got) is float
    tol.check(got, want, relative=1e-12)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_read_only_strided_and_big_endian_input(rng: Rng) -> None:
    sigma = spectra.covariance(rng.standard_normal((6, 6)))
    big = np.zeros((12, 12))
    big[::2, ::2] = sigma
    view = big[::2, ::2]
    view.flags.writeable = False
    want = fastfid.frechet_distance(np.zeros(6), sigma, np.ones(6), np.eye(6))
    assert fastfid.frechet_distance(np.zeros(6), view, np.ones(6), np.eye(6)) == want
    assert fastfid.frechet_distance(np.zeros(6), sigma.astype(">f8"), np.ones(6), np.eye(6)) == want
    assert fastfid.frechet_distance(np.zeros(6), np.asfortranarray(sigma), np.ones(6), np.eye(6), eps=1.0) == want


GOOD = (np.zeros(3), np.eye(3), np.zeros(3), 2 * np.eye(3))


@pytest.mark.parametrize(
    ("position", "bad", "error", "message"),
    [
        (0, 0.0, ValueError, r"mu1: shape \[\]"),
        (1, 1.0, ValueError, r"sigma1: shape \[\]"),
        (0, np.zeros((3, 1)), ValueError, r"mu1: shape \[3, 1\]"),
        (2, np.zeros(4), ValueError, "mu2: 4 entries; accepted: 3"),
        (1, np.zeros((3, 2)), ValueError, r"sigma1: shape \[3, 2\]"),
        (3, np.zeros(3), ValueError, r"sigma2: shape \[3\]"),
        (3, np.eye(4), ValueError, "mu2: 3 entries; accepted: 4"),
        (0, np.array([0, np.nan, 0]), ValueError, r"mu1: NaN or infinity at index \(1,\)"),
        (2, np.array([0, 0, np.inf]), ValueError, r"mu2: NaN or infinity at index \(2,\)"),
        (1, np.diag([1, np.nan, 1]), ValueError, r"sigma1: NaN or infinity at index \(1, 1\)"),
        (3, np.diag([1, 1, -np.inf]), ValueError, r"sigma2: NaN or infinity at index \(2, 2\)"),
        (1, np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]), ValueError, "sigma1: not symmetric"),
        (3, -np.eye(3), NotPSDError, "sigma2: not positive semi-definite"),
        (1, np.diag([1, 1, -1e-3]), NotPSDError, "sigma1: not positive semi-definite"),
        (1, np.eye(3) * 1j, TypeError, "sigma1: .*complex"),
        (1, np.zeros((0, 0)), ValueError, r"sigma1: shape \[0, 0\]"),
        (0, ["a", "b", "c"], TypeError, "mu1"),
        (1, torch.eye(3, dtype=torch.complex64), TypeError, "sigma1"),
    ],
)
def test_bad_input_is_named(position: int, bad: object, error: type[Exception], message: str) -> None:
    given = list(GOOD)
    given[position] = bad
    with pytest.raises(error, match=message):
        fastfid.frechet_distance(*given)


def test_dimensions_that_differ_between_the_sides() -> None:
    with pytest.raises(ValueError, match="sigma2: 4 features; accepted: 3"):
        fastfid.frechet_distance(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4))


def test_overflow_is_an_error_not_infinity() -> None:
    with pytest.raises(ValueError, match="overflows"):
        fastfid.frechet_distance([1e200], [[1.0]], [-1e200], [[1.0]])


def test_rounding_asymmetry_and_negative_rounding_are_accepted(rng: Rng) -> None:
    f = rng.standard_normal((12, 5))
    sigma = f @ f.T
    lopsided = sigma * (1 + 1e-15 * rng.standard_normal((12, 12)))
    want = fastfid.frechet_distance(np.zeros(12), sigma, np.zeros(12), np.eye(12))
    tol.check(fastfid.frechet_distance(np.zeros(12), lopsided, np.zeros(12), np.eye(12)), want, relative=1e-12)


def test_float32_sized_defects_are_reported(rng: Rng) -> None:
    f = rng.standard_normal((12, 5))
    sigma = f @ f.T + np.eye(12)
    noise = 1e-7 * rng.standard_normal((12, 12))
    with pytest.warns(NumericalWarning, match="sigma1 was symmetrised"):
        fastfid.frechet(np.zeros(12), sigma * (1 + noise), np.zeros(12), np.eye(12))
    shifted = f @ f.T - 1e-6 * np.eye(12)
    with pytest.warns(NumericalWarning, match="sigma2 has negative eigenvalues down to -"):
        got = fastfid.frechet(np.zeros(12), np.eye(12), np.zeros(12), shifted)
    assert got.rank2 == 5
    assert any("negative eigenvalues" in note for note in got.notes)


def test_eigvalsh_hands_over_where_the_square_loses_digits() -> None:
    f1, f2 = spectra.pair("logarithmic to 1e-10", 40)
    got = quiet(np.zeros(40), spectra.covariance(f1), np.zeros(40), spectra.covariance(f2), method="eigvalsh")
    assert got.method == "svd"
    assert "handed over to svd" in got.notes[0]


def test_wide_enclosures_hand_over() -> None:
    f1, f2 = spectra.pair("logarithmic to 1e-5", 40)
    given = (np.zeros(40), spectra.covariance(f1), np.zeros(40), spectra.covariance(f2))
    assert fastfid.frechet(*given).method == "eigvalsh"
    tight = fastfid.frechet(*given, rtol=1e-12)
    assert tight.method == "svd"
    assert "wider than rtol" in tight.notes[0]
    polar = fastfid.frechet(*given, method="newton-schulz", rtol=1e-13)
    assert polar.method == "svd"
    assert "newton-schulz handed over" in polar.notes[0]


def test_a_solver_that_breaks_down_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr("fastfid.linalg.nuclear.by_eigenvalues", fail)
    got = fastfid.frechet(*GOOD, method="eigvalsh")
    assert got.method == "svd"
    assert "broke down and handed over to svd: did not converge" in got.notes[0]
    tol.check(got, 3 * (math.sqrt(2) - 1) ** 2, relative=1e-14)


def test_certified_interval_is_tight() -> None:
    f1, f2 = spectra.pair("logarithmic to 1e-5", 64)
    given = (np.zeros(64), spectra.covariance(f1), np.zeros(64), spectra.covariance(f2))
    plain, sure = fastfid.frechet(*given), fastfid.frechet(*given, certify=True)
    assert sure.upper - sure.lower < 1e-11 * sure.trace_root
    assert plain.upper - plain.lower > 10 * (sure.upper - sure.lower)


def test_deterministic(rng: Rng) -> None:
    f1, f2 = spectra.pair("samples n<d, one side", 60)
    given = (np.zeros(60), spectra.covariance(f1), np.zeros(60), spectra.covariance(f2))
    for method, certify in ROUTES:
        results = {float(fastfid.frechet(*given, method=method, certify=certify)) for _ in range(3)}
        assert len(results) == 1


def test_unknown_choices_are_named() -> None:
    with pytest.raises(ValueError, match="method: 'sqrtm'; accepted: auto, eigvalsh"):
        fastfid.frechet(*GOOD, method="sqrtm")
    with pytest.raises(ValueError, match="method: 'low-rank'"):
        fastfid.frechet(*GOOD, method="low-rank")


def test_a_device_without_float64_is_replaced_by_the_cpu() -> None:
    with pytest.warns(NumericalWarning, match="mps has no float64: the d×d work was done on the CPU"):
        got = fastfid.frechet(*GOOD, device="mps")
    tol.check(got, 3 * (math.sqrt(2) - 1) ** 2, relative=1e-14)


class Labelled(fastfid.FrechetResult):
    label: str = ""


def test_result_is_a_float_with_fields() -> None:
    got = fastfid.frechet([1.0], [[4.0]], [0.0], [[1.0]])
    assert isinstance(got, float)
    assert (got, got + 1, f"{got:.2f}", str(got), json.dumps(got), hash(got)) == (2, 3, "2.00", "2.0", "2.0", hash(2.0))
    assert np.asarray([got]).dtype == np.float64
    assert (got.value, got.mean_term, got.trace_root, got.jitter, got.steps) == (2.0, 1.0, 2.0, 0.0, 0)
    tol.check(got.trace_term, 1.0, relative=1e-15)
    assert "in [" in repr(got)
    back = json.loads(json.dumps(got.to_dict()))
    assert back["value"] == 2.0
    assert set(back) == {"value", *fastfid.FrechetResult._fields}
    for made in (pickle.loads(pickle.dumps(got)), copy.copy(got), copy.deepcopy(got)):
        assert type(made) is fastfid.FrechetResult
        assert made.to_dict() == got.to_dict()
    with pytest.raises(TypeError, match="missing"):
        fastfid.FrechetResult(1.0, lower=0.0)


def test_result_can_be_subclassed() -> None:
    got = Labelled.from_result(fastfid.frechet([1.0], [[4.0]], [0.0], [[1.0]]))
    got.label = "mine"
    for made in (pickle.loads(pickle.dumps(got)), copy.copy(got), copy.deepcopy(got)):
        assert (type(made), made.label, made.upper) == (Labelled, "mine", got.upper)


@pytest.mark.parametrize("bad", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["rtol", "ddof"])
def test_numbers_that_are_none_are_named(bad: object, name: str, rng: Rng) -> None:
    """rtol is at least 0, ddof a whole number of at least 0, wherever they are taken; nothing stands for another."""
    ours = fastfid.Moments.from_features(rng.standard_normal((9, 3)))
    theirs = fastfid.FrechetReference(np.zeros(3), np.eye(3))
    pair = np.zeros(3), np.eye(3)
    calls = {
        "rtol": (
            lambda: fastfid.frechet(*pair, *pair, rtol=bad),
            lambda: fastfid.frechet_moments(ours, ours, rtol=bad),
            lambda: fastfid.frechet_many(theirs, [ours], rtol=bad),
            lambda: fastfid.trace_sqrtm_product(np.eye(3), np.eye(3), bounds=True, rtol=bad),
        ),
        "ddof": (
            lambda: fastfid.frechet_moments(ours, ours, ddof=bad),
            lambda: fastfid.frechet_moments(ours, ours, ddof=(1, bad)),
            lambda: fastfid.frechet_moments(ours, ours, ddof=(bad, 1)),
            lambda: fastfid.frechet_many(theirs, [pair], ddof=bad),
            lambda: fastfid.FrechetReference.from_moments(ours, ddof=bad),
            lambda: fastfid.frechet_loss(ours.rows if ours.rows is not None else torch.rand(9, 3), theirs, ddof=bad),
            lambda: ours.cov(bad),
            lambda: ours.save("never.npz", ddof=bad),
        ),
    }
    for call in calls[name]:
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b.*(must be|accepted)"):
            call()


def test_numbers_at_the_ends_of_what_is_accepted(rng: Rng) -> None:
    ours = fastfid.Moments.from_features(rng.standard_normal((9, 3)))
    for rtol in (0, 0.0, np.float32(1e-5), math.inf):
        assert fastfid.frechet_moments(ours, ours, rtol=rtol) == 0.0
    got = [float(fastfid.frechet_moments(ours, ours, ddof=ddof)) for ddof in ((0, 1), (np.int64(0), np.int64(1)))]
    assert got[0] == got[1] > 0.0


@pytest.mark.parametrize("bad", ["float16", "", None, 3, ["float32"], np.array(["float32", "float64"])], ids=repr)
def test_mean_dtype_is_named(bad: object, rng: Rng) -> None:
    ours = fastfid.Moments.from_features(rng.standard_normal((9, 3)))
    with pytest.raises(ValueError, match=r"^mean_dtype: .*accepted: 'float32', 'float64'"):
        fastfid.frechet_moments(ours, ours, mean_dtype=bad)
