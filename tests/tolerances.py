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


def check_frobenius(got: object, want: object, *, relative: float, what: str = "") -> None:
    """Fail unless ‖got − want‖_F ≤ relative · ‖want‖_F; NaN anywhere fails."""
    g, w = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert g.shape == w.shape, f"{what}: shape {g.shape}, expected {w.shape}"
    error, scale = float(np.linalg.norm(g - w)), float(np.linalg.norm(w))
    assert error <= relative * scale, f"{what}: error {error:.3e} above {relative * scale:.3e} (norm {scale:.3e})"


# --- extractors: the FID network. Errors are relative to the largest feature of a tap. -----------------------------
NETWORK_FP32 = 1e-5
"""float32 against float64, and against the reference packages: 47 layers. Reached: 3e-7 (64) to 4e-6 (spatial)."""
NETWORK_BATCH = 2e-6
"""The same image in batches of different size: oneDNN blocks its sums differently. Reached: 5e-7."""
NETWORK_BF16 = 5e-2
"""bfloat16 has 8 significant bits (4e-3) and its rounding passes 47 layers. Reached: 6e-3 (64) to 2.5e-2 (2048)."""
NETWORK_10_BITS = 8e-3
"""tf32 and fp16 have 11 significant bits, an eighth of bfloat16's rounding (4.9e-4). Reached, emulated: 3.9e-3."""
NETWORK_10_BITS_SPATIAL = 1.5e-2
"""Single pixels without any averaging: an eighth of bfloat16's bound."""
NETWORK_BF16_SPATIAL = 1e-1
"""Single pixels without any averaging. Reached: 4e-2."""

# --- FID end to end against the packages, relative -------------------------------------------------------------------
FID_FULL_RANK = 1e-6
"""pytorch-fid, and torch-fidelity's features, where the covariances have full rank. Reached: 3e-7."""
FID_SINGLE_MEANS = 4e-6
"""torch-fidelity's own number: it adds the features in float32, which moves its result by up to 2e-6 from what its own
features give in float64 (measured at 299 px; ours stays within 3e-7 of that)."""
FID_SINGLE_PRECISION = 1e-5
"""clean-fid holds float32 means, torchmetrics returns float32."""
FID_SINGULAR = 1e-5
"""Fewer images than dimensions: SciPy's root of a singular product is itself only that good."""


# ── Moments and the Fréchet core ──────────────────────────────────────────────────────────────────────────────────────

EPS = float(np.finfo(np.float64).eps)

MOMENTS = 1e-12
"""Covariance against two passes, relative to its largest entry: rounding of n ≈ 1e4 products, √n·eps, times 50."""

MOMENTS_FROBENIUS = 1e-13
"""Scatter against two passes in the Frobenius norm, also where mean/std = 1e6. Reached: 1.4e-14 at
mean/std from 1e3 to 1e6, 2e-15 else."""

MERGE_ORDER = 1e-14
"""Times n: the same parts merged in another order, relative in the Frobenius norm. Reached: 2e-16 without n."""

TRACE_FLOAT64 = 1e-10
"""tr(Σ₁Σ₂)^½ by a float64 route, relative: what issue and papers need to tell FIDs apart; measured 1e-11 and better."""

TRACE_AUTO = 1e-8
"""The same by whatever route a mixed-precision iterate ends with: its enclosure is never accepted wider than this."""

BACKWARD = 1.0
"""‖Σ − FFᵀ‖₂ in units of (d + 24)·eps·‖Σ‖₂: the pair that an interval speaks of is this near to the given one."""

SYMMETRY = 1e-12
"""distance(a, b) against distance(b, a), relative to the traces; the code orders the pair, so it is 0."""

ROTATION = 1e-10
"""Distance after a common rotation, relative to the traces: the rotation's own rounding at condition 1e6."""

POLAR = 10.0
"""‖UᵀU − I‖_F and ‖UH − M‖_F/‖M‖_F in units of d·eps (LAPACK's test ratio; its own suite accepts 30)."""

POLAR_MATRICES = 11.0
"""Float64 matrices [d, d] alive at once in a distance by newton-schulz, beside the two that were given. Counted: 11,
where its upper bound is made: both factors, M, u, N, three of the triangular factor, three of a product."""

ROOT = 10.0
"""‖X² − A‖_F in units of d·eps·‖X‖_F²."""

GRADIENT_DESCENT = 0.5
"""Factor by which fifty steps of gradient descent on the features must at least lower the distance; measured 0.1."""


# ── Resampling, on the 0–255 scale unless said ────────────────────────────────────────────────────────────────────────

RESAMPLE_REFERENCE = 1e-5
"""float32 against the float64 reference, relative to the largest value: weights rounded to 2⁻²⁴ and one rounding a tap.
Reached: 4e-7 at up to 16 taps, 2e-6 at 400 taps (941 → 10)."""

RESAMPLE_PILLOW_FLOAT = 2e-3
"""Against Pillow's mode "F", which sums in float64 and rounds between the passes. Reached: 1e-4."""

RESAMPLE_TORCH = 1e-4
"""Against torch's interpolate and torch-fidelity: equal weights, other orders of summation (4 ulp at 255 are 6e-5)."""

RESAMPLE_TORCH_CUBIC = 6e-4
"""torch's bicubic without antialias: its compiler's contraction of the cubic differs in the weights' last bits. Seen:
up to 4e-4 with torch 2.13, 4.5e-4 with 2.6 and 2.9, whose builds round the source coordinate once more."""

RESAMPLE_WEIGHTS = 4e-6
"""Single-precision weights against torch's, per ratio of sizes: 0 where torch's build fused its multiply-adds as ours
assumes (x86 with FMA: all but the unfused cubic, 8e-7); elsewhere add one rounding of a source coordinate."""
FID_GPU = 1e-5
"""The same FID with the network on a GPU in true fp32 (not run yet): other kernels, other order of sums."""


# ── Many processes ────────────────────────────────────────────────────────────────────────────────────────────────────

MERGED_ACROSS = 1e-12
"""Mean and scatter of all ranks against two passes over all features, relative to the largest entry: what issue 5 asks
of ranks against one process; both stay within a few √n·eps."""


# ── Metrics of neighbourhoods ─────────────────────────────────────────────────────────────────────────────────────────

COVERAGE_LAW = 0.028
"""Mean coverage of 12 draws of 400 × 300 against its law: five standard deviations of such a mean, 0.0055 over 40."""

DENSITY_LAW = 0.046
"""The same of density; over 40 such means 0.0092."""

REALISM = 1e-14
"""Ratio of two distances, from the reciprocal of one's square: four roundings of 1.1e-16, and the test's own."""

SHARE = 1e-12
"""Precision, recall, density and coverage against packages on inputs without ties: their own sums of flags."""


# ── Metrics of features ───────────────────────────────────────────────────────────────────────────────────────────────

KERNEL_FLOAT64 = 1e-12
"""Differences of kernel means from float64 features, relative to the mean kernel value: sums of 1e6 positive terms."""

KERNEL_FLOAT32 = 1e-7
"""The same from float32 products, whose rounding has mean zero in every tile; the issue asks for 1e-6. Reached: 4e-8
with 30 samples, 1e-9 with 1,000."""

SCORE = 1e-12
"""Inception score against the sum written out, relative: entropies below ln 1000 in float64, and their exponential."""

COSINE = 1e-14
"""1 − |cos| of unit rows in float64, absolute: √d roundings of products that are at most 1."""

FEATURE_DISTANCE = 1e-9
"""Fréchet distance of features against the singular values of the samples, relative to the traces."""

SLICED = 1e-12
"""MIND against its formula, relative: projections and sums in float64 on both sides."""

VENDI = 1e-10
"""Vendi score from eigenvalues of a Gram matrix against singular values, relative: d eigenvalues off by eps each."""
