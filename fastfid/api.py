"""``fid`` and ``stats``: wires image sets, a protocol, an extractor and the distance together; nothing else."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastfid
from fastfid import _progress
from fastfid._atomic import require_folder
from fastfid._checks import whole_number
from fastfid._dispatch import report
from fastfid.distance import frechet_moments
from fastfid.errors import (
    BackendUnavailableError,
    BadImageWarning,
    FastFIDWarning,
    IncomparableError,
    NotFIDWarning,
    ProtocolWarning,
    SlowPathWarning,
    SmallSampleWarning,
)
from fastfid.extractors import TAPS, Extractor, as_extractor, inception_extractor
from fastfid.moments import Moments
from fastfid.pipeline import extract, resampler
from fastfid.protocols import DEFAULT, Protocol
from fastfid.protocols import protocol as find_protocol
from fastfid.results import FIDResult, Run, SetInfo, versions
from fastfid.sources import Source, is_statistics, open_source


def fid(
    ref: Any,
    gen: Any,
    *,
    protocol: str | Protocol = DEFAULT,
    tap: str | None = None,
    extractor: Any = None,
    weights: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "auto",
    batch_size: int = 50,
    num_workers: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    certify: bool | None = None,
    progress: bool | None = None,
) -> FIDResult:
    """The Fréchet Inception Distance of two image sets under a named protocol.

        FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

    with the moments of the network's features over each set.

    Args:
        ref, gen: each one of: a folder, zip or ``.npz``/``.npy`` of images; an ``.npz`` of statistics (``mu``,
            ``sigma``); a uint8 array [n, H, W, 3] or tensor [n, 3, H, W]; an iterable of such batches; a ``Moments``.
        protocol: a name from ``fastfid.PROTOCOLS``, or a Protocol of your own.
        tap: which layer of the network is read ("64", "192", "768", "2048", "logits", "logits_unbiased", "spatial");
            the protocol's where None.
        extractor: a module, TorchScript file or callable [n, 3, h, w] float32 → [n, d] in place of the Inception
            network; it receives what the protocol's resize and normalisation give.
        weights: a weights file, or "random"; where None, FASTFID_WEIGHTS, torch's hub cache and a download are tried.
        precision: arithmetic of the network, "fp32" (the protocols' own) or "bf16".
        device: "auto" (CUDA where there is a GPU), "cpu", "cuda" or "cuda:i".
        batch_size: images per forward pass.
        num_workers: decoding processes; 0 decodes on a thread of this process. None chooses by device and set.
        limit: how many images of each set to use: a random subset drawn with ``seed`` as EDM and StyleGAN3 draw it,
            or the first ones of a stream. Statistics are not affected.
        skip_bad: go on when an image can't be read; the result lists them.
        certify: passed to ``fastfid.frechet``: pay for the tight enclosure.
        progress: show a bar on stderr; where None, only on a terminal.

    Returns:
        FIDResult, a float with ``lower``, ``upper``, the terms, and ``run``: protocol, weights, counts, warnings.

    Raises:
        ValueError: an argument is not what it should be (the message names it), an image can't be read
            (BadImageError), a set is empty or has a single image, statistics do not belong together
            (IncomparableError).
        WeightsNotFoundError: the message says where they were looked for and what else works.

    Warns:
        SmallSampleWarning, NotFIDWarning, BadImageWarning, ProtocolWarning: all also in ``result.run.warnings``.

    Numerics:
        Equal to pytorch-fid and torch-fidelity to 1e-6 relative where the covariances have full rank, and to 1e-5 of
        clean-fid and torchmetrics, which hold float32 means or return float32 (tests/oracles/test_fid_oracles.py).
    """
    job = _Job(
        protocol=protocol,
        tap=tap,
        extractor=extractor,
        weights=weights,
        precision=precision,
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        progress=progress,
    )
    if ref is gen and isinstance(ref, Iterator):
        raise ValueError("ref and gen are the same iterator, which can be read only once; pass two, or a list")
    opened = [job.open("ref", ref), job.open("gen", gen)]
    job.check(opened)
    first, second = (job.measure(one) for one in opened)
    return job.compare(first, second, certify)


def stats(
    images: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    protocol: str | Protocol = DEFAULT,
    tap: str | None = None,
    extractor: Any = None,
    weights: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "auto",
    batch_size: int = 50,
    num_workers: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    progress: bool | None = None,
) -> Moments:
    """The moments of one image set, to be compared with many others later.

    Args:
        images: as ``ref`` of ``fid``.
        output: an ``.npz`` to write: ``mu`` and ``sigma``, as every other package reads them, and what fastfid needs
            to merge them and to refuse a comparison with statistics of another protocol or network.
        protocol, tap, extractor, weights, precision, device, batch_size, num_workers, limit, seed, skip_bad, progress:
            as in ``fid``.

    Returns:
        The Moments; their ``metadata`` names protocol, network, weights, source and what was left out.

    Raises:
        As ``fid``.
    """
    job = _Job(
        protocol=protocol,
        tap=tap,
        extractor=extractor,
        weights=weights,
        precision=precision,
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        limit=limit,
        seed=seed,
        skip_bad=skip_bad,
        progress=progress,
    )
    if output is not None:
        if Path(output).suffix != ".npz":  # before the work, not after it
            raise ValueError(f"output must end in .npz, got {os.fspath(output)!r}")
        require_folder(output)
    opened = job.open("images", images)
    job.check([opened])
    side = job.measure(opened)
    if output is not None:
        side.moments.save(output, ddof=job.protocol.statistics.ddof)
    return side.moments


@dataclass(frozen=True)
class _Opened:
    """An argument that was understood but not yet read."""

    role: str
    description: str
    what: Source | Moments


@dataclass(frozen=True)
class _Side:
    """One measured side."""

    role: str
    moments: Moments
    info: SetInfo


class _Job:
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
    ) -> None:
        chosen = find_protocol(protocol)
        if extractor is not None and (weights is not None or tap is not None or precision != "fp32"):
            raise ValueError(
                "extractor replaces the Inception network; weights, tap and precision belong to that; leave them out"
            )
        if tap is not None and tap not in TAPS:
            raise ValueError(f"tap={tap!r} is not a layer that can be read; accepted: {', '.join(TAPS)}")
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision={precision!r} is not known; accepted: fp32, bf16")
        if isinstance(extractor, Extractor) and extractor.taps != ("",):
            tap = extractor.taps[0]
        self.protocol = chosen if tap is None else replace(chosen, tap=tap)
        self.custom = extractor
        self.weights = weights
        self.precision = precision
        self.device = _device(device)
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.num_workers = None if num_workers is None else whole_number("num_workers", num_workers, least=0)
        self.limit = None if limit is None else whole_number("limit", limit, least=1)
        self.seed = whole_number("seed", seed, least=0)
        self.skip_bad = skip_bad
        self.progress = _progress.wanted(progress)
        self.remarks: list[str] = []

    @cached_property
    def extractor(self) -> Extractor:
        if self.custom is None:
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
            self.warn(
                ProtocolWarning,
                f"the network ran in {made.precision}; the protocol's own arithmetic is fp32, and features differ from "
                "it by a few 1e-2 of their scale",
            )
        return made

    def warn(self, category: type[FastFIDWarning], text: str) -> None:
        """Once to the caller's warning filters, and into the result."""
        if text not in self.remarks:
            self.remarks.append(text)
            warnings.warn(text, category, stacklevel=2)

    def open(self, role: str, given: Any) -> _Opened:
        if isinstance(given, Moments):
            return _Opened(role, "Moments", given)
        if isinstance(given, (str, os.PathLike)) and is_statistics(given):
            return _Opened(role, os.fspath(given), self._load(Path(given)))
        try:
            source = open_source(given, decode=self.protocol.decode)
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise type(error)(f"{role}: {error}") from error
        return _Opened(role, source.description, source)

    def check(self, opened: Sequence[_Opened]) -> None:
        """What is bound to fail fails here, before hours go into the first set."""
        for one in opened:
            count = one.what.count if isinstance(one.what, Source) else None
            if count is not None and self.limit is not None and self.limit > count:
                raise ValueError(f"limit={self.limit}, but {one.role}={one.description!r} holds {count} images")
        statistics = [one for one in opened if isinstance(one.what, Moments)]
        for one in statistics:
            self._require_protocol(one)
            facts = _facts_of(one)
            if facts and len(statistics) < len(opened):
                _require_network(one.role, one.description, facts, self._network())

    def _load(self, path: Path) -> Moments:
        """Statistics; for sFID the spatial ones of a foreign (ADM) file, and "mu", "sigma" of one of our own."""
        if self.protocol.tap == "spatial":
            with np.load(path, allow_pickle=False) as archive:
                if "mu_s" in archive.files or "format" not in archive.files:
                    return Moments.load(path, keys=("mu_s", "sigma_s"))
        return Moments.load(path)

    def measure(self, opened: _Opened) -> _Side:
        if isinstance(opened.what, Moments):
            return _Side(opened.role, opened.what, SetInfo(opened.description, "statistics", opened.what.n))
        source, extractor = opened.what, self.extractor
        self._remark_on_resampler()
        count = source.count if self.limit is None or source.count is None else min(self.limit, source.count)
        with _progress.bar(opened.role, count, self.progress) as progress:
            done = extract(
                source,
                self.protocol,
                extractor,
                device=self.device,
                batch_size=self.batch_size,
                num_workers=self._workers(source),
                limit=self.limit,
                seed=self.seed,
                skip_bad=self.skip_bad,
                progress=progress,
            )
        skipped = tuple(bad.name for bad in done.skipped)
        if skipped:
            listed = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
            self.warn(BadImageWarning, f"{opened.description}: left out {len(skipped)} unreadable images: {listed}")
        if done.dropped:
            self.warn(
                ProtocolWarning,
                f"{opened.description}: protocol {self.protocol.name} leaves out the last {done.dropped} images, an "
                f"incomplete block of {self.protocol.statistics.block}",
            )
        done.moments.metadata.update(self._network())
        done.moments.metadata.update(
            fastfid=fastfid.__version__,
            protocol=self.protocol.name,
            fingerprint=self.protocol.fingerprint(),
            source=opened.description,
            n=done.moments.n,
            skipped=list(skipped),
            limit=self.limit,
            seed=self.seed,
            notes=list(source.notes),
        )
        info = SetInfo(
            opened.description,
            source.kind,
            done.moments.n,
            skipped,
            done.dropped,
            done.seconds,
            tuple(source.notes),
        )
        return _Side(opened.role, done.moments, info)

    def compare(self, ref: _Side, gen: _Side, certify: bool | None) -> FIDResult:
        for side in (ref, gen):
            self._require_two(side)
        facts = self._identity(ref, gen)
        for side in (ref, gen):
            self._remark_on_size(side)
        rule = self.protocol.statistics
        distance = frechet_moments(
            ref.moments, gen.moments, ddof=rule.ddof, mean_dtype=rule.mean_dtype, certify=certify
        )
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
        result = FIDResult.from_result(distance)
        result.run = run
        return result

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

    def _require_protocol(self, opened: _Opened) -> None:
        """Statistics that say how they were made must have been made as this comparison asks."""
        facts = _facts_of(opened)
        if not facts or facts["fingerprint"] == self.protocol.fingerprint():
            return
        name = f"{opened.role}={opened.description!r}"
        if facts.get("tap") is not None and facts["tap"] != self.protocol.tap:
            raise IncomparableError(
                f"{name} holds features of tap {facts['tap']!r}, this comparison is of {self.protocol.tap!r}; "
                f"pass tap={facts['tap']!r} (--tap {facts['tap']}), or make the statistics again"
            )
        how = f"protocol {facts['protocol']!r}"
        if facts["protocol"] == self.protocol.name:
            how = "other parameters of that protocol"
        raise IncomparableError(
            f"{name} was made with {how}, this comparison uses {self.protocol.name!r}; make the statistics again with "
            "that, or compare under the protocol they were made with"
        )

    def _identity(self, ref: _Side, gen: _Side) -> dict[str, Any]:
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
            _require_network(ref.role, ref.info.description, known[0], known[1])
        return known[-1]

    def _require_two(self, side: _Side) -> None:
        n = side.moments.n
        if n is not None and n < 2:
            raise ValueError(
                f"{side.role}={side.info.description!r} holds {n} image{'' if n == 1 else 's'}; a covariance needs at "
                "least 2, and a distance worth quoting needs more than there are feature dimensions"
            )

    def _remark_on_size(self, side: _Side) -> None:
        n, d = side.moments.n, side.moments.dim
        if n is not None and d is not None and n <= d:
            self.warn(
                SmallSampleWarning,
                f"{side.info.description}: {n} samples for {d} feature dimensions; the covariance is singular (rank at "
                f"most {n - 1}) and the distance is dominated by the bias of small samples",
            )


def _facts_of(opened: _Opened) -> Mapping[str, Any]:
    """What statistics say of how they were made; empty where they don't, or for images."""
    known = isinstance(opened.what, Moments) and opened.what.metadata.get("fingerprint")
    return opened.what.metadata if known and isinstance(opened.what, Moments) else {}


def _require_network(role: str, description: str, theirs: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """IncomparableError where two sides were made by different networks or weights."""
    for key, shown in (("extractor", "extractor"), ("weights_sha256", "weights")):
        if theirs.get(key) != wanted.get(key):
            raise IncomparableError(
                f"{role}={description!r} was made with {shown} {theirs.get(shown)!r}, the other side with "
                f"{wanted.get(shown)!r}; make both with the same"
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
