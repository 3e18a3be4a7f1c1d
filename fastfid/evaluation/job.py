"""One call of ``fid`` or ``stats``: checked settings, the sides measured, and whether they belong together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from fastfid.agreement import Sharing, agree_on_network
from fastfid.distance.frechet import RTOL, check_dims, compare
from fastfid.distance.gaussian import FrechetReference
from fastfid.distributed import World, first_on_node, local_device
from fastfid.errors import (
    BackendUnavailableError,
    BadImageWarning,
    CacheWarning,
    FastFIDWarning,
    IncomparableError,
    NotFIDWarning,
    ProtocolWarning,
    SetWarning,
    SlowPathWarning,
    SmallSampleWarning,
)
from fastfid.evaluation.comparable import facts_of, require_network, require_protocol
from fastfid.evaluation.results import FIDResult, Run, SetInfo, skipped_reasons, versions
from fastfid.extractors import PRECISIONS, TAPS, Extractor, as_extractor, inception_extractor
from fastfid.extractors.folded import WIDENED
from fastfid.moments import Moments
from fastfid.moments import files as _moments_io
from fastfid.moments import metadata as _metadata
from fastfid.passes.keeping import Keeping
from fastfid.passes.pipeline import Reading, extract, resampler
from fastfid.passes.tally import Tally
from fastfid.protocols import Protocol, Statistics
from fastfid.protocols import protocol as find_protocol
from fastfid.runtime import progress as _progress
from fastfid.runtime.arithmetic import ieee_convolutions
from fastfid.runtime.checks import whole_number
from fastfid.runtime.dispatch import report
from fastfid.runtime.shown import shown
from fastfid.runtime.version import VERSION
from fastfid.sources import WHOLE, Key, Shard, Source, is_statistics, open_source


@dataclass(frozen=True)
class Opened:
    """An argument that was understood but not yet read."""

    role: str
    description: str
    what: Source | Moments


@dataclass(frozen=True)
class Side:
    """One measured side; its moments become a Gaussian as ``rule`` says, with the d×d work on ``device``."""

    role: str
    moments: Moments
    info: SetInfo
    rule: Statistics
    device: torch.device

    @cached_property
    def reference(self) -> FrechetReference:
        """The Gaussian, which keeps its factor for further comparisons."""
        rule = self.rule
        return FrechetReference.from_moments(
            self.moments, ddof=rule.ddof, device=self.device, mean_dtype=rule.mean_dtype, name=self.role
        )


class Job:
    """Checked settings, the extractor made when first needed, and the warnings of one call."""

    def __init__(
        self,
        *,
        protocol: str | Protocol,
        tap: str | None,
        extractor: Any,
        weights: str | os.PathLike[str] | None,
        precision: str,
        device: str | torch.device,
        batch_size: int,
        num_workers: int | None,
        limit: int | None,
        seed: int,
        skip_bad: bool,
        progress: bool | None,
        shard: Shard = WHOLE,
        world: World | None = None,
        cache: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        key: Key = None,
        own: bool = False,
    ) -> None:
        chosen = find_protocol(protocol)
        if extractor is not None and (weights is not None or tap is not None or precision != "fp32"):
            raise ValueError(
                "extractor replaces the Inception network; weights, tap and precision belong to that; leave them out"
            )
        if tap is not None and (not isinstance(tap, str) or tap not in TAPS):
            raise ValueError(f"tap={tap!r} is not a layer that can be read; accepted: {', '.join(TAPS)}")
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known; accepted: {', '.join(PRECISIONS)}")
        if isinstance(extractor, Extractor) and extractor.taps != ("",):
            tap = extractor.taps[0]
        self.protocol = chosen if tap is None else replace(chosen, tap=tap)
        self.custom = extractor
        self.weights = weights
        self.precision = precision
        self.world = world or World()
        if self.world.size > 1 and shard != WHOLE:
            raise ValueError("shard and distributed both divide the set; leave one of them out")
        self.device = _device(device if self.world.size == 1 else local_device(device))
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.num_workers = None if num_workers is None else whole_number("num_workers", num_workers, least=0)
        self.limit = None if limit is None else whole_number("limit", limit, least=1)
        self.seed = whole_number("seed", seed, least=0)
        self.skip_bad = skip_bad
        self.shard = shard
        self.key = key
        self.sharing = Sharing(self.world, own)
        self.share = shard if self.world.size == 1 else Shard(self.world.index, self.world.size)
        self.progress = self.world.index == 0 and _progress.wanted(progress)
        self.remarks: list[str] = []
        self.reached: FIDResult | None = None
        self._dim: tuple[int, str] | None = None
        self.keeping = Keeping(cache, checkpoint, self.warn)

    @cached_property
    def extractor(self) -> Extractor:
        """The network, made when it is first needed."""
        if self.custom is None:
            with first_on_node(self.world, "weights"):
                made = inception_extractor(
                    self.protocol.tap,
                    weights=self.weights,
                    device=self.device,
                    precision=self.precision,
                    progress=self.progress,
                )
        else:
            made = as_extractor(self.custom, device=self.device)
        if made.weights is not None and made.taps != ("",) and not made.official:
            self.warn(
                NotFIDWarning,
                f"weights {made.weights.label}: not the published Inception weights, so this Fréchet distance is not a "
                "FID and compares only with others of the same weights",
            )
        if made.precision not in ("", "fp32"):
            self.warn(ProtocolWarning, PRECISIONS[made.precision].remark)
        if made.precision == "fp32" and not ieee_convolutions(self.device):
            self.remarks.append(WIDENED)  # the network itself warns
        return made

    def warn(self, category: type[FastFIDWarning], text: str) -> None:
        """Once to the caller's warning filters, and into the result, with names that can't act on a terminal."""
        text = shown(text)
        if text not in self.remarks:
            self.remarks.append(text)
            if self.world.index == 0:
                warnings.warn(text, category, stacklevel=2)

    def open(self, role: str, given: Any) -> Opened:
        """Understand one argument without reading its images."""
        if isinstance(given, Moments):
            return Opened(role, "Moments", given)
        if isinstance(given, (str, os.PathLike)) and is_statistics(given):
            return Opened(role, os.fspath(given), self._load(Path(given)))
        try:
            source = open_source(given, decode=self.protocol.decode, key=self.key)
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise type(error)(f"{role}: {error}") from error
        told = self.sharing.understand(role, source)
        if told is not None:
            self.warn(SetWarning, told)
        return Opened(role, source.description, source)

    def check(self, opened: Sequence[Opened]) -> None:
        """What is bound to fail fails here, before hours go into the first set; what is left unread is told here."""
        for one in opened:
            for text in one.what.remarks if isinstance(one.what, Source) else ():
                self.warn(SetWarning, text)
            count = one.what.count if isinstance(one.what, Source) else None
            if count is not None and self.limit is not None and self.limit > count:
                raise ValueError(f"limit={self.limit}, but {one.role}={one.description!r} holds {count} images")
            if isinstance(one.what, Source) and self.share != WHOLE and self.protocol.statistics.block:
                self._check_blocks(one, count)
        self._agree(opened)
        statistics = [one for one in opened if isinstance(one.what, Moments)]
        for one in statistics:
            facts = facts_of(one.what)
            require_protocol(one.role, one.description, facts, self.protocol)
            if facts and len(statistics) < len(opened):
                require_network(one.role, one.description, facts, self._network())
        for one in opened:
            if (
                isinstance(one.what, Source)
                and self.keeping.checkpoint is not None
                and not self.sharing.is_own(one.what)
            ):
                reading = self._reading(one.what)
                self.keeping.prove(one.role, one.what, self.extractor, self.protocol, reading, self.device)

    def check_distance(self, opened: Sequence[Opened]) -> None:
        """What a distance needs of its sides beyond what ``check`` knows: two samples each, and one dimension."""
        for one in opened:
            n = one.what.count if isinstance(one.what, Source) else one.what.n
            if self.sharing.is_own(one.what):
                continue
            if n is not None and self.limit is not None and isinstance(one.what, Source):
                n = min(n, self.limit)
            _require_two(one.role, one.description, n)
            if isinstance(one.what, Moments) and one.what.dim is not None:
                self._require_dim(f"{one.role}={one.description!r}", one.what.dim)
        if any(isinstance(one.what, Source) for one in opened):
            self.check_network()

    def check_network(self) -> None:
        """Whether the network's features, as soon as their number is known, are as many as the other side's."""
        if self.extractor.dim is not None:
            self._require_dim(f"the network {self.extractor.name}", self.extractor.dim)

    def _require_dim(self, who: str, dim: int) -> None:
        if self._dim is None:
            self._dim = (dim, who)
        elif self._dim[0] != dim:
            raise IncomparableError(
                f"{who} has {dim} features, {self._dim[1]} has {self._dim[0]}: no distance is defined between them; "
                "make both with the same network and tap (--tap, --extractor)"
            )

    def _agree(self, opened: Sequence[Opened]) -> None:
        """That all processes were given the same, by content."""
        settings = {
            "protocol": self.protocol.to_dict(),
            "limit": self.limit,
            "seed": self.seed,
            "skip_bad": self.skip_bad,
            "key": self.key,
        }
        whole = {"limit": self.limit, f"protocol {self.protocol.name}": self.protocol.statistics.block}
        self.sharing.agree([(one.role, one.description, one.what) for one in opened], settings, whole)
        if any(isinstance(one.what, Source) for one in opened):
            self.agree_on_network()

    def agree_on_network(self) -> None:
        """That all processes have the same network."""
        if self.world.size > 1:
            agree_on_network(self.world, self.extractor, self._network(), self.protocol.resize.size)

    def leave(self) -> None:
        """Go on as a process alone; what was measured stays."""
        self.world = World()
        self.sharing = Sharing(self.world, False)

    def _check_blocks(self, opened: Opened, count: int | None) -> None:
        """Which images an incomplete last block holds must be known before the set is read in shards."""
        if count is None or self.skip_bad:
            why = "skip_bad leaves out images" if self.skip_bad else f"{opened.description} is a stream"
            raise ValueError(
                f"shard: protocol {self.protocol.name} leaves out the last, incomplete block of "
                f"{self.protocol.statistics.block} images; which they are is not known beforehand where {why}. Read "
                "the set in one piece"
            )

    def _load(self, path: Path) -> Moments:
        """Statistics; for sFID the spatial ones of a foreign (ADM) file, and "mu", "sigma" of one of our own."""
        if self.protocol.tap == "spatial":
            names = _moments_io.names(path)
            if "mu_s" in names or "format" not in names:
                return Moments.load(path, keys=("mu_s", "sigma_s"))
        return Moments.load(path)

    def measure(self, opened: Opened) -> Side:
        """The moments of one side, extracted unless they are given."""
        if isinstance(opened.what, Moments):
            return self.side(opened.role, opened.what, SetInfo(opened.description, "statistics", opened.what.n))
        source, extractor = opened.what, self.extractor
        self._remark_on_resampler()
        reading = self._reading(source)
        entry, recording = None, None
        if not self.sharing.is_own(source):
            entry, recording = self.keeping.of(opened.role, source, extractor, self.protocol, reading, self.device)
        elif self.keeping.cache is not None or self.keeping.checkpoint is not None:
            self.warn(CacheWarning, f"{opened.description}: what is each process's own is not kept")
        watch = partial(
            self.sharing.watch,
            f"{opened.role}={opened.description!r}",
            source,
            limit=reading.limit,
            seed=reading.seed,
            block=reading.block,
            skip_bad=reading.skip_bad,
        )
        with _progress.bar(opened.role, reading.count(source), self.progress) as progress:

            def show(count: int) -> None:
                self.check_network()
                progress(count)

            done = extract(
                source,
                self.protocol,
                extractor,
                reading,
                device=self.device,
                progress=show,
                world=self.world,
                entry=entry,
                recording=recording,
                watch=watch,
            )
        notes = tuple(dict.fromkeys(note for share in self.world.gather("notes", source.notes) for note in share))
        for text in dict.fromkeys(text for share in self.world.gather("remarks", source.remarks) for text in share):
            self.warn(SetWarning, text)
        skipped, reasons = tuple(bad.name for bad in done.skipped), tuple(bad.reason for bad in done.skipped)
        unread = tuple(source.unread.items())
        if skipped:
            listed = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
            text = f"{opened.description}: left out {len(skipped)} unreadable images: {listed}"
            self.warn(BadImageWarning, text + self._replaced(source, reading, done))
        dropped = done.dropped or (reading.of_set(source) or (0, 0))[1]
        if dropped:
            self.warn(
                ProtocolWarning,
                f"{opened.description}: protocol {self.protocol.name} leaves out the last {dropped} images, an "
                f"incomplete block of {self.protocol.statistics.block}",
            )
        description = self.sharing.described(source, opened.description)
        self.label(done.moments, description, skipped=skipped, reasons=reasons, notes=notes, unread=unread)
        info = SetInfo(
            description,
            source.kind,
            done.moments.n,
            skipped,
            dropped,
            done.seconds,
            notes,
            unread,
            reasons,
        )
        return self.side(opened.role, done.moments, info)

    def _replaced(self, source: Source, reading: Reading, done: Tally) -> str:
        """What became of the limit where images could not be read."""
        known = reading.of_set(source)
        if self.limit is None or known is None:
            return ""
        wanted = known[0] if self.shard == WHOLE else reading.count(source)
        n = (done.moments.n or 0) + done.dropped
        if n == wanted:
            return f"; others were drawn in their place, so that n is {n}"
        return f"; limit={self.limit}, but n={n}: there were not enough others to draw in their place"

    def label(
        self,
        moments: Moments,
        description: str,
        *,
        skipped: tuple[str, ...] = (),
        reasons: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        unread: tuple[tuple[str, int], ...] = (),
    ) -> None:
        """Have moments say how they were made, for results and statistics files."""
        moments.metadata.update(self._network())
        moments.metadata.update(
            fastfid=VERSION,
            protocol=self.protocol.name,
            fingerprint=self.protocol.fingerprint(),
            ddof=self.protocol.statistics.ddof,
            source=description,
            n=moments.n,
            skipped=list(skipped),
            skipped_reasons=skipped_reasons(skipped, reasons),
            unread=[[description, reason, count] for reason, count in unread],
            limit=self.limit,
            seed=self.seed,
            notes=list(notes),
        )
        if self.shard != WHOLE:
            moments.metadata["shards"] = [[description, self.shard.index, self.shard.of]]

    def prove(self, side: Side) -> None:
        """Find out now whether given statistics are a Gaussian's; the factor is used by the comparison."""
        if side.info.kind == "statistics" and not side.moments.from_samples and self.world.index == 0:
            _ = side.reference.factor

    def side(self, role: str, moments: Moments, info: SetInfo) -> Side:
        """Moments as one side of this job's comparisons."""
        return Side(role, moments, info, self.protocol.statistics, self.device)

    def compare(self, ref: Side, gen: Side, certify: bool | None) -> FIDResult:
        """The distance of two measured sides that belong together; rank 0 computes it for all."""
        return self.world.once("distance", lambda: self._compare(ref, gen, certify))

    def _compare(self, ref: Side, gen: Side, certify: bool | None) -> FIDResult:
        for side in (ref, gen):
            self.require_statistics(side)
        facts = self._identity(ref, gen)
        for side in (ref, gen):
            self._remark_on_size(side)
        check_dims(ref.reference, gen.reference)
        distance = compare(ref.reference, gen.reference, "auto", certify=bool(certify), rtol=RTOL)
        run = Run(
            metric=facts["metric"],
            protocol=self.protocol,
            extractor=facts["extractor"],
            weights=facts["weights"],
            weights_sha256=facts["weights_sha256"],
            precision=facts["precision"],
            device=str(self.device),
            limit=self.limit,
            seed=self.seed,
            ref=ref.info,
            gen=gen.info,
            warnings=(*self.remarks, *distance.notes),
            versions=versions(),
        )
        self.reached = FIDResult.from_result(distance)
        self.reached.run = run
        return self.reached

    def _reading(self, source: Source) -> Reading:
        share = WHOLE if self.sharing.is_own(source) else self.share
        block = self.protocol.statistics.block if share != WHOLE else 0
        workers = self._workers(source)
        return Reading(self.batch_size, workers, self.limit, self.seed, self.skip_bad, share, block)

    def _workers(self, source: Source) -> int:
        """Processes beside a GPU, as pytorch-fid has them; on a CPU a thread, for its cores belong to the network."""
        if self.num_workers is not None:
            return self.num_workers
        if self.device.type == "cpu" or source.kind not in ("folder", "zip"):
            return 0
        return min(8, os.cpu_count() or 1)

    def _remark_on_resampler(self) -> None:
        where, backend = resampler(self.device)
        reasons = report("resize_normalize", self.device.type)
        if where != self.device:
            self.warn(SlowPathWarning, f"images are resized on the CPU, not on {self.device}: {reasons['cuda']}")
        if backend == "reference":
            self.warn(SlowPathWarning, f"images are resized by the slow float64 reference: {reasons['cpp']}")

    def _network(self) -> dict[str, Any]:
        """What the extractor is, as results and statistics files carry it."""
        made = self.extractor
        return {
            "extractor": made.name,
            "tap": self.protocol.tap if made.taps != ("",) else None,
            "weights": made.weights.label if made.weights else None,
            "weights_sha256": made.weights.sha256 if made.weights else None,
            "precision": made.precision or "the extractor's own",
            "metric": made.metric,
        }

    def _identity(self, ref: Side, gen: Side) -> dict[str, Any]:
        """What made both sides' features, which must agree where both say."""
        known = []
        for side in (ref, gen):
            if not side.moments.metadata.get("fingerprint"):
                self.warn(
                    ProtocolWarning,
                    f"{side.info.description}: these statistics do not say which protocol and network made them; "
                    f"they are taken to follow {self.protocol.name}",
                )
                continue
            self._remark_on_shards(side)
            known.append(side.moments.metadata)
            if side.info.kind == "statistics" and side.moments.metadata.get("weights_sha256") is None:
                self.warn(
                    ProtocolWarning,
                    f"{side.info.description}: made by {side.moments.metadata.get('extractor')!r}, of which nothing "
                    "but the name is known; nobody checks that it is the same network",
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

    def require_statistics(self, side: Side) -> None:
        """ValueError where a side has too few samples for a covariance."""
        _require_two(side.role, side.info.description, side.moments.n)

    def _remark_on_shards(self, side: Side) -> None:
        missing = _metadata.missing_shards(side.moments.metadata)
        if missing:
            self.warn(
                ProtocolWarning,
                f"{side.info.description}: part of a set; these shards are missing: {', '.join(missing)}",
            )

    def _remark_on_size(self, side: Side) -> None:
        n, d = side.moments.n, side.moments.dim
        if n is not None and d is not None and n <= d:
            self.warn(
                SmallSampleWarning,
                f"{side.info.description}: {n} samples for {d} feature dimensions; the covariance is singular (rank at "
                f"most {n - 1}) and the distance is dominated by the bias of small samples",
            )


def _require_two(role: str, description: str, n: int | None) -> None:
    if n is not None and n < 2:
        raise ValueError(
            f"{role}={description!r} holds {n} image{'' if n == 1 else 's'}; a covariance needs at least 2, and a "
            "distance worth quoting needs more than there are feature dimensions"
        )


def _device(asked: str | torch.device) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={asked!r} is not a device; accepted: auto, cpu, cuda, cuda:<index>") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is not supported; accepted: auto, cpu, cuda, cuda:<index>")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise BackendUnavailableError(
                f"device={str(device)!r}: this machine has {count} CUDA devices that torch {torch.__version__} can use"
            )
    return device
