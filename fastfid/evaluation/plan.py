"""From the metrics that were asked for to what must be read of each set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastfid.evaluation.settings import Settings
from fastfid.extractors import Extractor
from fastfid.metrics.table import METRICS, Form, Metric

_LOGITS = "logits_unbiased"
"""What every package's Inception score reads: the classifier without its bias."""

_CONVENTIONS = {"is": "torch-fidelity", "kid": "torch-fidelity", "pr": "adm"}
"""Where a protocol has none of its own."""


Metrics = str | Iterable[str] | Mapping[str, Mapping[str, Any]]
"""Names, with commas or in a list, or a mapping of names to parameters."""


@dataclass(frozen=True)
class Asked:
    """One metric of a call: its name, what it is, its parameters and the tap that it reads."""

    name: str
    metric: Metric
    parameters: Mapping[str, Any]
    tap: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its results."""
        return self.metric.keys(self.name, self.parameters)


@dataclass(frozen=True)
class Plan:
    """What a call computes, in the order that was asked for."""

    asked: tuple[Asked, ...]

    @property
    def taps(self) -> tuple[str, ...]:
        """Every tap that is read, once."""
        return tuple(dict.fromkeys(one.tap for one in self.asked))

    def rows(self, role: str) -> tuple[str, ...]:
        """The taps of which one side's rows are needed; role is "ref" or "gen"."""
        return self._taps(role, "rows")

    def moments(self, role: str) -> tuple[str, ...]:
        """The taps of which one side's moments are needed."""
        return self._taps(role, "moments")

    def reads(self, role: str) -> bool:
        """Whether any metric reads this side."""
        return any(getattr(one.metric, role) is not None for one in self.asked)

    def _taps(self, role: str, form: Form) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.tap for one in self.asked if getattr(one.metric, role) == form))


def plan(metrics: Metrics, settings: Settings) -> Plan:
    """The plan of a call.

    Args:
        metrics: names of ``fastfid.metrics.table.METRICS``, or a mapping of them to their parameters.
        settings: of the call.

    Raises:
        ValueError: a name is unknown (the message has the nearest), two metrics give one result, there are none, or a
            metric reads a layer of the Inception network where another network takes its place.
        TypeError: names that are no text, parameters that are no mapping.
    """
    named: Mapping[str, Any] = metrics if isinstance(metrics, Mapping) else dict.fromkeys(_names(metrics), None)
    asked = tuple(_asked(name, parameters, settings) for name, parameters in named.items())
    if not asked:
        raise ValueError(f"metrics: none; accepted: {', '.join(METRICS)}")
    whose: dict[str, str] = {}
    for one in asked:
        for key in one.keys:
            if whose.setdefault(key, one.name) != one.name:
                raise ValueError(f"metrics: {whose[key]!r} and {one.name!r} both give a result {key!r}; ask for one")
    return Plan(asked)


def _names(metrics: str | Iterable[str]) -> list[str]:
    if not isinstance(metrics, Iterable):
        raise TypeError(f"metrics: {type(metrics).__name__}; accepted: names, or a mapping of names to parameters")
    listed = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    wrong = next((name for name in listed if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"metrics: {wrong!r}; accepted: names, or a mapping of names to parameters")
    return [name.strip() for name in listed]


def _asked(name: Any, parameters: Any, settings: Settings) -> Asked:
    if not isinstance(name, str) or name not in METRICS:
        near = difflib.get_close_matches(str(name), METRICS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"metrics: {name!r} is not known.{hint} Accepted: {', '.join(METRICS)}")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise TypeError(f"metrics: {name!r} has parameters {parameters!r}; accepted: a mapping, or None")
    metric, given = METRICS[name], dict(parameters or {})
    if metric.conventional:
        own = dict(settings.protocol.conventions)
        given.setdefault("convention", own.get(name, _CONVENTIONS[name]))
    return Asked(name, metric, given, _tap(name, metric, settings))


def _tap(name: str, metric: Metric, settings: Settings) -> str:
    given = settings.extractor
    replaced = given is not None and not (isinstance(given, Extractor) and given.taps != ("",))
    if metric.space == "pool":
        return "" if replaced else settings.protocol.tap
    if given is not None:
        raise ValueError(
            f"metrics: {name!r} reads the {metric.space} layer of the Inception network, in whose place an extractor "
            "was given; leave one of them out"
        )
    return _LOGITS if metric.space == "logits" else "spatial"
