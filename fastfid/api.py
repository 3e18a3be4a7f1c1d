"""``fid``, ``stats`` and ``merge``: thin doors over one path (fastfid.evaluation)."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from fastfid.errors import OutputError, RankError
from fastfid.evaluation.comparing import distance_between
from fastfid.evaluation.computing import compute, require_computable
from fastfid.evaluation.measuring import measure
from fastfid.evaluation.opening import check, check_distance, open_set
from fastfid.evaluation.plan import Metrics, plan
from fastfid.evaluation.report import Report
from fastfid.evaluation.results import FIDResult
from fastfid.evaluation.session import Session, session
from fastfid.evaluation.settings import Options, Settings
from fastfid.extractors import TAPS
from fastfid.moments import Moments
from fastfid.moments.metadata import missing_shards
from fastfid.runtime.output import Target
from fastfid.sources import Source


def fid(ref: Any, gen: Any, **settings: Unpack[Options]) -> FIDResult:
    """The Fréchet Inception Distance of two image sets under a named protocol.

        FD² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½

    with the moments of the network's features over each set.

    Args:
        ref, gen: each one of: a folder, zip or ``.npz``/``.npy`` of images; an ``.npz`` of statistics (``mu``,
            ``sigma``); a uint8 array [n, H, W, 3] or tensor [n, 3, H, W]; an iterable of such batches; a ``Moments``.
        protocol ("pytorch-fid"): a name from ``fastfid.PROTOCOLS``, or a Protocol of your own.
        tap (None): which layer of the network is read ("64", "192", "768", "2048", "logits", "logits_unbiased",
            "spatial"); the protocol's where None.
        extractor (None): a module, TorchScript file or callable [n, 3, h, w] float32 → [n, d] in place of the Inception
            network; it receives what the protocol's resize and normalisation give.
        weights (None): a weights file, or "random"; where None, FASTFID_WEIGHTS, torch's hub cache and a download are
            tried.
        precision ("fp32"): arithmetic of the network: "fp32" (the protocols' own), or "tf32", "bf16" or "fp16" where
            the device has them; the result's name and warnings say so.
        device ("auto"): "auto" (CUDA where there is a GPU), "cpu", "cuda" or "cuda:i".
        batch_size (50): images per forward pass.
        num_workers (None): decoding processes; 0 decodes on a thread of this process. None chooses by device and set.
        limit (None): how many images of each set to use: a random subset drawn with ``seed`` as EDM and StyleGAN3 draw
            it, or the first ones of a stream. Statistics are not affected.
        seed (0): of that subset; nothing else is random.
        skip_bad (False): go on when an image can't be read; the result lists them, and with ``limit`` others take their
            place.
        certify (None): passed to ``fastfid.frechet``: pay for proven bounds, and tight ones.
        progress (None): show a bar on stderr; where None, only on a terminal.
        distributed (False): all processes of torchrun, or of the process group that this one is in, make this call, and
            all get the same result. True or "shared": all are given the same sets, by content, and each reads its
            share; a DataLoader that shuffles, or is divided already, is refused. "own": arrays, tensors, Datasets,
            DataLoaders and iterables are each process's own, all of it counts; paths and Moments are shared all the
            same. Your own process group is not touched.
        timeout (None): seconds that a process of a distributed call waits for another at each exchange; None means
            FASTFID_TIMEOUT, or 1800. After 30 (FASTFID_ANNOUNCE) a line on stderr says which one it waits for.
        cache (None): a folder in which features are kept by content, protocol and weights, for later runs and for going
            on after an interruption; may be shared by runs that go on at the same time.
        checkpoint (None): where an interrupted run of the same call goes on, without a cache: the state of each set is
            kept in CHECKPOINT.ref and CHECKPOINT.gen until the distance is known. The result has the same bits.
        key (None): where items of a Dataset, DataLoader or iterable are dicts, or hold several images (an image and its
            mask), which one counts: a dict's key, or an index into a tuple.

    Returns:
        FIDResult, a float with ``lower``, ``upper``, ``proof``, the terms, and ``run``: protocol, weights, counts and
        warnings.

    Raises:
        ValueError: an argument is not what it should be (the message names it), an image can't be read
            (BadImageError), a set is empty or has a single image, statistics do not belong together
            (IncomparableError).
        WeightsNotFoundError: the message says where they were looked for and what else works.
        OutputError: the checkpoint can't be written; found out before the work. (What fails later is a CacheWarning.)
        RankError: another process of a distributed call failed, died or did not come in time.

    Warns:
        SmallSampleWarning, NotFIDWarning, BadImageWarning, SetWarning, ProtocolWarning, CacheWarning, SlowPathWarning
        and NumericalWarning: all also in ``result.run.warnings``, but for the network's own SlowPathWarning (float64).

    Numerics:
        Equal to pytorch-fid and torch-fidelity to 1e-6 relative where the covariances have full rank, and to 1e-5 of
        clean-fid and torchmetrics, which hold float32 means or return float32 (tests/oracles/test_fid_oracles.py).
    """
    reached: list[FIDResult] = []
    with _carrying(reached), session("fid", settings, without=("shard",)) as call:
        if ref is gen and isinstance(ref, Iterator):
            raise ValueError("ref and gen are the same iterator, which can be read only once; pass two, or a list")
        given = [open_set(call, "ref", ref), open_set(call, "gen", gen)]
        check(call, given)
        check_distance(call, given)
        sides = {}
        for one in sorted(given, key=lambda one: isinstance(one.what, Source)):  # statistics first: they take no time
            sides[one.role] = measure(call, one)
            if call.world.index == 0:
                sides[one.role].prove()

        def distance() -> FIDResult:
            reached.append(distance_between(call, sides["ref"], sides["gen"], call.settings.certify))
            return reached[0]

        result = call.world.once("distance", distance)
        call.keeping.done()
        return result


def evaluate(
    ref: Any,
    gen: Any,
    metrics: Metrics = ("fid",),
    **settings: Unpack[Options],
) -> Report:
    """Many metrics of two image sets from one decode and one pass of the network over each.

    Args:
        ref, gen: as in ``fid``; None for a side that no metric reads.
        metrics: names ("fid", "sfid", "is", "kid", "prdc", "pr", …; ``fastfid metrics`` lists them), or a mapping of
            names to parameters of the functions in ``fastfid.metrics``: ``{"fid": {}, "kid": {"subset_size": 200}}``.
            Conventions that a protocol has of its own are taken unless one is given.
        settings: as in ``fid``.

    Returns:
        A Report: results by name (``report["kid"]``, a float with ``extra``, ``bounds``, ``notes``), the sets, networks
        and warnings. A metric that can't be computed is NaN and says why in ``error``.

    Raises:
        As ``fid``.
        ValueError: an unknown metric, two that give one result, or one that reads images of which there are only
            statistics; before the work.
    """
    reached: list[Report] = []
    taps = partial(_taps, metrics)
    with _carrying(reached), session("evaluate", settings, without=("shard",), taps=taps) as call:
        wanted = plan(metrics, call.settings)
        if ref is gen and isinstance(ref, Iterator):
            raise ValueError("ref and gen are the same iterator, which can be read only once; pass two, or a list")
        read = {role: what for role, what in (("ref", ref), ("gen", gen)) if wanted.reads(role)}
        given = [open_set(call, role, what) for role, what in read.items()]
        check(call, given)
        require_computable(wanted, given)
        if any(wanted.moments(one.role) for one in given):
            check_distance(call, given)
        sides = {}
        for one in sorted(given, key=lambda one: isinstance(one.what, Source)):  # statistics first: they take no time
            sides[one.role] = measure(call, one, wanted.rows(one.role))
            if call.world.index == 0:
                sides[one.role].prove()
        report = compute(call, wanted, sides, reached=reached.append)
        call.keeping.done()
        return report


def _taps(metrics: Any, settings: Settings) -> tuple[str, ...]:
    return plan(metrics, settings).taps


def stats(images: Any, output: str | os.PathLike[str] | None = None, **settings: Unpack[Options]) -> Moments:
    """The moments of one image set, to be compared with many others later.

    Args:
        images: as ``ref`` of ``fid``.
        output: an ``.npz`` to write: ``mu`` and ``sigma``, as every other package reads them, and what fastfid needs
            to merge them and to refuse a comparison with statistics of another protocol or network.
        protocol, tap, extractor, weights, precision, device, batch_size, num_workers, limit, seed, skip_bad, progress,
            distributed, timeout, cache, checkpoint, key: as in ``fid``; the first process writes; CHECKPOINT.images is
            the file.
        shard (None): "INDEX/OF" (from 0): read only that piece, to be merged with the others' by ``Moments.merge`` or
            ``fastfid merge``; together they are the set, each image once.

    Returns:
        The Moments; their ``metadata`` names protocol, network, weights, source and what was left out.

    Raises:
        As ``fid``.
        OutputError: the output can't be written: before the work where that can be known (no folder, no room, no
            permission, a name that is too long). Where it fails afterwards, its ``moments`` are what was measured, and
            they are saved in the current folder or in that of temporary files; the message says where.
    """
    if output is not None and not isinstance(output, (str, os.PathLike)):
        raise TypeError(f"output: {type(output).__name__}; accepted: a path that ends in .npz, or None")
    if output is not None and Path(output).suffix != ".npz":  # before the work, not after it
        raise ValueError(f"output must end in .npz, got {os.fspath(output)!r}")
    with session("stats", settings, without=("certify",)) as call:
        writes = output is not None and call.world.index == 0
        if output is not None and writes:
            Target(output).prove(_room(call))
        given = open_set(call, "images", images)
        check(call, [given])
        moments = measure(call, given).features[call.tap].moments
        if output is not None and writes:
            _save(moments, output, call.protocol.statistics.ddof)
        call.keeping.done()
        return moments


def merge(
    files: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str] | None = None
) -> tuple[Moments, list[str]]:
    """Join statistics that ``stats`` wrote: of disjoint sets, or of the shards of one.

    Args:
        files: ``.npz`` files that know their number of samples.
        output: an ``.npz`` to write, with the ddof of the first file.

    Returns:
        The joined Moments, and the shards that are missing of the sets whose shards were given.

    Raises:
        ValueError: a file can't be read, does not know its number of samples, or (IncomparableError) was made with
            another protocol, network or weights than the first, or holds a shard that was there already; the message
            names the file.
        OutputError: the output can't be written; its ``moments`` are the joined ones where it fails at the end.
    """
    if output is not None:
        Target(output).prove()
    joined, divisor = Moments(), 1
    for position, file in enumerate(files):
        name = os.fspath(file)
        part = Moments.load(name)
        try:
            joined.merge(part)
        except ValueError as error:
            raise type(error)(f"{name}: {error}") from error
        if position == 0:
            divisor = int(part.metadata.get("ddof", 1))
    if output is not None:
        _save(joined, output, divisor)
    return joined, missing_shards(joined.metadata)


@contextmanager
def _carrying(reached: Sequence[FIDResult | Report]) -> Iterator[None]:
    """A distance that is known here does not go with a process that is lost after it: the error carries it."""
    try:
        yield
    except RankError as error:
        error.result = next(iter(reached), None)
        raise


def _room(call: Session) -> int:
    """Bytes that a statistics file takes at least, where the number of features is known."""
    dim = TAPS[call.protocol.tap] if call.settings.extractor is None else 0
    return 8 * (dim**2 + 512)


def _save(moments: Moments, output: str | os.PathLike[str], ddof: int) -> None:
    """Write statistics; where that fails, somewhere else, so that hours of work do not end with the process."""
    try:
        moments.save(output, ddof=ddof)
    except OutputError as error:
        kept = _rescued(moments, ddof)
        where = f"; the statistics are in {kept!r}" if kept else ""
        raise OutputError(error.path, error.reason + where, moments) from error


def _rescued(moments: Moments, ddof: int) -> str | None:
    """The path of a new file with these statistics, in the current folder or that of temporary files; None if none."""
    for folder in (Path.cwd, tempfile.gettempdir):
        with suppress(OSError):
            path = Path(folder()) / f"fastfid-stats-{secrets.token_hex(4)}.npz"
            moments.save(path, ddof=ddof)
            return str(path)
    return None
