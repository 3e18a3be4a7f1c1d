"""One set measured: a pass over it, or statistics as they were given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType

import torch

from fastfid.distance.gaussian import FrechetReference
from fastfid.errors import BadImageWarning, CacheWarning, ProtocolWarning, SetWarning
from fastfid.evaluation.opening import GivenSet
from fastfid.evaluation.results import SetInfo, skipped_reasons
from fastfid.evaluation.session import Session
from fastfid.moments import Moments
from fastfid.passes.pipeline import Reading, extract
from fastfid.passes.store import Entry, Recording
from fastfid.passes.tally import Tally
from fastfid.protocols import Statistics
from fastfid.runtime.progress import bar
from fastfid.runtime.version import VERSION
from fastfid.sources import WHOLE, Source


@dataclass(frozen=True)
class Features:
    """What is known of a set's features at one tap.

    Their moments become a Gaussian as ``rule`` says, with the d×d work on ``device``.
    """

    role: str
    moments: Moments
    rows: torch.Tensor | None
    given: bool
    rule: Statistics
    device: torch.device

    @cached_property
    def reference(self) -> FrechetReference:
        """The Gaussian, which keeps its factor for further comparisons."""
        rule = self.rule
        return FrechetReference.from_moments(
            self.moments, ddof=rule.ddof, device=self.device, mean_dtype=rule.mean_dtype, name=self.role
        )

    def prove(self) -> None:
        """Find out now whether given statistics are a Gaussian's; the factor is used by the comparison."""
        if self.given and not self.moments.from_samples:
            _ = self.reference.factor


@dataclass(frozen=True)
class MeasuredSet:
    """One measured side: what it was, its features by tap, and whether ranks took turns with its images."""

    role: str
    info: SetInfo
    features: Mapping[str, Features]
    interleaved: bool = False

    @classmethod
    def of(
        cls,
        session: Session,
        role: str,
        info: SetInfo,
        moments: Mapping[str, Moments],
        rows: Mapping[str, torch.Tensor | None] = MappingProxyType({}),
        interleaved: bool = False,
    ) -> MeasuredSet:
        """Moments, and rows where there are any, as one side of a session's comparisons."""
        given, rule, device = info.kind == "statistics", session.protocol.statistics, session.device
        features = {tap: Features(role, found, rows.get(tap), given, rule, device) for tap, found in moments.items()}
        return cls(role, info, features, interleaved)

    def prove(self) -> None:
        """Find out now whether given statistics are those of a Gaussian."""
        for one in self.features.values():
            one.prove()


def measure(session: Session, given: GivenSet, keep: Collection[str] = ()) -> MeasuredSet:
    """One side, extracted unless its statistics are given; rows are kept at the taps that ``keep`` names."""
    if isinstance(given.what, Moments):
        info = SetInfo(given.description, "statistics", given.what.n)
        return MeasuredSet.of(session, given.role, info, given.statistics)
    source = given.what
    session.warn_of_resampler()
    reading = session.reading(source)
    done = _pass(session, given, source, reading, keep)
    notes = _of_all(session, "notes", source.notes)
    for text in _of_all(session, "remarks", source.remarks):
        session.warn(SetWarning, text)
    _warn_of_losses(session, given, source, reading, done)
    info = SetInfo(
        session.sharing.described(source, given.description),
        source.kind,
        _count(done),
        tuple(bad.name for bad in done.skipped),
        _dropped(source, reading, done),
        done.seconds,
        notes,
        tuple(source.unread.items()),
        tuple(bad.reason for bad in done.skipped),
    )
    moments = {tap: one.moments for tap, one in done.gathered.items()}
    for tap, one in moments.items():
        label(session, tap, one, info)
    rows = {tap: one.rows for tap, one in done.gathered.items()}
    interleaved = source.count is None and not session.sharing.is_own(source)
    return MeasuredSet.of(session, given.role, info, moments, rows, interleaved)


def label(session: Session, tap: str, moments: Moments, info: SetInfo) -> None:
    """Have moments say how they were made, for results and statistics files."""
    protocol, settings = session.protocol_at(tap), session.settings
    moments.metadata.update(session.network(tap))
    moments.metadata.update(
        fastfid=VERSION,
        protocol=protocol.name,
        fingerprint=protocol.fingerprint(),
        ddof=protocol.statistics.ddof,
        source=info.description,
        n=moments.n,
        skipped=list(info.skipped),
        skipped_reasons=skipped_reasons(info.skipped, info.reasons),
        unread=[[info.description, reason, count] for reason, count in info.unread],
        limit=settings.limit,
        seed=settings.seed,
        notes=list(info.notes),
    )
    if settings.shard != WHOLE:
        moments.metadata["shards"] = [[info.description, settings.shard.index, settings.shard.of]]


def _count(done: Tally) -> int | None:
    """Images in the moments."""
    return next(iter(done.gathered.values())).moments.n


def _pass(session: Session, given: GivenSet, source: Source, reading: Reading, keep: Collection[str]) -> Tally:
    """The set read, or taken from what an earlier run kept of it."""
    known: dict[str, Entry] = {}
    recordings: dict[str, Recording] = {}
    if not session.sharing.is_own(source):
        known, recordings = session.keeping.of(given.role, source, session.networks, session.protocol, reading)
    elif session.keeping.cache is not None or session.keeping.checkpoint is not None:
        session.warn(CacheWarning, f"{given.description}: what is each process's own is not kept")
    watch = partial(
        session.sharing.watch,
        f"{given.role}={given.description!r}",
        source,
        limit=reading.limit,
        seed=reading.seed,
        block=reading.block,
        skip_bad=reading.skip_bad,
    )
    with bar(given.role, reading.count(source), session.progress) as progress:

        def show(count: int) -> None:
            session.require_network_dim()
            progress(count)

        missing = [tap for tap in session.networks if tap not in known]
        return extract(
            source,
            session.protocol,
            session.extractor.at(*missing) if missing else session.extractor,
            reading,
            device=session.device,
            keep=keep,
            progress=show,
            world=session.world,
            known=known,
            recordings=recordings,
            watch=watch,
        )


def _of_all(session: Session, what: str, mine: Sequence[str]) -> tuple[str, ...]:
    """What all processes have to say, each sentence once."""
    return tuple(dict.fromkeys(text for share in session.world.gather(what, mine) for text in share))


def _dropped(source: Source, reading: Reading, done: Tally) -> int:
    """Images of an incomplete last block, which the protocol leaves out."""
    return done.dropped or (reading.of_set(source) or (0, 0))[1]


def _warn_of_losses(session: Session, given: GivenSet, source: Source, reading: Reading, done: Tally) -> None:
    skipped = [bad.name for bad in done.skipped]
    if skipped:
        listed = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        text = f"{given.description}: left out {len(skipped)} unreadable images: {listed}"
        session.warn(BadImageWarning, text + _replaced(session, source, reading, done))
    dropped = _dropped(source, reading, done)
    if dropped:
        session.warn(
            ProtocolWarning,
            f"{given.description}: protocol {session.protocol.name} leaves out the last {dropped} images, an "
            f"incomplete block of {session.protocol.statistics.block}",
        )


def _replaced(session: Session, source: Source, reading: Reading, done: Tally) -> str:
    """What became of the limit where images could not be read."""
    limit, known = session.settings.limit, reading.of_set(source)
    if limit is None or known is None:
        return ""
    wanted = known[0] if session.settings.shard == WHOLE else reading.count(source)
    n = (_count(done) or 0) + done.dropped
    if n == wanted:
        return f"; others were drawn in their place, so that n is {n}"
    return f"; limit={limit}, but n={n}: there were not enough others to draw in their place"
