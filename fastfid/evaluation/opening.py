"""Arguments understood, and whether they can be compared, before an image is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastfid.errors import SetWarning
from fastfid.evaluation.comparable import facts_of, require_network, require_protocol
from fastfid.evaluation.session import Session
from fastfid.moments import Moments
from fastfid.moments import files as statistics_files
from fastfid.sources import WHOLE, Source, is_statistics, open_source


@dataclass(frozen=True)
class GivenSet:
    """An argument that was understood but not yet read; where it is statistics, these by tap."""

    role: str
    description: str
    what: Source | Moments
    statistics: Mapping[str, Moments] = field(default_factory=dict)


def open_set(session: Session, role: str, given: Any) -> GivenSet:
    """Understand one argument without reading its images."""
    if isinstance(given, Moments):
        return GivenSet(role, "Moments", given, _by_tap(session, given))
    if isinstance(given, (str, os.PathLike)) and is_statistics(given):
        loaded = _load(Path(given), session)
        return GivenSet(role, os.fspath(given), next(iter(loaded.values())), loaded)
    try:
        source = open_source(given, decode=session.protocol.decode, key=session.settings.key)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise type(error)(f"{role}: {error}") from error
    told = session.sharing.understand(role, source)
    if told is not None:
        session.warn(SetWarning, told)
    return GivenSet(role, source.description, source)


def check(session: Session, given: Sequence[GivenSet]) -> None:
    """What is bound to fail fails here, before hours go into the first set; what is left unread is told here."""
    limit = session.settings.limit
    for one in given:
        for text in one.what.remarks if isinstance(one.what, Source) else ():
            session.warn(SetWarning, text)
        count = one.what.count if isinstance(one.what, Source) else None
        if count is not None and limit is not None and limit > count:
            raise ValueError(f"limit={limit}, but {one.role}={one.description!r} holds {count} images")
        if isinstance(one.what, Source) and session.share != WHOLE and session.protocol.statistics.block:
            _require_known_blocks(session, one, count)
    _agree(session, given)
    statistics = [one for one in given if isinstance(one.what, Moments)]
    for one in statistics:
        for tap, moments in one.statistics.items():
            facts = facts_of(moments)
            require_protocol(one.role, one.description, facts, session.protocol_at(tap))
            if facts and len(statistics) < len(given):
                require_network(one.role, one.description, facts, session.network(tap))
    for one in given:
        if (
            isinstance(one.what, Source)
            and session.keeping.checkpoint is not None
            and not session.sharing.is_own(one.what)
        ):
            reading = session.reading(one.what)
            session.keeping.prove(one.role, one.what, session.networks, session.protocol, reading)


def check_distance(session: Session, given: Sequence[GivenSet]) -> None:
    """What a distance needs of its sides beyond what ``check`` knows: two samples each, and one dimension."""
    for one in given:
        n = one.what.count if isinstance(one.what, Source) else one.what.n
        if session.sharing.is_own(one.what):
            continue
        if n is not None and session.settings.limit is not None and isinstance(one.what, Source):
            n = min(n, session.settings.limit)
        require_two(one.role, one.description, n)
        for tap, moments in one.statistics.items():
            if moments.dim is not None:
                session.require_dim(tap, f"{one.role}={one.description!r}", moments.dim)
    if any(isinstance(one.what, Source) for one in given):
        session.require_network_dim()


def require_two(role: str, description: str, n: int | None) -> None:
    """ValueError where a set has too few samples for a covariance."""
    if n is not None and n < 2:
        raise ValueError(
            f"{role}={description!r} holds {n} image{'' if n == 1 else 's'}; a covariance needs at least 2, and a "
            "distance worth quoting needs more than there are feature dimensions"
        )


def _agree(session: Session, given: Sequence[GivenSet]) -> None:
    """That all processes were given the same, by content."""
    protocol, asked = session.protocol, session.settings
    settings = {
        "protocol": protocol.to_dict(),
        "limit": asked.limit,
        "seed": asked.seed,
        "skip_bad": asked.skip_bad,
        "key": asked.key,
    }
    whole = {"limit": asked.limit, f"protocol {protocol.name}": protocol.statistics.block}
    session.sharing.agree([(one.role, one.description, one.what) for one in given], settings, whole)
    if any(isinstance(one.what, Source) for one in given):
        session.agree_on_network()


def _require_known_blocks(session: Session, given: GivenSet, count: int | None) -> None:
    """Which images an incomplete last block holds must be known before the set is read in shards."""
    if count is None or session.settings.skip_bad:
        why = "skip_bad leaves out images" if session.settings.skip_bad else f"{given.description} is a stream"
        raise ValueError(
            f"shard: protocol {session.protocol.name} leaves out the last, incomplete block of "
            f"{session.protocol.statistics.block} images; which they are is not known beforehand where {why}. Read "
            "the set in one piece"
        )


def _by_tap(session: Session, moments: Moments) -> dict[str, Moments]:
    """Statistics under the tap that they say they are of, where that is read; else under the protocol's."""
    said = moments.metadata.get("tap")
    wanted = (said, session.tap, session.taps[0])
    return {next(tap for tap in wanted if tap in session.taps): moments}


def _load(path: Path, session: Session) -> dict[str, Moments]:
    """Statistics by tap; of a foreign (ADM) file also the spatial ones, of our own what they say they are."""
    names, taps = statistics_files.names(path), session.taps
    foreign = "mu_s" in names or "format" not in names
    found: dict[str, Moments] = {}
    if not (foreign and taps == ("spatial",)):
        found |= _by_tap(session, Moments.load(path))
    if foreign and "spatial" in taps and (taps == ("spatial",) or "mu_s" in names):
        found["spatial"] = Moments.load(path, keys=("mu_s", "sigma_s"))
    return found
