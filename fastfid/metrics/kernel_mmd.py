"""Kernel distances between sets of features: KID by every package's draws, with the value of all pairs, and MMD."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastfid.errors import SmallSampleWarning
from fastfid.metrics.features import feature_pair, seed_number
from fastfid.metrics.kernel_tiles import (
    Gaussian,
    Kernel,
    Polynomial,
    Side,
    gaussian_sides,
    kernel_sums,
    polynomial_sides,
)
from fastfid.metrics.mmd_variance import LEAST, MMDSums, unbiased, variance
from fastfid.metrics.result import Interval, Result
from fastfid.runtime.checks import real_number, whole_number


@dataclass(frozen=True)
class KernelConvention:
    """How a package draws KID's subsets, and with what kernel (gamma ⟨x, y⟩ + coef0)^degree, gamma = 1 / dimensions.

    Attributes:
        draw: "numpy": RandomState(seed).choice without replacement; "torch": the first of torch.randperm.
        first: the set whose subset is drawn first of each pair; one generator serves both.
        seeded: what the package itself seeds with; None where its caller has to.
        ddof: of the standard deviation over subsets; None where the package gives none (0 is used).
        too_few: what it does with fewer samples than ``subset_size``.
        source: where the rule is from.
    """

    draw: str
    first: str
    seeded: int | None
    ddof: int | None
    too_few: str
    source: str
    degree: int = 3
    coef0: float = 1.0


KERNEL_CONVENTIONS = {
    "torch-fidelity": KernelConvention("numpy", "ref", 2020, 0, "refuses", "torch-fidelity 0.4, metric_kid.py"),
    "clean-fid": KernelConvention("numpy", "gen", None, None, "uses n", "clean-fid 0.1.35, fid.py, kernel_distance"),
    "stylegan": KernelConvention(
        "numpy", "gen", None, None, "uses n", "NVlabs/stylegan3, metrics/kernel_inception_distance.py"
    ),
    "torchmetrics": KernelConvention("torch", "ref", None, 0, "refuses", "torchmetrics 1.9, image/kid.py"),
}
"""All of them take 100 subsets of 1,000 and average unbiased estimates; ref is the package's first argument."""

LEVEL, _NORMAL = 0.95, 1.959963984540054
"""Of the interval, and the standard normal's quantile at (1 + level) / 2."""
_OVERFLOWS = "ref, gen: so large that the kernel overflows float64; scale them down"


def kid(
    ref: object,
    gen: object,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    convention: str = "torch-fidelity",
    *,
    full: bool = False,
) -> Result:
    """The kernel Inception distance: the mean over random subsets of the unbiased squared MMD, k = (⟨x, y⟩/d + 1)³.

        MMD² = mean k(x, x') + mean k(y, y') − 2 mean k(x, y)      over pairs of different samples

    Args:
        ref, gen: features [n, d] and [m, d], NumPy or torch, 16, 32 or 64-bit floats, any device; n, m ≥ 2.
        subsets, subset_size: how many, and samples of either set in each; beyond min(n, m) that many are used.
        seed: of the draws; torch-fidelity's is 2020. The other packages draw like this after seeding NumPy or torch.
        convention: "torch-fidelity", "clean-fid", "stylegan" or "torchmetrics": whose draws.
        full: insist on the value of all pairs. Without it that is given where it costs at most twice what subsets cost.

    Returns:
        Result "kid"; the value may be below zero. ``extra`` has std (over subsets, by the convention's ddof), subsets,
        subset_size, kernel_mean (mean k(x, y), the scale of all this), and of all pairs full and full_se, the standard
        error of that U-statistic from its unbiased variance (None where it was not computed, n or m < 4, or the
        estimate is below zero). ``interval`` is full ± 1.96 full_se.

    Raises:
        TypeError: not features, or a count that is no whole number.
        ValueError: NaN or infinity, one sample or none, dimensions that differ, an unknown convention, subset_size < 2.

    Warns:
        SmallSampleWarning: subset_size is above n or m.

    Numerics:
        Products in the features' float32 (float64 where they are), sums in float64: within 1e-7 of the mean kernel
        value, 1e-12 for float64 (tests/test_metrics_kernel.py::test_kid_is_the_formula). No N×N matrix is made: all
        subsets together are quadratic forms of the one matrix of all pairs, or each has its own tiles, whichever is
        the smaller work; both give the same to rounding (::test_both_routes_agree).

    Source: Bińkowski et al. 2018, arXiv:1801.01401; ``KERNEL_CONVENTIONS``; for full_se fastfid.metrics.mmd_variance.
    """
    rule = KERNEL_CONVENTIONS.get(convention) if isinstance(convention, str) else None
    if rule is None:
        raise ValueError(f"convention: {convention!r}; accepted: {', '.join(KERNEL_CONVENTIONS)}")
    subsets, seed = whole_number("subsets", subsets, least=1), seed_number(seed)
    asked = whole_number("subset_size", subset_size, least=2)
    x, y = feature_pair(ref, gen, least=2)
    size, notes = min(asked, len(x), len(y)), []
    if size < asked:
        notes.append(f"subset_size: {asked}, but one set has {size} samples: all of them were used")
        warnings.warn(notes[-1], SmallSampleWarning, stacklevel=2)
    draws = _draws(rule, len(x), len(y), subsets, size, seed)
    sides = polynomial_sides(x, y)
    kernel = _centred(Polynomial(rule.degree, 1.0 / x.shape[1], rule.coef0), *sides)
    plan = _plan(len(x), len(y), x.shape[1], subsets, size, full)
    sums, values, kernel_mean = _measured(kernel, sides, draws, plan)
    std = float(np.std(values, ddof=rule.ddof or 0))
    extra: dict[str, float | int | None] = {"std": std, "subsets": subsets, "subset_size": size}
    extra |= {"kernel_mean": kernel_mean, "full": None, "full_se": None}
    interval = None
    if sums is None:
        notes.append("the value of all pairs costs over twice what the subsets cost; full=True has it computed")
    else:
        interval = _of_all_pairs(sums, extra, notes)
    if not all(math.isfinite(v) for v in (std, kernel_mean, *values)):
        raise ValueError(_OVERFLOWS)
    return Result(
        float(np.mean(values)),
        "kid",
        display_name="KID",
        convention=convention,
        interval=interval,
        extra=extra,
        notes=tuple(notes),
    )


def _of_all_pairs(sums: MMDSums, extra: dict[str, float | int | None], notes: list[str]) -> Interval | None:
    """Put the value of all pairs and its standard error into ``extra``; the interval, where there is one."""
    full = extra["full"] = unbiased(sums)
    if min(len(sums.xy.rows), len(sums.xy.columns)) < LEAST:
        notes.append(f"full_se takes {LEAST} samples of each set")
        return None
    squared = variance(sums)
    if not squared >= 0.0:
        notes.append(f"the unbiased estimate of full's variance is {squared:.3g}, below zero: there is no full_se")
        return None
    se = extra["full_se"] = math.sqrt(squared)
    covers = "other samples of both sets; centred at the value of all pairs, extra['full']"
    return Interval(LEVEL, full - _NORMAL * se, full + _NORMAL * se, se, "U-statistic", covers)


def _draws(rule: KernelConvention, n: int, m: int, subsets: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of ref and of gen in every subset, int64 [subsets, size], drawn in turns."""
    draw = _GENERATORS[rule.draw](seed, size)
    order = ((0, n), (1, m)) if rule.first == "ref" else ((1, m), (0, n))
    drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _ in range(subsets):
        for side, count in order:
            drawn[side].append(draw(count))
    return torch.stack(drawn[0]), torch.stack(drawn[1])


def _numpy_draws(seed: int, size: int) -> Callable[[int], Tensor]:
    state = np.random.RandomState(seed)
    return lambda count: torch.from_numpy(state.choice(count, size, replace=False))


def _torch_draws(seed: int, size: int) -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randperm(count, generator=generator)[:size]


_GENERATORS = {"numpy": _numpy_draws, "torch": _torch_draws}


def _centred(kernel: Polynomial, x: Side, y: Side) -> Polynomial:
    """The kernel less its value at the means."""
    shift = (x.mean @ y.mean).mul_(kernel.gamma).add_(kernel.coef0).pow_(kernel.degree)
    return replace(kernel, shift=float(shift))


@dataclass(frozen=True)
class _Plan:
    """Whether to go through all pairs, and whether the subsets come from that or from tiles of their own."""

    sweep: bool
    forms: bool


_BESIDE = 80
_FORM = 3
"""Cost of one value of the kernel beside its product, and of it in one quadratic form, in float32 multiply-adds.
Measured on two cores, 256 × 1,000 tiles: 1.2 ns and 4.6 ns for 101 forms where 2,048 multiply-adds took 31 ns."""


def _plan(n: int, m: int, d: int, subsets: int, size: int, full: bool) -> _Plan:
    """The cheapest way to what is wanted; the value of all pairs is wanted where it at most doubles the cost."""
    pairs, forms = (n * n + m * m) / 2 + n * m, _FORM * subsets
    apart, every = subsets * 2.0 * size * size * (d + _BESIDE), pairs * (d + _BESIDE)
    sweep = full or every + min(pairs * forms, apart) <= 2 * apart
    return _Plan(sweep, sweep and pairs * forms <= apart)


def _measured(
    kernel: Kernel, sides: tuple[Side, Side], draws: tuple[Tensor, Tensor], plan: _Plan
) -> tuple[MMDSums | None, list[float], float]:
    """(sums over all pairs or None, the value of every subset, mean k(x, y))."""
    x, y = sides
    weights = [_indicators(rows, side.rows) for rows, side in zip(draws, sides, strict=True)]
    pairs = [(x, x, 0, 0), (y, y, 1, 1), (x, y, 0, 1)]
    sums = None
    if plan.sweep:
        made = [
            kernel_sums(kernel, a, b, (weights[u], weights[v]) if plan.forms else None, square=True)
            for a, b, u, v in pairs
        ]
        sums = MMDSums(*made)
    if sums is None or not plan.forms:
        totals = list(_apart(kernel, x.rows, y.rows, *draws))
    else:
        assert sums.xy.weighted is not None
        totals = list(zip(*(one.weighted.tolist() for one in sums if one.weighted is not None), strict=True))
    size = draws[0].shape[1]
    values = [(xx + yy) / (size * (size - 1)) - 2 * xy / (size * size) for xx, yy, xy in totals]
    across = sum(xy for _, _, xy in totals) / (len(totals) * size * size)
    if sums is not None:
        across = sums.xy.total / (len(x.rows) * len(y.rows))
    return sums, values, kernel.shift + across


def _indicators(drawn: Tensor, rows: Tensor) -> Tensor:
    """[n, subsets] in the rows' dtype: 1 where a row belongs to a subset."""
    made = rows.new_zeros(len(rows), len(drawn))
    return made.scatter_(0, drawn.T.to(rows.device), 1.0)


def _apart(kernel: Kernel, x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Iterator[tuple[float, float, float]]:
    """Sums of every subset from tiles of its own: k(x, x'), k(y, y'), k(x, y)."""
    for one, two in zip(of_x.to(x.device), of_y.to(x.device), strict=True):
        a, b = Side(x[one]), Side(y[two])
        yield kernel_sums(kernel, a, a).total, kernel_sums(kernel, b, b).total, kernel_sums(kernel, a, b).total


def mmd(
    ref: object, gen: object, kernel: str = "rbf", sigma: float = 10.0, scale: float = 1000.0, biased: bool = True
) -> Result:
    """The squared maximum mean discrepancy over all pairs; with its defaults CMMD's, where features are CLIP's.

        MMD² = mean k(x, x') + mean k(y, y') − 2 mean k(x, y),      k = exp(−‖x − y‖² / 2σ²)

    Args:
        ref, gen: features [n, d] and [m, d], as for ``kid``. CMMD's have length one: that is the caller's to see to.
        kernel: "rbf", or "polynomial" for KID's (⟨x, y⟩/d + 1)³.
        sigma: bandwidth of "rbf"; not used by "polynomial".
        scale: the value is multiplied by it.
        biased: means over all pairs, each sample with itself included, so that equal sets give 0; else over pairs of
            different samples, which takes two of each set.

    Returns:
        Result "mmd"; ``extra`` has the three means k_xx, k_yy, k_xy (unscaled).

    Raises:
        TypeError: not features.
        ValueError: NaN or infinity, an empty set, dimensions that differ, an unknown kernel, sigma or scale not above 0
            and finite.

    Numerics:
        Features less their mean; products in float32 where every row is within a bandwidth of it, else in float64;
        k − 1 and sums in float64: value / scale within 1e-9 of the formula
        (tests/test_metrics_kernel.py::test_mmd_is_the_formula). Sets equal entry by entry give exactly 0 where biased.

    Source: Gretton et al., JMLR 13 (2012) 723-773; Jayasumana et al. 2024, arXiv:2401.09603, google-research/cmmd
        distance.py: sigma 10, scale 1000, biased.
    """
    if kernel not in ("rbf", "polynomial"):
        raise ValueError(f"kernel: {kernel!r}; accepted: rbf, polynomial")
    width, factor = _positive("sigma", sigma), _positive("scale", scale)
    x, y = feature_pair(ref, gen, least=1 if biased else 2)
    function: Kernel
    if kernel == "rbf":
        sides, function = gaussian_sides(x, y, width), Gaussian()
    else:
        sides = polynomial_sides(x, y)
        function = _centred(Polynomial(3, 1.0 / x.shape[1], 1.0), *sides)
    means = [_own_mean(function, side, biased) for side in sides]
    means.append(kernel_sums(function, *sides).total / (len(x) * len(y)))
    value = 0.0 if biased and torch.equal(x, y) else factor * math.fsum([means[0], means[1], -2 * means[2]])
    if not all(math.isfinite(v) for v in (value, *means)):
        raise ValueError(_OVERFLOWS)
    extra = dict(zip(("k_xx", "k_yy", "k_xy"), (function.shift + mean for mean in means), strict=True))
    return Result(
        value, "mmd", display_name="MMD", convention=f"{kernel}, {'biased' if biased else 'unbiased'}", extra=extra
    )


def _own_mean(kernel: Kernel, x: Side, biased: bool) -> float:
    n, total = len(x.rows), kernel_sums(kernel, x, x).total
    return (total + float(kernel.diagonal(x).sum())) / (n * n) if biased else total / (n * (n - 1))


def _positive(name: str, value: object) -> float:
    number = real_number(name, value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name}: {value!r}; accepted: above 0 and finite")
    return number
