"""The Fréchet distance by rank-truncated eigenvectors and a singular value decomposition: slow, plain, right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastfid.reference.linalg import nuclear_norm, psd_factor


def frechet_distance(mu1: npt.ArrayLike, sigma1: npt.ArrayLike, mu2: npt.ArrayLike, sigma2: npt.ArrayLike) -> float:
    """‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 ‖F₁ᵀF₂‖_* with Σᵢ = FᵢFᵢᵀ."""
    gap = np.asarray(mu1, dtype=np.float64) - np.asarray(mu2, dtype=np.float64)
    root = nuclear_norm(psd_factor(sigma1).T @ psd_factor(sigma2))
    return float(gap @ gap + np.trace(np.asarray(sigma1)) + np.trace(np.asarray(sigma2)) - 2 * root)
