"""The Fréchet distance between Gaussians, with an enclosure on every value.

    FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ ,        tr (Σ₁Σ₂)^½ = ‖F₁ᵀF₂‖_*  for any  Σᵢ = Fᵢ Fᵢᵀ

(papers call FD² of Inception features FID). The product Σ₁Σ₂ is never formed, no complex number occurs and nothing is
added to a diagonal.

What the interval [lower, upper] means: it holds the exact distance for the matrices as given: of the nearest positive
semi-definite matrices to the symmetrised covariances (eigenvalues below zero set to zero; their sum is ``removed1``,
``removed2``), and of the means as given, all rounding included. Where the samples themselves are known (n ≤ d), their
exact covariance takes the place of the matrix. With ``proof`` "proven" this is a theorem about the numbers that were
computed (``linalg.enclosure``, ``linalg.trace``); with "probable" LAPACK's usual accuracy stands in for part of it.
``certify=True`` is always proven, and so is what the default gives up to 32 dimensions, by vectors, and on a GPU.
Where the interval is wider than 1e-3 of the distance, the tightest route is taken and named; where not even that
reaches it, the narrowest interval comes with a NumericalWarning: rank-deficient covariances that nearly agree are
such a case, since one rounding of an entry moves their distance by √eps.

Source: Dowson & Landau, J. Multivariate Anal. 12 (1982) 450-455, doi:10.1016/0047-259X(82)90077-X; Heusel et al. 2017,
arXiv:1706.08500.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch

from fastfid.distance.gaussian import FrechetReference
from fastfid.distance.result import COVERS, FrechetResult
from fastfid.errors import NumericalWarning
from fastfid.linalg.enclosure import UNIT, Enclosure, expected_solver
from fastfid.linalg.factors import Factor
from fastfid.linalg.trace import (
    METHODS,
    RootTrace,
    resolve,
    trace_from_samples,
    trace_of_root,
    traces_of_roots,
    wants_proof,
)
from fastfid.moments import Moments
from fastfid.runtime.checks import a_tolerance, whole_number

RTOL = 1e-5
"""Widest enclosure of the trace of the root, relative to it, that a route may give before the next one takes over."""

_WIDE = 1e-3
"""Widest interval relative to the distance itself; beyond it the tightest route takes over."""

_SMALLEST = 5e-324
"""What a square of a mean's difference may lose to underflow."""

_CANDIDATES = "FrechetReference, Moments, or a pair (mu, sigma)"


def frechet_distance(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any, eps: float = 1e-6) -> float:
    """The Fréchet distance between two Gaussians, in place of ``pytorch_fid.fid_score.calculate_frechet_distance``.

        FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

    Args:
        mu1, mu2: means [d], NumPy or torch, any real dtype. Scalars are refused ([1] for d = 1).
        sigma1, sigma2: covariances [d, d], symmetric positive semi-definite to rounding; singular ones are fine.
        eps: accepted so that the signature fits, and not used: no jitter is ever needed.

    Returns:
        float. Equal covariances give exactly ‖μ₁ − μ₂‖². Rounding may leave a value below zero, and then warns.

    Raises:
        ValueError: NaN or infinity, shapes that don't fit, an asymmetric or (NotPSDError) indefinite covariance; the
            message names the argument.

    Warns:
        NumericalWarning: the value is below zero, or an input had to be symmetrised or clipped.

    Numerics:
        As ``frechet``, which also gives the bounds.

    Source: Heusel et al. 2017, arXiv:1706.08500; signature of pytorch-fid 0.3.0.
    """
    del eps
    return float(frechet(mu1, sigma1, mu2, sigma2))


def frechet(
    mu1: Any,
    sigma1: Any,
    mu2: Any,
    sigma2: Any,
    *,
    method: str = "auto",
    device: torch.device | str | None = None,
    certify: bool | None = None,
    rtol: float = RTOL,
) -> FrechetResult:
    """The Fréchet distance between two Gaussians with a two-sided bound.

        FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

    Args:
        mu1, mu2: means [d], NumPy or torch, any real dtype.
        sigma1, sigma2: covariances [d, d].
        method: "eigvalsh", "eigh", "newton-schulz" or "svd"; "auto" lets the cost model choose (fastfid.linalg.trace).
        device: where the d×d work is done; None means where sigma1 lies.
        certify: pay for a proven enclosure. Without it eigenvalues of the product are used on the CPU beyond 32
            dimensions, whose interval is probable, and may be as wide as 1e-3 of the distance.
        rtol: widest enclosure of tr (Σ₁Σ₂)^½, relative to it, that a route may give before the next one takes over.

    Returns:
        FrechetResult: a float with lower, upper, the terms, the method and notes.

    Raises:
        ValueError: as ``frechet_distance``, or an unknown method.

    Warns:
        NumericalWarning: as ``frechet_distance``, or no route reaches an interval of 1e-3 of the distance.

    Numerics:
        tr (Σ₁Σ₂)^½ to 1e-10 relative over fourteen spectra (tests/test_frechet_accuracy.py::test_spectra). The interval
        held the exact distance of the matrices given in every case that was tried, against truths that share no code
        with it (tests/test_frechet_bounds.py; the counts: bench/results/*/frechet_bounds.json).

    Source: as the module.
    """
    _check_method(method, ("low-rank",))
    rtol = a_tolerance("rtol", rtol)
    first = FrechetReference(mu1, sigma1, device=device, names=("mu1", "sigma1"))
    second = FrechetReference(mu2, sigma2, device=first.mean.device, names=("mu2", "sigma2"))
    check_dims(first, second)
    return compare(first, second, method, certify=bool(certify), rtol=rtol, once=True)


def frechet_moments(
    ref: Moments,
    gen: Moments,
    *,
    ddof: int | tuple[int, int] = 1,
    method: str = "auto",
    device: torch.device | str | None = None,
    certify: bool | None = None,
    rtol: float = RTOL,
    mean_dtype: str = "float64",
) -> FrechetResult:
    """The Fréchet distance between the moments of two sets of features.

    Args:
        ref, gen: Moments over the same features. Where one of them still knows its samples (n ≤ d), the low-rank
            route works on min(n₁, n₂) × … matrices, and is exact for the samples rather than for a rounded covariance.
        ddof: divisor n − ddof of the covariances; a pair gives each side its own.
        method: as in ``frechet``; "low-rank" insists on that route.
        device: as in ``frechet``.
        certify, rtol: as in ``frechet``.
        mean_dtype: "float32" rounds both means first, as the packages that hold float32 means do.

    Returns:
        FrechetResult, whichever route was taken.

    Raises:
        ValueError: different dimensions, too few samples for ddof, an unknown method or mean_dtype, or "low-rank" when
            neither side knows its samples.
        TypeError: not Moments.

    Numerics:
        The low-rank route equals the singular values of the centred samples to 1e-9 even where mean/std = 1e5
        (tests/test_frechet_many.py::test_low_rank_against_the_samples).

    Source: as the module.
    """
    _check_method(method)
    rtol = a_tolerance("rtol", rtol)
    ddofs = ddof if isinstance(ddof, tuple) else (ddof, ddof)
    if len(ddofs) != 2:
        raise ValueError(f"ddof: {ddof!r}; accepted: a whole number, or a pair of them for ref and gen")
    keep = method in ("auto", "low-rank")
    first = FrechetReference.from_moments(
        ref, ddof=ddofs[0], device=device, keep_rows=keep, mean_dtype=mean_dtype, name="ref"
    )
    second = FrechetReference.from_moments(
        gen, ddof=ddofs[1], device=first.mean.device, keep_rows=keep, mean_dtype=mean_dtype, name="gen"
    )
    check_dims(first, second)
    if method == "low-rank" and first.rows is None and second.rows is None:
        raise ValueError("method: 'low-rank' needs the samples of one side (n ≤ d); both sides only have a covariance")
    return compare(first, second, method, certify=bool(certify), rtol=rtol, once=True)


def frechet_many(
    ref: FrechetReference,
    candidates: Iterable[FrechetReference | Moments | tuple[Any, Any]],
    *,
    ddof: int = 1,
    method: str = "auto",
    certify: bool | None = None,
    rtol: float = RTOL,
) -> list[FrechetResult]:
    """The distances of many Gaussians to one reference, whose factor is computed once.

    On a GPU the polar iteration takes all candidates of one shape in batches, so that launches do not dominate small d.

    Args:
        ref: the reference; ``FrechetReference(mu, sigma)`` or ``FrechetReference.from_moments(moments)``.
        candidates: each one a FrechetReference, Moments, or a pair (mu [d], sigma [d, d]).
        ddof: for candidates that are Moments.
        method, certify, rtol: as in ``frechet``.

    Returns:
        One FrechetResult per candidate, equal to what ``frechet`` gives.

    Raises:
        ValueError: as ``frechet``; the candidate's position is named.
        TypeError: ref is not a FrechetReference.

    Warns:
        NumericalWarning: as ``frechet``.

    Numerics:
        Equal to ``frechet`` within 1e-12 of the traces (tests/test_frechet_many.py::test_many_equals_one_by_one).

    Source: as the module.
    """
    if not isinstance(ref, FrechetReference):
        raise TypeError(f"ref: {type(ref).__name__}; accepted: FrechetReference")
    _check_method(method)
    rtol, ddof = a_tolerance("rtol", rtol), whole_number("ddof", ddof, least=0)
    if not isinstance(candidates, Iterable):
        raise TypeError(f"candidates: {type(candidates).__name__}; accepted: an iterable of {_CANDIDATES}")
    sides = [_as_reference(one, index, ddof, ref.mean.device) for index, one in enumerate(candidates)]
    for side in sides:
        check_dims(ref, side)
    if resolve(method, ref.mean.device, bool(certify)) != "newton-schulz":
        return [compare(ref, side, method, certify=bool(certify), rtol=rtol) for side in sides]
    open_ones = [index for index, side in enumerate(sides) if not ref.same_covariance(side)]
    pairs = [(ref.proven, sides[index].proven) for index in open_ones]
    roots = traces_of_roots(pairs, method, certify=bool(certify), rtol=rtol) if pairs else []
    found = dict(zip(open_ones, roots, strict=True))
    return [
        _judged(ref, side, found.get(index) or _equal(ref.factor), method, rtol) for index, side in enumerate(sides)
    ]


def compare(
    first: FrechetReference, second: FrechetReference, method: str, *, certify: bool, rtol: float, once: bool = False
) -> FrechetResult:
    """The distance of two Gaussians on one device; the arguments are checked already.

    ``once``: nobody needs the sides afterwards, so their covariances need not be kept beside the factors.
    """
    if first.same_covariance(second):
        return _judged(first, second, _equal(first.factor), method, rtol)
    root, proof = None, wants_proof(method, first.mean.device, certify, min(first.columns, second.columns))
    if not proof:
        for rows, full in ((first, second), (second, first)):
            if rows.rows is not None and full.matrix is not None and full.from_samples and "factor" not in vars(full):
                root = trace_from_samples(rows.factor, full.matrix, rtol=rtol)
    if root is None:
        factors = first.factor_for(proof), second.factor_for(proof)
        if once and proof:
            first.matrix = second.matrix = None
        root = trace_of_root(*factors, method, certify=certify, rtol=rtol)
    return _judged(first, second, root, method, rtol)


def _judged(
    first: FrechetReference, second: FrechetReference, root: RootTrace, method: str, rtol: float
) -> FrechetResult:
    """The result, by the tightest route where its interval is wide against the distance; with its warnings."""
    found = _result(first, second, root)
    if _wide(found) and not (root.proven and root.method == "svd"):
        tight = trace_of_root(first.factor_for(True), second.factor_for(True), "svd", certify=True, rtol=rtol)
        note = f"{root.method} handed over to proven svd: its interval was {_relative(found)} of the distance wide"
        found = _result(first, second, tight._replace(notes=(*root.notes, note)))
    remarks = list(dict.fromkeys((*first.notes, *second.notes)))
    if _wide(found):
        remarks.append(
            f"the interval [{found.lower:.6g}, {found.upper:.6g}] is {_relative(found)} of the distance wide, and no "
            "route gives a narrower one: so far do roundings of the covariances' entries move it"
        )
    if found < 0.0:
        remarks.append(f"the value is below zero by rounding; the distance itself lies between 0 and {found.upper:.3g}")
    for remark in remarks:
        warnings.warn(remark, NumericalWarning, stacklevel=5)
    found.notes = (*remarks, *found.notes)
    return found


def _wide(found: FrechetResult) -> bool:
    return found.upper - found.lower > _WIDE * max(float(found), 0.0) and found.method != "equal"


def _relative(found: FrechetResult) -> str:
    return f"{(found.upper - found.lower) / found:.0e}" if found > 0.0 else "more than all"


def _as_reference(one: Any, index: int, ddof: int, device: torch.device) -> FrechetReference:
    name = f"candidates[{index}]"
    if isinstance(one, FrechetReference):
        if one.mean.device != device:
            raise ValueError(f"{name}: on {one.mean.device}; accepted: on {device}, as ref is")
        return one
    if isinstance(one, Moments):
        return FrechetReference.from_moments(one, ddof=ddof, device=device, name=name)
    if isinstance(one, tuple) and len(one) == 2:
        return FrechetReference(one[0], one[1], device=device, names=(f"{name}[0]", f"{name}[1]"))
    raise TypeError(f"{name}: {type(one).__name__}; accepted: {_CANDIDATES}")


def check_dims(first: FrechetReference, second: FrechetReference) -> None:
    """ValueError where two Gaussians have different numbers of features."""
    if first.dim != second.dim:
        raise ValueError(f"{second.name}: {second.dim} features; accepted: {first.dim}, as {first.name} has")


def _check_method(method: str, refused: tuple[str, ...] = ()) -> None:
    accepted = [name for name in METHODS if name not in refused]
    if not isinstance(method, str) or method not in accepted:
        raise ValueError(f"method: {method!r}; accepted: {', '.join(accepted)}")


def _equal(f: Factor) -> RootTrace:
    """tr (ΣΣ)^½ = tr Σ, exactly."""
    trace = f.trace * f.root_scale * f.root_scale
    return RootTrace(Enclosure(trace, trace, trace), "equal", 0, ())


def _terms(side: FrechetReference) -> tuple[float, float, int, float]:
    """(tr Σ₊, its rounding, rank, what was removed) of one side; without a factor where none was needed."""
    made: Factor | None = vars(side).get("proven") or vars(side).get("factor")
    if made is not None:
        square = made.root_scale * made.root_scale
        return made.trace * square, made.trace_rounding * square, made.rank, made.removed * square
    assert side.matrix is not None
    trace = math.fsum(side.matrix.diagonal().tolist())
    return trace, expected_solver(side.dim) * math.sqrt(side.dim) * trace, side.dim, 0.0


def _result(first: FrechetReference, second: FrechetReference, root: RootTrace) -> FrechetResult:
    """Put the terms together."""
    gap = first.mean - second.mean
    mean_term = math.fsum((gap * gap).tolist())
    trace1, rounding1, rank1, removed1 = _terms(first)
    equal = root.method == "equal"
    trace2, rounding2, rank2, removed2 = (trace1, rounding1, rank1, removed1) if equal else _terms(second)
    bounds, method = root.bounds, root.method
    if not equal and (first.rows is not None or second.rows is not None):
        method = "low-rank"
    trace_term = math.fsum([trace1, trace2, -bounds.value, -bounds.value])
    value = math.fsum([mean_term, trace1, trace2, -bounds.value, -bounds.value])
    if not (math.isfinite(value) and math.isfinite(trace1 + trace2)):
        raise ValueError(f"{first.name}, {second.name}: so large that the distance overflows float64; scale them down")
    rounding = 8 * UNIT * mean_term + (_SMALLEST * first.dim if bool(gap.any()) else 0.0)
    if not equal:
        rounding += UNIT * (4 * (trace1 + trace2) + 4 * bounds.value) + rounding1 + rounding2
    lower = math.fsum([value, 2 * (bounds.value - bounds.upper), -rounding])
    upper = math.fsum([value, 2 * (bounds.value - bounds.lower), rounding])
    return FrechetResult(
        value,
        lower=min(max(lower, 0.0), value),
        upper=upper,
        mean_term=mean_term,
        trace_term=trace_term,
        trace_root=bounds.value,
        method=method,
        steps=root.steps,
        rank1=rank1,
        rank2=rank2,
        removed1=removed1,
        removed2=removed2,
        jitter=0.0,
        notes=root.notes,
        proof="proven" if root.proven else "probable",
        covers=COVERS,
    )
