"""Distances between Gaussians fitted to features: FID, and MIFID, which punishes copies of the reference."""

from __future__ import annotations

import torch

from fastfid.distance.frechet import RTOL, check_dims, compare, frechet_moments
from fastfid.distance.gaussian import FrechetReference
from fastfid.metrics.features import feature_pair, feature_set
from fastfid.metrics.result import Bounds, Result
from fastfid.moments import Moments
from fastfid.runtime.checks import real_number

_TERMS = ("mean_term", "trace_term", "trace_root", "rank1", "rank2", "removed1", "removed2", "steps", "method", "proof")

MIFID_THRESHOLD = 0.1
"""Mean cosine distance from which on nothing counts as memorised (torchmetrics.image.mifid, cosine_distance_eps)."""
_MIFID_GUARD = 1e-14
"""Added to the cosine distance before it divides (torchmetrics 1.9 writes 10e-15; Kaggle's scorer has 1e-15)."""
_MIFID_VANISHES = 1e-8
"""FID at or below which MIFID is 0 (torchmetrics 1.9)."""
_TILE = 1024
"""Rows of either set in one product."""


def fid(ref: object, gen: object, *, certify: bool | None = None, ddof: int = 1) -> Result:
    """The Fréchet distance between Gaussians fitted to two sets of features; FID where they are Inception's.

        FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

    Args:
        ref, gen: features [n, d], NumPy or torch, 16, 32 or 64-bit floats, any device; or ``fastfid.Moments``; or
            both ``FrechetReference``s, which keep their factors (and have their own ddof).
        certify: pay for a proven enclosure, as in ``fastfid.frechet``.
        ddof: divisor n − ddof of the covariances: 1, or 0 as StyleGAN's metrics have it.

    Returns:
        Result "fid" with ``bounds``; ``extra`` has the terms, ranks, method and proof of ``FrechetResult``.

    Raises:
        TypeError: neither features nor Moments.
        ValueError: NaN or infinity, dimensions that differ, n ≤ ddof.

    Warns:
        NumericalWarning: as ``fastfid.frechet_moments``.

    Numerics:
        As ``fastfid.frechet_moments``: moments in float64, an interval on the d×d arithmetic.

    Source: Heusel et al. 2017, arXiv:1706.08500.
    """
    if isinstance(ref, FrechetReference) and isinstance(gen, FrechetReference):
        check_dims(ref, gen)
        found = compare(ref, gen, "auto", certify=bool(certify), rtol=RTOL)
    else:
        found = frechet_moments(_moments(ref, "ref"), _moments(gen, "gen"), ddof=ddof, certify=certify)
    return Result(
        float(found),
        "fid",
        display_name="FID",
        bounds=Bounds(found.lower, found.upper, found.covers),
        extra={name: getattr(found, name) for name in _TERMS},
        notes=found.notes,
    )


def _moments(value: object, argument: str) -> Moments:
    return value if isinstance(value, Moments) else Moments.from_features(feature_set(value, argument))


def mifid(ref: object, gen: object, *, eps: float = MIFID_THRESHOLD) -> Result:
    """The memorisation-informed Fréchet distance: FID divided by how far generated samples keep from the reference.

        c = mean over rows x of ref of  min over rows y of gen of  1 − |⟨x, y⟩| / (‖x‖ ‖y‖)
        MIFID = FID / (p + 1e-14),  p = c where c < eps, else 1;  0 where FID ≤ 1e-8

    Args:
        ref, gen: features [n, d], as for ``fid``, but no Moments: rows are compared.
        eps: the threshold; 0.1 is torchmetrics' and Kaggle's for Inception's pooled layer.

    Returns:
        Result "mifid"; ``extra`` has fid, cosine_distance (c), penalty (p).

    Raises:
        TypeError: not features.
        ValueError: as ``fid``; eps outside (0, 1]; a set of which every row adds up to zero.

    Numerics:
        Products of normalised rows in float64, in tiles: c within 1e-14 of the formula
        (tests/test_metrics_scores.py::test_mifid_is_the_formula). Rows that add up to zero are left out of c, as
        torchmetrics does, and counted in the notes.

    Source: Bai et al. 2021, arXiv:2106.03062; torchmetrics 1.9, image/mifid.py.
    """
    threshold = real_number("eps", eps)
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"eps: {eps!r}; accepted: above 0 and at most 1")
    x, y = feature_pair(ref, gen)
    distance = fid(x, y)
    directions, notes = [], list(distance.notes)
    for rows, name in ((x, "ref"), (y, "gen")):
        kept = rows[rows.sum(dim=1, dtype=torch.float64) != 0]
        if len(kept) == 0:
            raise ValueError(f"{name}: every row adds up to zero; accepted: some that do not, to take angles of")
        if len(kept) < len(rows):
            notes.append(f"{len(rows) - len(kept)} rows of {name} add up to zero and have no angle")
        directions.append(kept)
    cosine = 1.0 - float(_largest_cosines(*directions).mean())
    penalty = cosine if cosine < threshold else 1.0
    value = float(distance) / (penalty + _MIFID_GUARD) if distance > _MIFID_VANISHES else 0.0
    terms = {"fid": float(distance), "cosine_distance": cosine, "penalty": penalty}
    return Result(value, "mifid", display_name="MIFID", convention="torchmetrics", extra=terms, notes=tuple(notes))


def _largest_cosines(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """float64 [n]: max over y of |cos(x, y)|, for rows that are not zero."""
    found = []
    for rows in torch.split(x, _TILE):
        best = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
        unit = _unit(rows)
        for others in torch.split(y, _TILE):
            best = torch.maximum(best, (unit @ _unit(others).T).abs_().amax(dim=1))
        found.append(best)
    return torch.cat(found)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length one in float64; the largest entry is divided out first, so that no square over- or underflows."""
    exact = rows.to(torch.float64)
    exact = exact / exact.abs().amax(dim=1, keepdim=True)
    unit: torch.Tensor = exact / torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    return unit
