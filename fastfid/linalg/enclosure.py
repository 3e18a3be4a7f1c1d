"""Two-sided bounds of a nuclear norm, all rounding included.

The model of rounding, used everywhere below (u = eps/2):

* A product with inner dimension k is off by at most r(k) |A||B| in the Frobenius norm, r(k) = min(k + 2, 4√(k + 2))·u:
  the deterministic bound for small k (Higham, *Accuracy and Stability*, §3.5), with two units for a root and a division
  beside it, then the probabilistic one of Higham & Mary (SIAM J. Sci. Comput. 41 (2019) A2815, doi:10.1137/18M1226312)
  with λ = 4. It holds for any order of summation and for fused multiply-add; not for Strassen's method.
* LAPACK's and cuSOLVER's symmetric eigenvalues and singular values are those of a matrix within p(k)·eps·‖A‖_F in the
  Frobenius norm, p(k) = max(4, √k). Measured p: below 1 (tests/test_linalg.py::test_solver_backward_error).

With exact factors F₁, F₂ as they stand in memory, the interval then holds ‖F₁ᵀF₂‖_*. That the pair F₁F₁ᵀ, F₂F₂ᵀ is
within d·eps of the given covariances is the factorisation's promise (``factors``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fastfid.linalg.inputs import EPS

UNIT = EPS / 2
"""Unit roundoff of float64."""


class Enclosure(NamedTuple):
    """lower ≤ exact ≤ upper, and the computed value between them."""

    value: float
    lower: float
    upper: float

    @property
    def width(self) -> float:
        """upper − lower."""
        return self.upper - self.lower

    def scaled(self, factor: float) -> Enclosure:
        """All three times a power of two."""
        return Enclosure(self.value * factor, self.lower * factor, self.upper * factor)


def product_rounding(k: int) -> float:
    """r(k): relative rounding of a float64 product of inner dimension k against ‖A‖_F ‖B‖_F; also of Cholesky's LLᵀ."""
    return min(k + 2, 4.0 * math.sqrt(k + 2)) * UNIT


def solver_rounding(k: int) -> float:
    """p(k)·eps: backward error of symmetric eigenvalues and singular values, against ‖A‖_F."""
    return max(4.0, math.sqrt(k)) * EPS


def from_singular_values(values: torch.Tensor, rounding: float) -> Enclosure:
    """Bounds of Σσ from computed singular values [k] of a matrix that is known to ``rounding`` in the Frobenius norm.

    |Σσ(M + E) − Σσ(M)| ≤ ‖E‖_* ≤ √k ‖E‖_F.
    """
    k = values.shape[0]
    value = math.fsum(values.tolist())
    error = math.sqrt(k) * (rounding + solver_rounding(k) * float(torch.linalg.vector_norm(values)))
    return Enclosure(value, max(value - error, 0.0), value + error)


def from_gram_eigenvalues(values: torch.Tensor, rounding: float) -> Enclosure:
    """Bounds of Σ√λ from computed eigenvalues [k] (ascending) of a PSD matrix known to ``rounding`` (Frobenius).

    With eigenvalues off by δᵢ and √Σδᵢ² ≤ ε (Hoffman & Wielandt), |√λ̂ − √λ| ≤ |δ|/√λ̂ and ≤ √|δ|, so for any split of
    the spectrum into j small ones and the rest

        |Σ√λ̂ − Σ√λ| ≤ j^¾ √ε + ε √(Σ_rest 1/λ̂),

    of which the best split is taken.
    """
    k = values.shape[0]
    positive = values.clamp_min(0.0)
    value = math.fsum(positive.sqrt().tolist())
    epsilon = rounding + solver_rounding(k) * float(torch.linalg.vector_norm(values))
    if epsilon == 0.0:
        return Enclosure(value, value, value)
    inverse = torch.zeros(k + 1, dtype=torch.float64, device=values.device)
    inverse[:k] = torch.where(positive > 0.0, 1.0 / positive, math.inf).flip(0).cumsum(0).flip(0)
    small = torch.arange(k + 1, dtype=torch.float64, device=values.device)
    error = float((small**0.75 * math.sqrt(epsilon) + epsilon * inverse.sqrt()).min())
    error += 2 * EPS * value
    return Enclosure(value, max(value - error, 0.0), value + error)


def expected_gram_error(values: torch.Tensor) -> float:
    """An estimate (no bound) of the error of Σ√λ̂, some 50 times above what is seen.

    Each λ̂ is taken to be off by δ = 4 eps λmax: independently, so that the errors δ/2√λ̂ add up like noise, and all to
    the same side where λ̂ is so near to δ that its sign decides.
    """
    delta = 4 * EPS * float(values.abs().max()) if values.numel() else 0.0
    if delta == 0.0:
        return 0.0
    root = values.clamp_min(0.0).sqrt()
    known = root > 10.0 * math.sqrt(delta)
    noise = math.sqrt(float((delta / (2.0 * root[known])).square().sum()))
    return noise + math.sqrt(delta) * int((~known).sum())
