"""Metrics of features beside torch-fidelity, torchmetrics, clean-fid, piq and vendi-score, on the same features.

Float64 features agree to 1e-9 and better wherever a package computes in float64; where it computes in float32 whatever
it is given, its own rounding is the bound, and it is named. The formulas of MIND, CMMD and ADM's score, whose code no
package that can be installed has, are in ``tests/metric_formulas.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tolerances as tol
import torch

from fastfid import metrics

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
Rng = np.random.Generator
Reference = Callable[[str], ModuleType]
SIZES = [(2, 2, 2, 2), (5, 3, 16, 3), (60, 90, 200, 40), (500, 400, 2048, 300), (3000, 2000, 64, 500)]
"""n, m, d, subset size."""
DTYPES = [torch.float64, torch.float32]


def features(rng: Rng, n: int, d: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.abs(rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + 0.4)).to(dtype)


def collected(cls: type, **options: Any) -> Any:
    """A torchmetrics metric whose network hands features through."""
    return cls(feature=torch.nn.Identity(), **options)


def kid_of(name: str, reference: Reference, x: torch.Tensor, y: torch.Tensor, size: int) -> list[float]:
    """(mean, standard deviation where it is given) of ten subsets drawn from seed 7."""
    if name == "torch-fidelity":
        module = reference("torch_fidelity.metric_kid")
        found = module.kid_features_to_metric(x, y, kid_subsets=10, kid_subset_size=size, rng_seed=7, verbose=False)
        return [found[module.KEY_METRIC_KID_MEAN], found[module.KEY_METRIC_KID_STD]]
    if name == "clean-fid":
        np.random.seed(7)  # noqa: NPY002
        return [reference("cleanfid.fid").kernel_distance(x.numpy(), y.numpy(), 10, size)]
    metric = collected(reference("torchmetrics.image.kid").KernelInceptionDistance, subsets=10, subset_size=size)
    metric.update(x, real=True)
    metric.update(y, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return [float(value) for value in metric.compute()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "d", "size"), SIZES)
@pytest.mark.parametrize("name", ["torch-fidelity", "clean-fid", "torchmetrics"])
def test_kid(name: str, n: int, m: int, d: int, size: int, dtype: torch.dtype, rng: Rng, reference: Reference) -> None:
    x, y = features(rng, n, d, dtype), features(rng, m, d, dtype) * 1.1
    got = metrics.kid(x, y, 10, size, 7, name, full=True)
    want = kid_of(name, reference, x, y, size)
    bound = 1e-12 if dtype == torch.float64 else 1e-6
    tol.check([float(got), got.extra["std"]][: len(want)], want, absolute=bound * got.extra["kernel_mean"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(3, 2), (60, 200), (900, 64)])
def test_kid_of_all_pairs_beside_piq(n: int, d: int, dtype: torch.dtype, rng: Rng, reference: Reference) -> None:
    """piq takes as many samples on both sides. Its variance squares estimates in place of tuples of different indices,
    which is biased by more than the whole where sets are alike; ours is held by the tuples themselves, one by one."""
    x, y = features(rng, n, d, dtype), features(rng, n, d, dtype) * 1.1
    got = metrics.kid(x, y, 1, 2, full=True)
    bound = 1e-12 if dtype == torch.float64 else 1e-6
    want = float(reference("piq").KID().compute_metric(x, y))
    tol.check(got.extra["full"], want, absolute=bound * got.extra["kernel_mean"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "classes", "splits"), [(2, 2, 2), (95, 10, 10), (3000, 1008, 10)])
@pytest.mark.parametrize("name", ["torch-fidelity", "torchmetrics", "piq"])
def test_inception_score(
    name: str, n: int, classes: int, splits: int, dtype: torch.dtype, rng: Rng, reference: Reference
) -> None:
    """piq's splits are contiguous and equal, as StyleGAN's are where they divide n; its ± divides by splits − 1."""
    logits = torch.from_numpy(rng.standard_normal((n, classes)) * 3).to(dtype)
    if name == "torch-fidelity":
        found = reference("torch_fidelity.metric_isc").isc_features_to_metric(logits, splits)
        got, want = metrics.inception_score(logits, splits), list(found.values())
    elif name == "torchmetrics":
        metric = collected(reference("torchmetrics.image.inception").InceptionScore, splits=splits)
        metric.update(logits)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            want = [float(value) for value in metric.compute()]
        got = metrics.inception_score(logits, splits, name, seed=3)
    else:
        logits = logits[: n // splits * splits]
        want = [float(value) for value in reference("piq.isc").inception_score(logits, splits)]
        got = metrics.inception_score(logits, splits, "stylegan")
        want[1] *= ((splits - 1) / splits) ** 0.5
    exact = name == "torch-fidelity" or (dtype == torch.float64 and name == "torchmetrics")
    tol.check([float(got), got.extra["std"]], want, relative=1e-9 if exact else 2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m", "d"), [(3, 4, 2), (60, 90, 20), (900, 700, 64), (40, 60, 200)])
@pytest.mark.parametrize("name", ["torch-fidelity", "torchmetrics", "clean-fid", "piq"])
def test_fid(name: str, n: int, m: int, d: int, dtype: torch.dtype, rng: Rng, reference: Reference) -> None:
    x, y = features(rng, n, d, dtype), features(rng, m, d, dtype) * 1.1
    got = metrics.fid(x, y)
    full_rank = min(n, m) > d
    if name == "torch-fidelity":
        module = reference("torch_fidelity.metric_fid")
        sides = [module.fid_features_to_statistics(rows) for rows in (x, y)]
        want = module.fid_statistics_to_metric(*sides, verbose=False)[module.KEY_METRIC_FID]
        bound = 1e-9 if dtype == torch.float64 else tol.FID_SINGLE_PRECISION
    elif name == "clean-fid":
        want = reference("cleanfid.fid").fid_from_feats(x.numpy(), y.numpy())
        bound = 1e-9 if dtype == torch.float64 else tol.FID_SINGLE_PRECISION
    elif name == "torchmetrics":
        module = reference("torchmetrics.image.fid")
        sides = [statistic for rows in (x.double(), y.double()) for statistic in (rows.mean(0), torch.cov(rows.T))]
        want, bound = float(module._compute_fid(*sides)), 1e-9
    else:
        want, bound = float(reference("piq").FID().compute_metric(x, y)), 2e-3  # a fixed number of Newton–Schulz steps
        if not full_rank:
            pytest.skip("piq's iteration does not converge for singular covariances")
    tol.check(float(got), want, relative=bound if full_rank else max(bound, tol.FID_SINGULAR))


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize(("n", "m", "d"), [(3, 4, 2), (300, 200, 64), (90, 120, 2048)])
def test_mifid(n: int, m: int, d: int, near: bool, rng: Rng, reference: Reference) -> None:
    x, y = (torch.from_numpy(rng.standard_normal((k, d)) + (4 if near else 0)) for k in (n, m))
    metric = collected(reference("torchmetrics.image.mifid").MemorizationInformedFrechetInceptionDistance)
    metric.update(x, real=True)
    metric.update(y, real=False)
    got = metrics.mifid(x, y)
    assert d == 2 or (got.extra["penalty"] < 1.0) == near
    tol.check(float(got), float(metric.compute()), relative=1e-9 if min(n, m) > d else tol.FID_SINGULAR)


@pytest.mark.parametrize(("n", "d"), [(1, 3), (50, 200), (300, 64)])
def test_vendi(n: int, d: int, rng: Rng, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.standard_normal((n, d)) + 0.5
    module = reference("vendi_score.vendi")
    gone = SimpleNamespace(csr_matrix=None)  # a name that SciPy has dropped and the package still asks for
    monkeypatch.setattr(reference("scipy.sparse"), "csr", gone, raising=False)
    tol.check(float(metrics.vendi(x)), float(module.score_X(x)), relative=tol.VENDI)
    tol.check(float(metrics.vendi(x)), float(module.score_dual(x)), relative=tol.VENDI)
