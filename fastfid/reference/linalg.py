"""Matrix functions from LAPACK's decompositions, one matrix at a time, float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def psd_factor(sigma: npt.ArrayLike) -> Array:
    """F [d, r] with Σ = F Fᵀ; eigenvalues below d·eps·λmax count as zero."""
    values, vectors = np.linalg.eigh(np.asarray(sigma, dtype=np.float64))
    keep = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))


def nuclear_norm(m: npt.ArrayLike) -> float:
    """Sum of the singular values."""
    return float(np.linalg.svd(np.asarray(m, dtype=np.float64), compute_uv=False).sum())


def polar(m: npt.ArrayLike) -> tuple[Array, Array]:
    """(U, H) with M = U H, from the singular value decomposition."""
    u, values, vh = np.linalg.svd(np.asarray(m, dtype=np.float64), full_matrices=False)
    return u @ vh, (vh.T * values) @ vh


def sqrtm(sigma: npt.ArrayLike) -> Array:
    """The principal root of a symmetric positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(np.asarray(sigma, dtype=np.float64))
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
