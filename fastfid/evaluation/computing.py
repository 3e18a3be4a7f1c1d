"""Measured sets turned into results, metric by metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fastfid.distributed import World, rows_across
from fastfid.evaluation.comparing import identity, warn_of_size
from fastfid.evaluation.measuring import MeasuredSet
from fastfid.evaluation.opening import GivenSet, require_two
from fastfid.evaluation.plan import Asked, Plan
from fastfid.evaluation.report import Report, provenance
from fastfid.evaluation.results import versions
from fastfid.evaluation.session import Session
from fastfid.extractors import PRECISIONS
from fastfid.metrics.result import Result

_ROLES = ("ref", "gen")
_NETWORK = ("extractor", "tap", "weights", "weights_sha256", "precision", "metric")
"""What a report says of a network; metadata of statistics hold more, of their sets."""


def require_computable(plan: Plan, given: list[GivenSet]) -> None:
    """ValueError, before the work, where a metric reads the images of a set of which only statistics were given."""
    for one in given:
        if not one.statistics:
            continue
        rows = {tap for tap, moments in one.statistics.items() if moments.rows is not None}
        for asked in plan.asked:
            form = getattr(asked.metric, one.role)
            if form == "rows" and asked.tap not in rows:
                raise ValueError(
                    f"{one.role}={one.description!r} holds statistics (means and covariances), but {asked.name} reads "
                    "the features of every image; give the images, or leave out this metric"
                )
            if form == "moments" and asked.tap not in one.statistics:
                raise ValueError(
                    f"{one.role}={one.description!r} holds statistics of {', '.join(map(repr, one.statistics))}, but "
                    f"{asked.name} reads {asked.tap!r} (mu_s, sigma_s in ADM's files); give the images, or leave it out"
                )


def compute(
    session: Session,
    plan: Plan,
    sides: Mapping[str, MeasuredSet],
    *,
    world: World | None = None,
    certify: bool | None = None,
    reached: Callable[[Report], None] = lambda _one: None,
) -> Report:
    """All results, the same on every rank; rank 0 computes them.

    Args:
        session, plan: of the call.
        sides: the measured sets by role.
        world: the processes; None: the session's.
        certify: None: the session's.
        reached: gets the report on rank 0 before the other ranks do.
    """
    world = world or session.world
    rows = {role: {tap: _rows(world, side, tap) for tap in plan.rows(role)} for role, side in sides.items()}
    proof = session.settings.certify if certify is None else certify

    def make() -> Report:
        made = _report(session, plan, sides, rows, bool(proof))
        reached(made)
        return made

    return world.once("results", make)


def _rows(world: World, side: MeasuredSet, tap: str) -> torch.Tensor | None:
    """A side's rows on rank 0; those of a reference that was measured by ranks which have parted are there already."""
    features = side.features[tap]
    if features.given:
        return features.moments.rows
    return rows_across(features.rows, world, interleaved=side.interleaved)


def _report(
    session: Session,
    plan: Plan,
    sides: Mapping[str, MeasuredSet],
    rows: Mapping[str, Mapping[str, torch.Tensor | None]],
    certify: bool,
) -> Report:
    networks = {tap: _checked(session, plan, tap, sides) for tap in plan.taps}
    results: dict[str, Result] = {}
    for asked in plan.asked:
        network = networks[asked.tap]
        for key, one in _results(asked, sides, rows, certify).items():
            results[key] = _named(one, key, asked, network)
    settings = {"limit": session.settings.limit, "seed": session.settings.seed}
    return Report(
        results,
        {role: provenance(sides[role].info) if role in sides else None for role in _ROLES},
        networks,
        session.protocol.to_dict(),
        settings | {"metrics": {one.name: dict(one.parameters) for one in plan.asked}},
        str(session.device),
        (*session.remarks, *dict.fromkeys(note for one in results.values() for note in one.notes)),
        versions(),
        tuple(one.name for one in plan.asked),
    )


def _checked(session: Session, plan: Plan, tap: str, sides: Mapping[str, MeasuredSet]) -> dict[str, Any]:
    """What made the features of a tap, the same on both sides, and what must be said of them."""
    read = [(side.info.description, side.features[tap]) for side in sides.values() if tap in side.features]
    known = identity(session, read)
    facts = {name: known.get(name) for name in _NETWORK}
    for role, side in sides.items():
        if tap in plan.moments(role):
            require_two(role, side.info.description, side.features[tap].moments.n)
            warn_of_size(session, side.info.description, side.features[tap].moments)
    return facts


def _results(
    asked: Asked,
    sides: Mapping[str, MeasuredSet],
    rows: Mapping[str, Mapping[str, torch.Tensor | None]],
    certify: bool,
) -> dict[str, Result]:
    metric = asked.metric
    read: dict[str, Any] = {}
    for role in _ROLES:
        form = getattr(metric, role)
        if form == "moments":
            read[role] = sides[role].features[asked.tap].reference
        elif form == "rows":
            read[role] = rows[role][asked.tap]
    parameters = dict(asked.parameters)
    if metric.certified and certify:
        parameters["certify"] = True
    return metric.compute(asked.name, read.get("ref"), read["gen"], parameters)


def _named(one: Result, key: str, asked: Asked, network: dict[str, Any]) -> Result:
    """The result under its key; its name says where tap, precision or network are not those that papers mean."""
    fields = {**vars(one), "name": key}
    official = network["metric"].partition("-")[0] in ("fid", "sfid")
    display = asked.metric.display or one.display_name or key
    beside = [] if official else [str(network["weights"] or network["extractor"])]
    if asked.metric.space == "pool" and network.get("tap") not in (None, "2048"):
        beside.append(f"tap {network['tap']}")
    if network["precision"] in PRECISIONS and network["precision"] != "fp32":
        beside.append(f"network in {network['precision']}")
    display = display if official else asked.metric.unofficial or display
    named = f"{display} ({', '.join(beside)})" if beside else display
    return Result(float(one), **{**fields, "display_name": named, "official": official})
