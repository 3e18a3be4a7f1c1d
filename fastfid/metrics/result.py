"""What a metric gives: a float that knows its bounds, its uncertainty and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """lower ≤ exact ≤ upper, and what of the way to the number that covers ("float64 arithmetic on the features")."""

    lower: float
    upper: float
    covers: str


@dataclass(frozen=True)
class Interval:
    """Where the number may lie for other samples of the same distributions.

    Attributes:
        level: 0.95 and so on.
        lower, upper: of the interval.
        se: standard error.
        method: how it was found ("delete-a-group jackknife", "U-statistic", …).
        covers: what varies, and what was held fixed.
    """

    level: float
    lower: float
    upper: float
    se: float
    method: str
    covers: str


class Result(float):
    """The value of a metric, NaN where it could not be computed (``error`` says why).

    Attributes:
        name: the key it goes by ("kid", "precision[adm]").
        display_name: what people call it.
        convention: whose definition it follows ("torch-fidelity", "prdc", …); "" where there is only one.
        bounds: Bounds of the arithmetic, or None where none are proved.
        interval: Interval, or None.
        bias_corrected: the value without the bias of a finite sample, or None.
        extra: further numbers by name (std, terms, per split).
        notes: sentences that a reader of the number should know.
        error: why there is no value; None where there is one.
        official: whether the published network made the features; None where nothing is known of them.
    """

    name: str
    display_name: str
    convention: str
    bounds: Bounds | None
    interval: Interval | None
    bias_corrected: float | None
    extra: Mapping[str, Any]
    notes: tuple[str, ...]
    error: str | None
    official: bool | None

    def __new__(
        cls,
        value: float,
        name: str = "",
        *,
        display_name: str = "",
        convention: str = "",
        bounds: Bounds | None = None,
        interval: Interval | None = None,
        bias_corrected: float | None = None,
        extra: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
        error: str | None = None,
        official: bool | None = None,
    ) -> Result:
        """A value and what is known of it."""
        self = super().__new__(cls, value)
        self.__dict__.update(
            name=name,
            display_name=display_name or name,
            convention=convention,
            bounds=bounds,
            interval=interval,
            bias_corrected=bias_corrected,
            extra=dict(extra or {}),
            notes=notes,
            error=error,
            official=official,
        )
        return self

    @classmethod
    def failed(cls, name: str, error: str, **fields: Any) -> Result:
        """No value, and why."""
        return cls(math.nan, name, error=error, **fields)

    @property
    def value(self) -> float:
        """The value as a plain float."""
        return float(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report; ``value`` is None where there is none."""
        fields = {**self.__dict__, "notes": list(self.notes)}
        for key in ("bounds", "interval"):
            fields[key] = None if fields[key] is None else asdict(fields[key])
        del fields["name"]
        return {"value": None if self.error is not None else float(self), **fields}

    def __getnewargs_ex__(self) -> tuple[tuple[float], Mapping[str, Any]]:
        return (float(self),), dict(self.__dict__)

    def __repr__(self) -> str:
        return f"Result({float(self)!r}, {self.name!r}" + (f", error={self.error!r})" if self.error else ")")

    def __str__(self) -> str:
        return float.__repr__(self)
