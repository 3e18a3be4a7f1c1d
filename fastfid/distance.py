"""The Fréchet distance between Gaussians, with an enclosure on every value.

    FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ ,        tr (Σ₁Σ₂)^½ = ‖F₁ᵀF₂‖_*  for any  Σᵢ = Fᵢ Fᵢᵀ

(papers call FD² of Inception features FID). The product Σ₁Σ₂ is never formed, no complex number occurs and nothing is
added to a diagonal.

What the interval [lower, upper] means: it holds the exact distance of some pair of covariances within a relative
perturbation d·eps of the given ones, all rounding included; eigenvalues below d·eps·λmax are rounding and count as
zero. Where the samples themselves are known (n ≤ d) the pair is theirs.

Source: Dowson & Landau, J. Multivariate Anal. 12 (1982) 450-455, doi:10.1016/0047-259X(82)90077-X; Heusel et al. 2017,
arXiv:1706.08500.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch

from fastfid.errors import NumericalWarning
from fastfid.linalg.enclosure import UNIT, Enclosure
from fastfid.linalg.factors import Factor, factor, factor_of_rows
from fastfid.linalg.inputs import covariance, mean_vector
from fastfid.linalg.trace import METHODS, RootTrace, trace_of_root
from fastfid.moments import Moments

_Result = TypeVar("_Result", bound="FrechetResult")


class FrechetResult(float):
    """A Fréchet distance (squared, as FID is quoted): a float with its bounds and its history.

    Attributes:
        lower, upper: bounds of the distance, rounding included; lower may be below zero, which the distance never is.
        mean_term: ‖μ₁ − μ₂‖².
        trace_term: tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½.
        trace_root: tr (Σ₁Σ₂)^½.
        method: the route that gave the value: "equal", "eigvalsh", "svd", "newton-schulz", "low-rank".
        steps: of the iteration; 0 for the others.
        rank1, rank2: numerical rank of each covariance; for samples on the low-rank route n − 1.
        jitter: what was added to a diagonal: always 0.0, and here so that nobody has to wonder.
        notes: sentences on handovers, symmetrised or clipped input, negative values; usually empty.
    """

    lower: float
    upper: float
    mean_term: float
    trace_term: float
    trace_root: float
    method: str
    steps: int
    rank1: int
    rank2: int
    jitter: float
    notes: tuple[str, ...]

    _fields: ClassVar[tuple[str, ...]] = (
        "lower",
        "upper",
        "mean_term",
        "trace_term",
        "trace_root",
        "method",
        "steps",
        "rank1",
        "rank2",
        "jitter",
        "notes",
    )

    def __new__(cls: type[_Result], value: float, **fields: Any) -> _Result:
        """A value and every field by name."""
        unknown, missing = set(fields) - set(cls._fields), set(cls._fields) - set(fields)
        if unknown or missing:
            raise TypeError(f"{cls.__name__}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        self = super().__new__(cls, value)
        self.__dict__.update(fields)
        return self

    @classmethod
    def from_result(cls: type[_Result], result: FrechetResult) -> _Result:
        """The same value and fields as another class of result."""
        return cls(float(result), **{name: getattr(result, name) for name in FrechetResult._fields})

    @property
    def value(self) -> float:
        """The distance as a plain float."""
        return float(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        fields = {name: getattr(self, name) for name in FrechetResult._fields}
        return {"value": float(self), **fields, "notes": list(self.notes)}

    def __getnewargs_ex__(self) -> tuple[tuple[float], Mapping[str, Any]]:
        return (float(self),), {name: getattr(self, name) for name in self._fields}

    def __copy__(self: _Result) -> _Result:
        made = type(self)(float(self), **{name: getattr(self, name) for name in self._fields})
        made.__dict__.update(self.__dict__)
        return made

    def __str__(self) -> str:
        return float.__repr__(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({float(self)!r} in [{self.lower!r}, {self.upper!r}], method={self.method!r})"


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
    rtol: float = 1e-5,
) -> FrechetResult:
    """The Fréchet distance between two Gaussians with a two-sided bound.

        FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

    Args:
        mu1, mu2: means [d], NumPy or torch, any real dtype.
        sigma1, sigma2: covariances [d, d].
        method: "eigvalsh", "newton-schulz" or "svd"; "auto" lets the cost model choose (fastfid.linalg.trace).
        device: where the d×d work is done; None means where sigma1 lies.
        certify: pay for a tight enclosure. Without it eigenvalues of the product are used on the CPU, whose interval
            may be as wide as 1e-5 of the trace.
        rtol: widest enclosure of tr (Σ₁Σ₂)^½, relative to it, that a route may give before the next one takes over.

    Returns:
        FrechetResult: a float with lower, upper, the terms, the method and notes.

    Raises:
        ValueError: as ``frechet_distance``, or an unknown method.

    Warns:
        NumericalWarning: as ``frechet_distance``.

    Numerics:
        tr (Σ₁Σ₂)^½ to 1e-10 relative (tests/test_frechet.py::test_spectra), and the interval holds the truth in each of
        10 000 random cases (tests/test_frechet.py::test_enclosure_holds_the_truth).
    """
    _check_method(method, ("low-rank",))
    first = covariance(sigma1, "sigma1")
    d = first.matrix.shape[0]
    second = covariance(sigma2, "sigma2", d)
    means = mean_vector(mu1, "mu1", d), mean_vector(mu2, "mu2", d)
    where = _work_device(device, first.matrix)
    notes = [given.note for given in (first, second) if given.note]
    gap = means[0].to(where) - means[1].to(where)
    sigmas = first.matrix.to(where), second.matrix.to(where)
    factor1 = factor(sigmas[0], "sigma1")
    if torch.equal(sigmas[0], sigmas[1]):
        return _result(gap, (factor1, factor1), _equal(factor1), notes)
    factor2 = factor(sigmas[1], "sigma2")
    root = trace_of_root(factor1, factor2, method, certify=bool(certify), rtol=rtol)
    return _result(gap, (factor1, factor2), root, notes)


def frechet_moments(
    ref: Moments,
    gen: Moments,
    *,
    ddof: int | tuple[int, int] = 1,
    method: str = "auto",
    device: torch.device | str | None = None,
    certify: bool | None = None,
    rtol: float = 1e-5,
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
        The low-rank route equals the singular values of the centred samples to 1e-12
        (tests/test_frechet.py::test_low_rank_against_the_samples).
    """
    for name, side in (("ref", ref), ("gen", gen)):
        if not isinstance(side, Moments):
            raise TypeError(f"{name}: {type(side).__name__}; accepted: Moments")
    _check_method(method)
    if mean_dtype not in ("float32", "float64"):
        raise ValueError(f"mean_dtype: {mean_dtype!r}; accepted: 'float32', 'float64'")
    means = [side.mean.to(getattr(torch, mean_dtype)).to(torch.float64) for side in (ref, gen)]
    if means[0].shape != means[1].shape:
        raise ValueError(f"gen: {means[1].shape[0]} features; accepted: {means[0].shape[0]}, as ref has")
    ddofs = (ddof, ddof) if isinstance(ddof, int) else ddof
    use_rows = method in ("auto", "low-rank")
    rows = [side.rows if use_rows else None for side in (ref, gen)]
    if method == "low-rank" and rows[0] is None and rows[1] is None:
        raise ValueError("method: 'low-rank' needs the samples of one side (n ≤ d); both sides only have a covariance")
    if rows[0] is None and rows[1] is None:
        return frechet(
            means[0],
            ref.cov(ddofs[0]),
            means[1],
            gen.cov(ddofs[1]),
            method=method,
            device=device,
            certify=certify,
            rtol=rtol,
        )
    where = _work_device(device, means[0])
    factors = [
        _moments_factor(side, kept, k, name, where)
        for side, kept, k, name in zip((ref, gen), rows, ddofs, ("ref", "gen"), strict=True)
    ]
    gap = means[0].to(where) - means[1].to(where)
    if (
        rows[0] is not None
        and rows[1] is not None
        and ddofs[0] == ddofs[1]
        and torch.equal(rows[0], rows[1].to(rows[0].device))
    ):
        return _result(gap, (factors[0], factors[0]), _equal(factors[0]), [])
    root = trace_of_root(factors[0], factors[1], "low-rank", certify=bool(certify), rtol=rtol)
    return _result(gap, (factors[0], factors[1]), root._replace(method="low-rank"), [])


def _check_method(method: str, refused: tuple[str, ...] = ()) -> None:
    accepted = [name for name in METHODS if name not in refused]
    if method not in accepted:
        raise ValueError(f"method: {method!r}; accepted: {', '.join(accepted)}")


def _work_device(asked: torch.device | str | None, given: torch.Tensor) -> torch.device:
    """Where the d×d work is done: the CPU where the device asked for has no float64."""
    device = given.device if asked is None else torch.device(asked)
    return torch.device("cpu") if device.type == "mps" else device


def _moments_factor(side: Moments, rows: torch.Tensor | None, ddof: int, name: str, device: torch.device) -> Factor:
    """A factor of one side: from its samples where they are known, else from its covariance."""
    if rows is None:
        return factor(side.cov(ddof).to(device), name)
    if rows.shape[0] <= ddof:
        raise ValueError(f"{name}: {rows.shape[0]} samples; a covariance with ddof = {ddof} needs at least {ddof + 1}")
    return factor_of_rows(rows.to(device), rows.shape[0] - ddof)


def _equal(f: Factor) -> RootTrace:
    """tr (ΣΣ)^½ = tr Σ, exactly."""
    trace = f.trace * f.root_scale * f.root_scale
    return RootTrace(Enclosure(trace, trace, trace), "equal", 0, ())


def _result(gap: torch.Tensor, factors: tuple[Factor, Factor], root: RootTrace, notes: list[str]) -> FrechetResult:
    """Put the terms together; warn of what the caller must know."""
    mean_term = math.fsum((gap * gap).tolist())
    traces = [f.trace * f.root_scale * f.root_scale for f in factors]
    bounds = root.bounds
    trace_term = math.fsum([*traces, -bounds.value, -bounds.value])
    value = math.fsum([mean_term, *traces, -bounds.value, -bounds.value])
    if not math.isfinite(value):
        raise ValueError("mu1, mu2, sigma1, sigma2: so large that their distance overflows float64; scale them down")
    rounding = 8 * UNIT * mean_term
    if root.method != "equal":
        rounding += math.fsum(f.trace_rounding * f.root_scale * f.root_scale for f in factors)
    notes = [*notes, *dict.fromkeys(f.note for f in factors if f.note), *root.notes]
    lower = math.fsum([value, 2 * (bounds.value - bounds.upper), -rounding])
    upper = math.fsum([value, 2 * (bounds.value - bounds.lower), rounding])
    if value < 0.0:
        notes.append(f"the value is below zero by rounding; the distance itself lies between 0 and {upper:.3g}")
    for note in notes:
        if note not in root.notes:
            warnings.warn(note, NumericalWarning, stacklevel=3)
    return FrechetResult(
        value,
        lower=lower,
        upper=upper,
        mean_term=mean_term,
        trace_term=trace_term,
        trace_root=bounds.value,
        method=root.method,
        steps=root.steps,
        rank1=factors[0].rank,
        rank2=factors[1].rank,
        jitter=0.0,
        notes=tuple(notes),
    )
