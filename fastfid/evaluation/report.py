"""What an evaluation gives: its results by name, and everything that must be known to repeat or judge them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastfid.evaluation.results import SetInfo, skipped_reasons
from fastfid.metrics.result import Bounds, Interval, Result

SCHEMA = "fastfid-report/2"


@dataclass(frozen=True)
class Report(Mapping[str, Result]):
    """Results by name; a mapping of them.

    Attributes:
        results: by the names that were asked for, in their order; one that could not be computed is NaN with ``error``.
        sets: what each side was, "ref" and "gen"; None for one that no metric reads.
        networks: what made the features, by tap.
        protocol: the protocol, or what its JSON said.
        settings: limit, seed and the metrics' parameters.
        device: where network and d×d work ran.
        warnings: everything the user must be told, in order.
        versions: that can move a number.
    """

    results: Mapping[str, Result]
    sets: Mapping[str, Mapping[str, Any] | None]
    networks: Mapping[str, Mapping[str, Any]]
    protocol: Mapping[str, Any]
    settings: Mapping[str, Any]
    device: str
    warnings: tuple[str, ...]
    versions: Mapping[str, str]
    metrics: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def flat(self, prefix: str = "") -> dict[str, float]:
        """Every number by name, for loggers: values, and ``name.std`` and its like; what has no value is left out."""
        made = {}
        for name, one in self.results.items():
            if one.error is None:
                made[f"{prefix}{name}"] = float(one)
                numbers = {key: value for key, value in one.extra.items() if isinstance(value, (int, float))}
                made.update({f"{prefix}{name}.{key}": float(value) for key, value in numbers.items()})
        return made

    def to_dict(self) -> dict[str, Any]:
        """The JSON report, schema "fastfid-report/2"."""
        return {
            "schema": SCHEMA,
            "fastfid": self.versions.get("fastfid"),
            "results": {name: one.to_dict() for name, one in self.results.items()},
            "sets": {role: None if one is None else dict(one) for role, one in self.sets.items()},
            "networks": {tap: dict(one) for tap, one in self.networks.items()},
            "protocol": self.protocol.get("name"),
            "protocol_details": json.loads(json.dumps(self.protocol)),
            "settings": dict(self.settings),
            "device": self.device,
            "metrics": list(self.metrics),
            "warnings": list(self.warnings),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, text: str) -> Report:
        """A report as ``to_dict`` wrote it.

        Raises:
            ValueError: not JSON, or of another schema.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ValueError(f"report: no JSON: {error}") from error
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            named = found.get("schema") if isinstance(found, dict) else type(found).__name__
            raise ValueError(f"schema {named!r}; accepted: {SCHEMA!r}")
        return cls(
            {name: _result(name, one) for name, one in found["results"].items()},
            found["sets"],
            found["networks"],
            found["protocol_details"],
            found["settings"],
            found["device"],
            tuple(found["warnings"]),
            found["versions"],
            tuple(found["metrics"]),
        )


def provenance(info: SetInfo) -> dict[str, Any]:
    """One side for a report."""
    return {
        "description": info.description,
        "kind": info.kind,
        "n": info.n,
        "skipped": skipped_reasons(info.skipped, info.reasons),
        "unread": dict(info.unread),
        "dropped": info.dropped,
        "seconds": info.seconds,
        "images_per_second": info.n / info.seconds if info.n and info.seconds else None,
        "notes": list(info.notes),
    }


def _result(name: str, found: Mapping[str, Any]) -> Result:
    fields = {key: value for key, value in found.items() if key not in ("value", "bounds", "interval", "notes")}
    bounds, interval = found["bounds"], found["interval"]
    return Result(
        float("nan") if found["value"] is None else found["value"],
        name,
        bounds=None if bounds is None else Bounds(**bounds),
        interval=None if interval is None else Interval(**interval),
        notes=tuple(found["notes"]),
        **fields,
    )
