"""The table of metrics: what each reads of the two sets, and the function that computes it.

A new metric is one file with a function and one line here; nothing else knows their names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from fastfid.metrics.result import Result

Form = Literal["moments", "rows"]
"""A Gaussian (``FrechetReference``) or the features themselves [n, d]."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        function: "module:name" of ``f(ref, gen, **parameters)``, or ``f(gen, …)`` where ``ref`` is None; it gives a
            Result or a dict of them by name.
        ref, gen: the form in which it reads each side; None for a side that it does not read.
        space: which features: "pool" (the protocol's tap, or those of an extractor in the network's place), "spatial"
            or "logits".
        gives: the names of its results where it has several; "*" stands for its convention.
        display: what people call its result; under weights other than the published ones ``unofficial`` in its place.
        unofficial: see ``display``; "" where the name says nothing of the network.
        conventional: whether it takes ``convention``, for which a protocol may have its own.
        certified: whether it takes ``certify``.
    """

    function: str
    ref: Form | None
    gen: Form
    space: Literal["pool", "spatial", "logits"] = "pool"
    gives: tuple[str, ...] = ()
    display: str = ""
    unofficial: str = ""
    conventional: bool = False
    certified: bool = False

    def compute(self, name: str, ref: Any, gen: Any, parameters: Mapping[str, Any]) -> dict[str, Result]:
        """Its results by name; where it can't be computed, results that say why."""
        module, _, function = self.function.partition(":")
        run: Callable[..., Result | Mapping[str, Result]] = getattr(importlib.import_module(module), function)
        try:
            made = run(*(() if self.ref is None else (ref,)), gen, **parameters)
        except ValueError as error:
            return {key: Result.failed(key, str(error)) for key in self.keys(name, parameters)}
        return {name: made} if isinstance(made, Result) else dict(made)

    def keys(self, name: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of its results."""
        convention = str(parameters.get("convention", ""))
        return tuple(key.replace("*", convention) for key in self.gives) or (name,)


_MODULES = "fastfid.metrics."

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "fid": Metric(
            _MODULES + "gaussian_distance:fid",
            "moments",
            "moments",
            display="FID",
            unofficial="FD",
            certified=True,
        ),
        "sfid": Metric(
            _MODULES + "gaussian_distance:fid",
            "moments",
            "moments",
            space="spatial",
            display="sFID",
            unofficial="sFD",
            certified=True,
        ),
        "is": Metric(
            _MODULES + "inception_scores:inception_score",
            None,
            "rows",
            space="logits",
            display="Inception Score",
            conventional=True,
        ),
        "kid": Metric(_MODULES + "kernel_mmd:kid", "rows", "rows", display="KID", conventional=True),
        "prdc": Metric(
            _MODULES + "manifold:prdc", "rows", "rows", gives=("precision", "recall", "density", "coverage")
        ),
        "pr": Metric(
            _MODULES + "manifold:precision_recall",
            "rows",
            "rows",
            gives=("precision[*]", "recall[*]"),
            conventional=True,
        ),
        "realism": Metric(_MODULES + "manifold:realism", "rows", "rows", display="Realism"),
        "authpct": Metric(_MODULES + "manifold:authenticity", "rows", "rows", display="AuthPct"),
        "mifid": Metric(_MODULES + "gaussian_distance:mifid", "rows", "rows", display="MIFID"),
        "mind": Metric(_MODULES + "sliced:mind", "rows", "rows", display="MIND"),
        "vendi": Metric(_MODULES + "spectral:vendi", None, "rows", display="Vendi score"),
        "mmd": Metric(_MODULES + "kernel_mmd:mmd", "rows", "rows", display="MMD"),
    }
)
