"""What a Fréchet distance is given as: a float that knows its bounds and its history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

COVERS = "the d×d arithmetic on the means and covariances (or samples) given"
"""What every interval is about; not the network's precision, float32 statistics, or the choice of samples."""

_Result = TypeVar("_Result", bound="FrechetResult")


class FrechetResult(float):
    """A Fréchet distance (squared, as FID is quoted): a float with its bounds and its history.

    Attributes:
        lower, upper: bounds of the exact distance of what was given, as ``covers`` says; never below zero.
        proof: "proven", or "probable" where LAPACK's usual accuracy is part of the bounds.
        covers: what the bounds are about: the d×d arithmetic on the means and covariances (or samples) given; not the
            network's precision, the rounding of float32 statistics, or the choice of samples.
        mean_term: ‖μ₁ − μ₂‖².
        trace_term: tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½.
        trace_root: tr (Σ₁Σ₂)^½.
        method: the route that gave the value: "equal", "eigvalsh", "eigh", "svd", "newton-schulz", "low-rank".
        steps: of the iteration; 0 for the others.
        rank1, rank2: numerical rank of each covariance; for samples on the low-rank route n − 1.
        removed1, removed2: sum of the negative eigenvalues of each covariance that count as zero (zero or below).
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
    removed1: float
    removed2: float
    jitter: float
    notes: tuple[str, ...]
    proof: str
    covers: str

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
        "removed1",
        "removed2",
        "jitter",
        "notes",
        "proof",
        "covers",
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
