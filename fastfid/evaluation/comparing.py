"""Two measured sets compared: their distance, and everything that must be known of it."""

from __future__ import annotations

from typing import Any

from fastfid.distance.frechet import RTOL, check_dims, compare
from fastfid.errors import ProtocolWarning, SmallSampleWarning
from fastfid.evaluation.comparable import require_network
from fastfid.evaluation.measuring import MeasuredSet
from fastfid.evaluation.opening import require_two
from fastfid.evaluation.results import FIDResult, Run, versions
from fastfid.evaluation.session import Session
from fastfid.moments.metadata import missing_shards


def distance_between(session: Session, ref: MeasuredSet, gen: MeasuredSet, certify: bool | None) -> FIDResult:
    """The distance of two measured sides that belong together."""
    for side in (ref, gen):
        require_two(side.role, side.info.description, side.moments.n)
    facts = _identity(session, ref, gen)
    for side in (ref, gen):
        _warn_of_size(session, side)
    check_dims(ref.reference, gen.reference)
    distance = compare(ref.reference, gen.reference, "auto", certify=bool(certify), rtol=RTOL)
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


def _identity(session: Session, ref: MeasuredSet, gen: MeasuredSet) -> dict[str, Any]:
    """What made both sides' features, which must agree where both say."""
    known = []
    for side in (ref, gen):
        metadata, description = side.moments.metadata, side.info.description
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
        if side.info.kind == "statistics" and metadata.get("weights_sha256") is None:
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
        require_network(ref.role, ref.info.description, known[0], known[1])
    return known[-1]


def _warn_of_size(session: Session, side: MeasuredSet) -> None:
    n, d = side.moments.n, side.moments.dim
    if n is not None and d is not None and n <= d:
        session.warn(
            SmallSampleWarning,
            f"{side.info.description}: {n} samples for {d} feature dimensions; the covariance is singular (rank at "
            f"most {n - 1}) and the distance is dominated by the bias of small samples",
        )
