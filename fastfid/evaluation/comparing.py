"""Two measured sets compared: their distance, and everything that must be known of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastfid.distance.frechet import RTOL, check_dims, compare
from fastfid.errors import ProtocolWarning, SmallSampleWarning
from fastfid.evaluation.comparable import require_network
from fastfid.evaluation.measuring import Features, MeasuredSet
from fastfid.evaluation.opening import require_two
from fastfid.evaluation.results import FIDResult, Run, versions
from fastfid.evaluation.session import Session
from fastfid.moments import Moments
from fastfid.moments.metadata import missing_shards


def distance_between(session: Session, ref: MeasuredSet, gen: MeasuredSet, certify: bool | None) -> FIDResult:
    """The distance of two measured sides that belong together, at the protocol's tap."""
    sides = [(side.info.description, side.features[session.tap]) for side in (ref, gen)]
    for description, one in sides:
        require_two(one.role, description, one.moments.n)
    facts = identity(session, sides)
    for description, one in sides:
        warn_of_size(session, description, one.moments)
    first, second = (one.reference for _, one in sides)
    check_dims(first, second)
    distance = compare(first, second, "auto", certify=bool(certify), rtol=RTOL)
    made = FIDResult.from_result(distance)
    made.run = Run(
        metric=facts["metric"],
        protocol=session.protocol,
        extractor=facts["extractor"],
        weights=facts["weights"],
        weights_sha256=facts["weights_sha256"],
        precision=facts["precision"],
        device=str(session.device),
        limit=session.settings.limit,
        seed=session.settings.seed,
        ref=ref.info,
        gen=gen.info,
        warnings=(*session.remarks, *distance.notes),
        versions=versions(),
    )
    return made


def identity(session: Session, sides: Sequence[tuple[str, Features]]) -> dict[str, Any]:
    """What made both sides' features, which must agree where both say."""
    known = []
    for description, one in sides:
        metadata = one.moments.metadata
        if not metadata.get("fingerprint"):
            session.warn(
                ProtocolWarning,
                f"{description}: these statistics do not say which protocol and network made them; they are taken to "
                f"follow {session.protocol.name}",
            )
            continue
        missing = missing_shards(metadata)
        if missing:
            text = f"{description}: part of a set; these shards are missing: {', '.join(missing)}"
            session.warn(ProtocolWarning, text)
        known.append(metadata)
        if one.given and metadata.get("weights_sha256") is None:
            session.warn(
                ProtocolWarning,
                f"{description}: made by {metadata.get('extractor')!r}, of which nothing but the name is known; nobody "
                "checks that it is the same network",
            )
    if not known:
        return dict.fromkeys(("weights", "weights_sha256")) | {
            "metric": "fd-unknown",
            "extractor": "unknown",
            "precision": "unknown",
        }
    if len(known) == 2:
        require_network(sides[0][1].role, sides[0][0], known[0], known[1])
    return known[-1]


def warn_of_size(session: Session, description: str, moments: Moments) -> None:
    """Where there are too few samples for a covariance of full rank."""
    n, d = moments.n, moments.dim
    if n is not None and d is not None and n <= d:
        session.warn(
            SmallSampleWarning,
            f"{description}: {n} samples for {d} feature dimensions; the covariance is singular (rank at "
            f"most {n - 1}) and the distance is dominated by the bias of small samples",
        )
