"""Odd quintic polynomials that carry singular values to one, computed for the interval they are meant for.

The minimax odd quintic p(x) = a x + b x³ + c x⁵ on [ℓ, u] makes max|1 − p| smallest. Its error takes its extreme E with
alternating signs at four points ℓ < q < r < u, q and r being the roots of p′; Remez' exchange finds them. Applied to a
matrix by products alone, p sends singular values from [ℓ, u] into [1 − E, 1 + E]; the next polynomial is then computed
for that interval. Such a sequence is the best composition of odd quintics (Amsel, Persson, Musco & Gower, "The Polar
Express", arXiv:2505.16932).

While ℓ is far below u, the optimal p bends down almost to zero in the middle of the interval and large singular values
lose their leading digits there. So p is computed for [max(ℓ, 0.024 u), u] instead and rescaled to be centred on one
over [ℓ, u]: the same work's remedy and its constant.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_CUSHION = 0.02407327424182761
"""Smallest ℓ/u a polynomial is computed for; arXiv:2505.16932, appendix A."""

_NEAR = 1e-4
"""Below u/ℓ − 1 = this the Taylor polynomial of x ↦ sign x at the middle is the minimax one to float64 rounding."""


class Quintic(NamedTuple):
    """p(x) = a x + b x³ + c x⁵."""

    a: float
    b: float
    c: float

    def __call__(self, x: float) -> float:
        """p(x)."""
        square = x * x
        return x * (self.a + square * (self.b + square * self.c))

    def largest(self, upper: float) -> float:
        """max |p| on [0, upper] for a p that is positive there: at the end or at its first maximum."""
        found = abs(self(upper))
        inner = 9 * self.b * self.b - 20 * self.a * self.c
        if inner > 0.0 and self.c != 0.0:
            for sign in (1, -1):
                square = (-3 * self.b - sign * math.sqrt(inner)) / (10 * self.c)
                if 0.0 < square < upper * upper:
                    found = max(found, abs(self(math.sqrt(square))))
        return found

    def scaled(self, output: float, argument: float = 1.0) -> Quintic:
        """x ↦ output · p(argument · x)."""
        return Quintic(self.a * argument * output, self.b * argument**3 * output, self.c * argument**5 * output)


def minimax_quintic(lower: float, upper: float) -> Quintic:
    """The odd quintic nearest to 1 on [lower, upper] in the maximum norm.

    Args:
        lower, upper: 0 < lower ≤ upper.

    Raises:
        ValueError: not such an interval.

    Numerics:
        The four extreme errors agree to 1e-9 of the largest, and the polynomials equal the published ones to 1e-9
        (tests/test_linalg_polar.py::test_minimax_equioscillates, ::test_published_coefficients).

    Source: Amsel et al., arXiv:2505.16932, theorem 3.1 and algorithm 3; Remez 1934.
    """
    if not 0.0 < lower <= upper < math.inf:
        raise ValueError(f"lower, upper: {lower}, {upper}; accepted: 0 < lower ≤ upper")
    ratio = lower / upper
    if 1.0 - ratio < _NEAR:
        return Quintic(15 / 8, -10 / 8, 3 / 8).scaled(1.0, 2.0 / (lower + upper))
    q, r = (3 * ratio + 1) / 4, (ratio + 3) / 4
    previous = math.inf
    for _ in range(100):
        a, b, c, error = _levelled((ratio, q, r, 1.0))
        if abs(error - previous) <= 1e-15 * abs(error):
            break
        previous = error
        spread = math.sqrt(9 * b * b - 20 * a * c)
        q, r = (math.sqrt((-3 * b - sign * spread) / (10 * c)) for sign in (1, -1))
    return Quintic(a, b, c).scaled(1.0, 1.0 / upper)


def _levelled(points: tuple[float, ...]) -> tuple[float, float, float, float]:
    """(a, b, c, E) with a x + b x³ + c x⁵ ± E = 1 at the four points, signs alternating; each correctly rounded.

    Elimination in exact rationals: the number of steps must not depend on the BLAS of the machine.
    """
    rows = []
    for index, point in enumerate(points):
        x = Fraction(point)
        rows.append([x, x**3, x**5, Fraction((-1) ** index), Fraction(1)])
    for k in range(4):  # a Chebyshev system: no pivot is zero
        rows[k] = [value / rows[k][k] for value in rows[k]]
        for i in range(4):
            if i != k:
                rows[i] = [value - rows[i][k] * pivot for value, pivot in zip(rows[i], rows[k], strict=True)]
    a, b, c, error = (float(row[4]) for row in rows)
    return a, b, c, error


@lru_cache(maxsize=64)
def composition(lower: float) -> tuple[tuple[Quintic, float], ...]:
    """Quintics whose composition takes [lower, 1] to 1 within 1e-15, each with the end of the interval it expects.

    Args:
        lower: in (0, 1).
    """
    low, high = lower, 1.0
    found: list[tuple[Quintic, float]] = []
    while 1.0 - low > 1e-15:
        p = minimax_quintic(max(low, _CUSHION * high), high)
        p = p.scaled(2.0 / (p(low) + p(high)))
        found.append((p, high))
        low, high = min(p(low), 1.0), p.largest(high)  # not 2 − low: p is steep at its end, and rounding would grow
    return tuple(found)
