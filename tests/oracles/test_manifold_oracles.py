"""Precision, recall, density and coverage beside the packages', on features whose distances meet no radius."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import tolerances as tol
import torch

from fastfid import metrics

pytestmark = pytest.mark.oracle
Rng = np.random.Generator
Reference = Callable[[str], ModuleType]
SHAPES = [(300, 200, 64), (50, 400, 2), (400, 300, 2048), (12, 30, 4096), (7, 7, 3)]


def two_sets(rng: Rng, n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Inception's kind: positive, a mean well above the spread, a spectrum that falls."""
    fall = np.arange(1, d + 1) ** -0.5
    x, y = (np.abs(rng.standard_normal((rows, d)) * fall + 0.4) for rows in (n, m))
    return x, 1.05 * y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_prdc(n: int, m: int, d: int, dtype: type, rng: Rng, reference: Reference) -> None:
    x, y = (side.astype(dtype) for side in two_sets(rng, n, m, d))
    want = reference("prdc").compute_prdc(x, y, 5)
    got = metrics.prdc(x, y)
    for name, value in got.items():
        tol.check(float(value), want[name], absolute=tol.SHARE, what=name)


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_torch_fidelity(n: int, m: int, d: int, in_parts: bool, rng: Rng, reference: Reference) -> None:
    module = reference("torch_fidelity.metric_prc")
    x, y = (torch.from_numpy(side).float() for side in two_sets(rng, n, m, d))
    want = module.prc_features_to_metric(y, x, prc_batch_size=128, save_cpu_ram=in_parts, verbose=False)
    got = metrics.precision_recall(x, y, convention="torch-fidelity")
    for name in ("precision", "recall"):
        value = got[f"{name}[torch-fidelity]"]
        tol.check(float(value), want[name], absolute=1e-7, what=name)  # their mean of flags is float32's
        tol.check(value.extra["f_score"], want["f_score"], absolute=1e-7)


def test_copies_are_what_a_float32_product_gets_wrong(rng: Rng, reference: Reference) -> None:
    """A tie by construction: prdc counts what lies at a radius or not as its rounding falls, we never do."""
    x, y = (side.astype(np.float32) for side in two_sets(rng, 500, 500, 2048))
    y[:100] = x[:100]
    want = reference("prdc").compute_prdc(x.astype(np.float64), y.astype(np.float64), 5)
    got = metrics.prdc(x, y)
    for name, value in got.items():
        tol.check(float(value), want[name], absolute=0.02, what=name)
    assert metrics.nearest_training(x, y).copies == 100
