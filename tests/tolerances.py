"""Every numerical bound the tests use, with its reason. A test that needs a wider one is a finding, not an edit here.

Each room adds its own block. ``check`` fails on NaN, unlike ``allclose``.
"""

from __future__ import annotations

import numpy as np


def check(got: object, want: object, *, absolute: float = 0.0, relative: float = 0.0, what: str = "") -> None:
    """Fail unless max|got − want| ≤ absolute + relative · max|want|; NaN anywhere fails."""
    g, w = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert g.shape == w.shape, f"{what}: shape {g.shape}, expected {w.shape}"
    if g.size == 0:
        return
    scale = float(np.max(np.abs(w)))
    error = float(np.max(np.abs(g - w)))
    bound = absolute + relative * scale
    assert error <= bound, f"{what}: error {error:.3e} above {bound:.3e} (scale {scale:.3e})"
