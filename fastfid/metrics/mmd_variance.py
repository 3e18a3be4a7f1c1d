"""The value of the unbiased squared MMD and the variance of that estimator, from sums over the kernel matrices.

With x₁ … xₙ and y₁ … yₘ independent, a = k(x, x'), b = k(x, y), c = k(y, y') and U = mean a + mean c − 2 mean b over
different indices, Hoeffding's decomposition gives exactly

    Var mean a    = (4 (n−2) ζ₁ + 2 ζ₂) / (n (n−1)),  ζ₁ = E k(x,x')k(x,x″) − (E a)²,  ζ₂ = E a² − (E a)²
    Var mean b    = ((m−1) ζ₁₀ + (n−1) ζ₀₁ + ζ₁₁) / (n m)
    Cov(mean a, mean b) = 2 (E k(x,x')k(x,y) − E a E b) / n

and every expectation above, products of two included, has an unbiased estimate over tuples of different indices, which
the sums of rows, of columns and of squares give.

Source: Gretton et al., JMLR 13 (2012) 723-773, Lemma 6; Hoeffding, Ann. Math. Stat. 19 (1948) 293-325; for n = m
Sutherland & Deka 2019, arXiv:1906.02104.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastfid.metrics.kernel_tiles import KernelSums

LEAST = 4
"""Samples a side that the estimate takes: (E a)² needs four different ones."""


class MMDSums(NamedTuple):
    """Sums over k(x, x'), k(y, y') and k(x, y)."""

    xx: KernelSums
    yy: KernelSums
    xy: KernelSums


def unbiased(sums: MMDSums) -> float:
    """mean k(x, x') + mean k(y, y') − 2 mean k(x, y) over different indices."""
    n, m = len(sums.xy.rows), len(sums.xy.columns)
    return sums.xx.total / (n * (n - 1)) + sums.yy.total / (m * (m - 1)) - 2 * sums.xy.total / (n * m)


def variance(sums: MMDSums) -> float:
    """Unbiased estimate of Var U; it may come out below zero where the true one is near it. Both sides ≥ ``LEAST``."""
    n, m = len(sums.xy.rows), len(sums.xy.columns)
    rows, columns = float(sums.xy.rows.square().sum()), float(sums.xy.columns.square().sum())
    square, total = sums.xy.square, sums.xy.total
    mean_square = (total * total - rows - columns + square) / (n * (n - 1) * m * (m - 1))
    by_x = (rows - square) / (n * m * (m - 1)) - mean_square
    by_y = (columns - square) / (n * m * (n - 1)) - mean_square
    both = square / (n * m) - mean_square
    of_xy = ((m - 1) * by_x + (n - 1) * by_y + both) / (n * m)
    of_xx, with_xx = _of_one(sums.xx, sums.xy.rows, total, m)
    of_yy, with_yy = _of_one(sums.yy, sums.xy.columns, total, n)
    return of_xx + of_yy + 4 * of_xy - 4 * with_xx - 4 * with_yy


def _of_one(own: KernelSums, across: Tensor, total: float, others: int) -> tuple[float, float]:
    """(variance of a set's own mean, its covariance with the mean across); ``across``: row sums of the latter."""
    n, s = len(own.rows), own.total
    squares, shared = float(own.rows.square().sum()), float((own.rows * across).sum())
    mean_square = (s * s - 4 * squares + 2 * own.square) / (n * (n - 1) * (n - 2) * (n - 3))
    first = (squares - own.square) / (n * (n - 1) * (n - 2)) - mean_square
    second = own.square / (n * (n - 1)) - mean_square
    together = shared / (n * (n - 1) * others) - (s * total - 2 * shared) / (n * (n - 1) * (n - 2) * others)
    return (4 * (n - 2) * first + 2 * second) / (n * (n - 1)), 2 * together / n
