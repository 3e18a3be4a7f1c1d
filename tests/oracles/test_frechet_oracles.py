"""The distance beside scipy.linalg.sqrtm and the packages' own functions, on the same statistics.

Where both sides have full rank everybody agrees to 1e-9 or so. With fewer samples than dimensions the packages are off
by √eps-sized amounts, and the measured truth (singular values of the samples) sides with us.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import tolerances as tol

import fastfid
from fastfid.reference.linalg import nuclear_norm

pytestmark = pytest.mark.oracle
Rng = np.random.Generator
Reference = Callable[[str], ModuleType]


def samples(rng: Rng, n: int, d: int) -> np.ndarray:
    return np.abs(rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + 0.4)


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def theirs(reference: Reference, name: str) -> Callable[..., float]:
    """The package's distance of (mu1, sigma1, mu2, sigma2)."""
    if name == "scipy":
        sqrtm = reference("scipy.linalg").sqrtm

        def distance(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
            return float((mu1 - mu2) @ (mu1 - mu2) + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real)

        return distance
    if name == "pytorch-fid":
        return reference("pytorch_fid.fid_score").calculate_frechet_distance
    if name == "clean-fid":
        return reference("cleanfid.fid").frechet_distance
    if name == "torch-fidelity":
        module = reference("torch_fidelity.metric_fid")

        def fidelity(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
            pair = ({"mu": mu1, "sigma": s1}, {"mu": mu2, "sigma": s2})
            return module.fid_statistics_to_metric(*pair, verbose=False)[module.KEY_METRIC_FID]

        return fidelity
    module = reference("torchmetrics.image.fid")
    torch = reference("torch")

    def metrics(*arrays: np.ndarray) -> float:
        return float(module._compute_fid(*(torch.from_numpy(a) for a in arrays)))

    return metrics


PACKAGES = ["scipy", "pytorch-fid", "clean-fid", "torch-fidelity", "torchmetrics"]


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("d", [2, 64, 192])  # pytorch-fid and clean-fid cannot do d = 1 with SciPy 1.17
def test_full_rank(name: str, d: int, rng: Rng, reference: Reference) -> None:
    ours = (*statistics(samples(rng, 4 * d + 20, d)), *statistics(samples(rng, 5 * d + 20, d) * 1.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        want = theirs(reference, name)(*ours)
    tol.check(fastfid.frechet_distance(*ours), float(want), relative=1e-8)


@pytest.mark.parametrize("name", PACKAGES)
def test_fewer_samples_than_dimensions(name: str, rng: Rng, reference: Reference) -> None:
    x, y = samples(rng, 60, 128), samples(rng, 90, 128)
    ours = (*statistics(x), *statistics(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = float(theirs(reference, name)(*ours))
    got = fastfid.frechet_distance(*ours)
    centred = [(a - a.mean(0)) / np.sqrt(len(a) - 1) for a in (x, y)]
    gap = ours[0] - ours[2]
    truth = gap @ gap + np.trace(ours[1]) + np.trace(ours[3]) - 2 * nuclear_norm(centred[0] @ centred[1].T)
    tol.check(got, truth, relative=1e-10)
    tol.check(got, want, relative=tol.FID_SINGULAR)
    assert abs(got - truth) <= abs(want - truth) + 1e-12


def test_statistics_files_go_both_ways(rng: Rng, reference: Reference, tmp_path: object) -> None:
    fid_score = reference("pytorch_fid.fid_score")
    x = samples(rng, 300, 64)
    path = f"{tmp_path}/ours.npz"
    fastfid.Moments.from_features(x).save(path)
    mu, sigma = fid_score.compute_statistics_of_path(path, None, 50, 64, "cpu")
    np.testing.assert_array_equal(mu, fastfid.Moments.from_features(x).mean)
    tol.check(sigma, np.cov(x.T), relative=tol.MOMENTS)
    np.savez_compressed(f"{tmp_path}/theirs.npz", mu=mu, sigma=sigma)
    assert fastfid.Moments.load(f"{tmp_path}/theirs.npz").cov().numpy().tobytes() == sigma.tobytes()


@pytest.mark.parametrize("d", [2, 9, 30])
def test_sqrtm_beside_scipy(d: int, rng: Rng, reference: Reference) -> None:
    sqrtm = reference("scipy.linalg").sqrtm
    f = rng.standard_normal((2, d, d))
    s1, s2 = (one @ one.T + 0.1 * np.eye(d) for one in f)
    general = f[0] / np.sqrt(d) + 3 * np.eye(d)
    tol.check(fastfid.sqrtm(s1), sqrtm(s1), relative=1e-10)
    tol.check(fastfid.sqrtm(s1, s2), sqrtm(s1 @ s2).real, relative=1e-8)
    tol.check(fastfid.sqrtm(general), sqrtm(general), relative=1e-10)
