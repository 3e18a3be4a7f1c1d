"""Metrics of neighbourhoods: precision, recall, density, coverage, realism, authenticity, nearest training rows.

A set's manifold is the union of balls around its rows, each with the distance to the row's k-th nearest other row as
its radius r_k (Kynkäänniemi et al. 2019, arXiv:1904.06991). All flags and counts are those of float64 distances summed
directly, ties included (``fastfid.pairwise``); packages measure in float32 or float16 and agree where no distance lies
within their own rounding of a radius.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from fastfid.metrics.features import feature_pair
from fastfid.metrics.result import Result
from fastfid.pairwise.neighbours import Between, between, squared_radii
from fastfid.runtime.checks import whole_number


class Convention(NamedTuple):
    """How a code base measures precision and recall.

    Attributes:
        nearest_k: which neighbour's distance is the radius.
        strict: a row at the radius itself is outside.
        notes: what it does otherwise than we do, source first.
    """

    nearest_k: int
    strict: bool
    notes: tuple[str, ...]


CONVENTIONS = {
    "adm": Convention(
        3,
        False,
        (
            "openai/guided-diffusion evaluations/evaluator.py measures squared distances in float16, and in float32 "
            "where that overflows; here they are float64's",
        ),
    ),
    "stylegan": Convention(
        3,
        False,
        ("NVlabs/stylegan3 metrics/precision_recall.py rounds features and radii to float16; here nothing is",),
    ),
    "kynkaanniemi": Convention(
        3,
        False,
        (
            "kynkaat/improved-precision-and-recall-metric takes squared distances from a product in float32, negative "
            "ones as 0; here they are summed directly in float64",
        ),
    ),
    "torch-fidelity": Convention(
        3,
        False,
        (
            "torch-fidelity 0.4 takes torch.cdist in float32 and finds a row among its own neighbours by its distance; "
            "here distances are float64's and a row is left out by its number",
        ),
    ),
    "prdc": Convention(
        5,
        True,
        (
            "prdc 0.2 takes scikit-learn's distances from a product; here they are summed directly in float64 and "
            "compared before the root",
        ),
    ),
}
"""By name; the defaults are those of the code named first in the notes."""


@dataclass(frozen=True)
class NearestTraining:
    """Of every generated row the nearest row of the reference.

    Attributes:
        distance: float64 [m], Euclidean.
        index: int64 [m]; of equally near rows the lowest number.
        copies: generated rows that are equal to a row of the reference.
    """

    distance: torch.Tensor
    index: torch.Tensor
    copies: int


def prdc(ref: object, gen: object, nearest_k: int = 5) -> dict[str, Result]:
    """Precision, recall, density and coverage with balls that leave out their edge.

        precision = |{y : ∃x ‖x − y‖ < r_k(x)}| / m        recall   = |{x : ∃y ‖x − y‖ < r_k(y)}| / n
        density   = |{(x, y) : ‖x − y‖ < r_k(x)}| / (k m)  coverage = |{x : ∃y ‖x − y‖ < r_k(x)}| / n

    Args:
        ref, gen: features [n, d] and [m, d], NumPy or torch, 16, 32 or 64-bit floats, any device; n, m > nearest_k.
        nearest_k: k; 5 in the paper.

    Returns:
        Results "precision", "recall", "density" and "coverage". ``extra`` of the first two has f_score, their harmonic
        mean (0 where both are 0); of all nearest_k and the count that the value is a share of.

    Raises:
        TypeError: no features, or a nearest_k that is no whole number.
        ValueError: shapes that don't fit, NaN or infinity, n or m not above nearest_k.

    Numerics:
        Counts are exact (tests/test_metrics_manifold.py::test_counts_are_the_direct_sums). Time: one float32 product
        for half the pairs of either set and one for all between them; memory: tiles.

    Source: Naeem et al. 2020, arXiv:2002.09797; package ``prdc`` (clovaai/generative-evaluation-prdc).
    """
    x, y = feature_pair(ref, gen)
    k = _enough(nearest_k, ref=x, gen=y)
    convention = CONVENTIONS["prdc"]
    found = _balls(x, y, k, strict=convention.strict)
    assert found.in_x is not None
    made = _precision_recall(found, k, "", "prdc")
    for name, count, of in (
        ("density", int(found.in_x.of_x.sum()), k * len(y)),
        ("coverage", _hit(found.in_x.of_x), len(x)),
    ):
        extra = {"nearest_k": k, "count": count}
        made[name] = Result(count / of, name, convention="prdc", extra=extra, notes=convention.notes)
    return made


def precision_recall(
    ref: object, gen: object, convention: str = "adm", nearest_k: int | None = None
) -> dict[str, Result]:
    """Improved precision and recall in the convention of a code base.

        precision = |{y : ∃x ‖x − y‖ ≤ r_k(x)}| / m        recall = |{x : ∃y ‖x − y‖ ≤ r_k(y)}| / n

    Args:
        ref, gen: as in ``prdc``.
        convention: a name in ``CONVENTIONS``: k, ≤ or <, and what that code does otherwise (in the results' notes).
        nearest_k: k; None takes the convention's.

    Returns:
        Results "precision[NAME]" and "recall[NAME]", NAME the convention, with extra as in ``prdc``.

    Raises:
        TypeError, ValueError: as ``prdc``; ValueError for an unknown convention.

    Source: Kynkäänniemi et al. 2019, arXiv:1904.06991, and the code that the notes name.
    """
    if not isinstance(convention, str) or convention not in CONVENTIONS:
        raise ValueError(f"convention: {convention!r}; accepted: {', '.join(CONVENTIONS)}")
    rule = CONVENTIONS[convention]
    x, y = feature_pair(ref, gen)
    k = _enough(rule.nearest_k if nearest_k is None else nearest_k, ref=x, gen=y)
    return _precision_recall(_balls(x, y, k, strict=rule.strict), k, f"[{convention}]", convention)


def realism_scores(ref: object, gen: object, nearest_k: int = 3) -> torch.Tensor:
    """How far inside the reference's manifold every generated row lies, float64 [m].

        R(y) = max { r_k(x) / ‖x − y‖ : r_k(x) below the median of all r_k }

    R ≥ 1 inside; infinite for a copy of such an x. Rows x whose radius is 0 (they have k copies and more) can't give
    the largest R but to a further copy, and are left out.

    Raises:
        TypeError, ValueError: as ``prdc``; ValueError too where no radius is above 0 and below the median.

    Source: Kynkäänniemi et al. 2019, equation 3 and the paragraph after it; dgm-eval takes the same strict median.
    """
    return _realism(ref, gen, nearest_k)[0]


def realism(ref: object, gen: object, nearest_k: int = 3) -> Result:
    """The median of ``realism_scores`` over the generated rows.

    A median, since a single copy of a reference row has an infinite score. ``extra``: nearest_k, inside (the share with
    R ≥ 1, by exact flags), infinite (how many are copies), quartiles.

    Raises:
        TypeError, ValueError: as ``realism_scores``.
    """
    scores, inside = _realism(ref, gen, nearest_k)
    ordered = scores.sort().values
    m = len(ordered)
    extra = {
        "nearest_k": int(nearest_k),
        "inside": inside / m,
        "infinite": int(torch.isinf(scores).sum()),
        "quartiles": [float(ordered[(m - 1) * part // 4]) for part in (1, 3)],
    }
    middle = float(ordered[(m - 1) // 2]), float(ordered[m // 2])
    value = middle[0] if middle[0] == middle[1] else middle[0] / 2 + middle[1] / 2
    return Result(value, "realism", convention="kynkaanniemi", extra=extra)


def _realism(ref: object, gen: object, nearest_k: int) -> tuple[torch.Tensor, int]:
    """The scores, and how many of them are at least 1."""
    x, y = feature_pair(ref, gen)
    squared = squared_radii(x, _enough(nearest_k, ref=x))
    radii = squared.sqrt()
    median = float((radii.kthvalue((len(x) + 1) // 2).values + radii.kthvalue(len(x) // 2 + 1).values) / 2)
    kept = ((radii < median) & (squared > 0)).nonzero().squeeze(1)
    if len(kept) == 0:
        raise ValueError(
            f"ref: no row's distance to its neighbour {nearest_k} lies above 0 and below the median ({median:.6g}); "
            "accepted: features whose radii differ"
        )
    squared = squared[kept]
    found = between(x[kept], y, x_squared=squared, strict=False, y_nearest=1, x_weights=1.0 / squared)
    assert found.y_nearest is not None
    assert found.in_x is not None
    return found.y_nearest.squared[:, 0].rsqrt(), _hit(found.in_x.of_y)


def authenticity(ref: object, gen: object) -> Result:
    """AuthPct: the share in percent of generated rows that are farther from their nearest reference row than that
    row is from its own nearest one.

        100/m · |{y : r₁(x*) < ‖x* − y‖}|,   x* the reference row nearest to y (of equally near ones the first)

    Args:
        ref, gen: features as in ``prdc``, n ≥ 2; ref is the training set.

    Returns:
        Result "authenticity" with extra count.

    Raises:
        TypeError, ValueError: as ``prdc``.

    Source: Alaa et al. 2022, arXiv:2102.08921; layer6ai-labs/dgm-eval metrics/authpct.py, which takes torch.cdist.
    """
    x, y = feature_pair(ref, gen)
    own = squared_radii(x, _enough(1, ref=x))
    nearest = between(x, y, y_nearest=1).y_nearest
    assert nearest is not None
    count = int((own[nearest.which[:, 0]] < nearest.squared[:, 0]).sum())
    note = "dgm-eval takes torch.cdist's float32 distances; here they are summed directly in float64"
    return Result(
        100.0 * count / len(y),
        "authenticity",
        display_name="AuthPct",
        convention="dgm-eval",
        extra={"count": count},
        notes=(note,),
    )


def nearest_training(ref: object, gen: object) -> NearestTraining:
    """Of every generated row the nearest row of the reference, and how many are equal to one.

    Args:
        ref, gen: features as in ``prdc``, n ≥ 1; ref is the training set.

    Raises:
        TypeError, ValueError: as ``prdc``.

    Numerics:
        Which row, and that a copy has distance 0 and nothing else has, is exact; distances to the last bits of float64.
    """
    x, y = feature_pair(ref, gen)
    nearest = between(x, y, y_nearest=1).y_nearest
    assert nearest is not None
    squared = nearest.squared[:, 0]
    return NearestTraining(squared.sqrt(), nearest.which[:, 0], int((squared == 0).sum()))


def _enough(nearest_k: int, **sets: torch.Tensor) -> int:
    """nearest_k, where every set has a neighbour of that number."""
    k = whole_number("nearest_k", nearest_k, least=1)
    for name, features in sets.items():
        if len(features) <= k:
            raise ValueError(
                f"{name}: {len(features)} rows; accepted: more than nearest_k = {k}, since no row is its own neighbour"
            )
    return k


def _balls(x: torch.Tensor, y: torch.Tensor, k: int, *, strict: bool) -> Between:
    return between(x, y, x_squared=squared_radii(x, k), y_squared=squared_radii(y, k), strict=strict)


def _hit(counts: torch.Tensor) -> int:
    return int(torch.count_nonzero(counts))


def _precision_recall(found: Between, nearest_k: int, suffix: str, convention: str) -> dict[str, Result]:
    assert found.in_x is not None
    assert found.in_y is not None
    counts = {"precision": found.in_x.of_y, "recall": found.in_y.of_x}
    p, r = (_hit(count) / len(count) for count in counts.values())
    score = 2 * p * r / (p + r) if p + r > 0 else 0.0
    return {
        name + suffix: Result(
            _hit(count) / len(count),
            name + suffix,
            display_name=name.capitalize(),
            convention=convention,
            extra={"nearest_k": nearest_k, "count": _hit(count), "f_score": score},
            notes=CONVENTIONS[convention].notes,
        )
        for name, count in counts.items()
    }
