"""FID inside a training loop: images in as they are made, a distance out whenever it is asked for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
from typing_extensions import Unpack

from fastfid.agreement import twins
from fastfid.distributed import World, joined, merge_across
from fastfid.errors import SetWarning
from fastfid.evaluation.comparing import distance_between
from fastfid.evaluation.computing import compute, require_computable
from fastfid.evaluation.measuring import MeasuredSet, label, measure
from fastfid.evaluation.opening import check, check_distance, open_set, require_two
from fastfid.evaluation.plan import Metrics, Plan, plan
from fastfid.evaluation.report import Report
from fastfid.evaluation.results import FIDResult, SetInfo
from fastfid.evaluation.session import session
from fastfid.evaluation.settings import Options, Settings
from fastfid.moments import Moments
from fastfid.moments.inputs import feature_matrix
from fastfid.passes.pipeline import Reading, features_of
from fastfid.passes.tally import FeatureBatch, Gathered, Tally
from fastfid.sources import Key, open_item
from fastfid.sources.unread import by_reason

_NOT_TAKEN = ("shard", "certify", "cache", "checkpoint")


class Evaluator:
    """Distances of what a model makes, now and at every later checkpoint, from one reference.

    The reference is measured (or loaded) once and keeps its factor; the network stays loaded; images may be anywhere,
    CUDA tensors stay on the GPU, and nothing is written to disk. As with torchmetrics: ``update``, ``compute``,
    ``reset``.

        evaluator = fastfid.Evaluator("real.npz", device="cuda")
        for step in range(steps):
            ...
            for _ in range(200):
                evaluator.update(generator.sample(250))  # uint8 [250, 3, H, W]
            distance = evaluator.compute()  # a float with bounds
            evaluator.reset()

    Args:
        ref: as ``ref`` of ``fastfid.fid``.
        metrics: as in ``fastfid.evaluate``: then ``compute`` gives a Report of all of them, from the same forward
            passes; rows are kept where a metric needs them. None: ``compute`` gives the distance.
        protocol, tap, extractor, weights, precision, device, batch_size, num_workers, limit, seed, skip_bad, progress,
            key: as in ``fastfid.fid``; limit, seed, skip_bad, progress and key concern the reference.
        distributed: all processes of torchrun, or of the process group that this one is in, make an Evaluator and call
            ``compute`` together; each updates its own with images of its own, and all get the distance of them all.
        timeout: as in ``fastfid.fid``: how long ``compute`` waits for a process that does not come to it.

    Attributes:
        n: images and feature vectors taken since the last reset.

    Raises:
        As ``fastfid.fid``.

    Numerics:
        Equal to ``fastfid.fid`` of the same images bit for bit, where batches are cut at the same places
        (tests/test_evaluator.py::test_equals_fid).
    """

    _tally: Tally

    def __init__(self, ref: Any, metrics: Metrics | None = None, **settings: Unpack[Options]) -> None:
        def planned(checked: Settings) -> Plan:
            return plan("fid" if metrics is None else metrics, checked)

        with session("Evaluator", settings, without=_NOT_TAKEN, taps=lambda checked: planned(checked).taps) as call:
            protocol, self._plan, self._several = call.protocol, planned(call.settings), metrics is not None
            if call.world.size > 1 and protocol.statistics.block:
                raise ValueError(
                    f"distributed: protocol {protocol.name} leaves out an incomplete last block of images, and which "
                    "is the last is not defined over processes that run side by side"
                )
            given = open_set(call, "ref", ref)
            check(call, [given])
            require_computable(self._plan, [given])
            check_distance(call, [given])
            self._ref = measure(call, given, self._plan.rows("ref"))
            for features in self._ref.features.values():
                require_two("ref", self._ref.info.description, features.moments.n)
            if call.world.index == 0:
                self._ref.prove()
            call.require_network_dim()  # loaded now rather than in the first update, and what it has to say is said
            call.agree_on_network()
        call.leave()
        self._session = call
        self._remarks = tuple(call.remarks)
        self._reading = Reading(call.settings.batch_size)
        self._last: torch.cuda.Event | None = None
        self.reset()

    @property
    def n(self) -> int:
        """Images and feature vectors taken since the last reset, an incomplete block of the protocol's included."""
        return self._tally.read

    @property
    def reference(self) -> Moments:
        """The reference's moments at the protocol's tap; ``save`` them to begin the next run without measuring."""
        return self._ref.features[self._session.tap].moments

    def update(self, images: Any, *, key: Key = None) -> None:
        """Take images: all that are given, or, where this raises, none.

        Args:
            images: uint8 tensor [n, 3, H, W] on any device, or array [n, H, W, 3]; one image without the first axis; a
                list of images of any sizes; one of these with its labels, as a DataLoader gives them; and whatever else
                ``fastfid.fid`` takes as an image set. They go through the network ``batch_size`` at a time.
            key: which element of a dict, tuple or list holds the images, where there are several (images and masks).

        Raises:
            TypeError: images that are not uint8 (the message says how to convert), or no images at all.
            ValueError: wrong axes, several elements that are images, or an image that can't be read.
        """
        source = open_item(images, decode=self._session.protocol.decode, key=key)
        call = self._session
        begin = time.perf_counter()
        self._follow()
        batches = features_of(source, call.protocol, call.extractor, self._reading, device=call.device)
        with closing(batches):
            self._tally = self._tally.with_all(self._fitting(batches))
        self._notes.update(dict.fromkeys(source.notes))
        self._told.update(dict.fromkeys(source.remarks))
        self._unread.update(source.unread)
        self._mark(begin)

    def update_features(self, features: torch.Tensor) -> None:
        """Take features [n, d] that the same network has already given, on any device.

        Raises:
            TypeError: not a floating-point tensor or array.
            ValueError: not [n, d] with the reference's d, or NaN or infinity (on a GPU ``compute`` says so);
                nothing was taken then.
        """
        if len(self._tally.gathered) > 1:
            taps = ", ".join(self._tally.gathered)
            raise ValueError(f"features: of one layer, but the metrics read {taps}; give images to update")
        rows = feature_matrix(features)
        if rows.shape[1] != self.reference.dim:
            raise ValueError(f"features: {rows.shape[1]} features; the reference has {self.reference.dim}")
        begin = time.perf_counter()
        self._follow()
        names = tuple(str(self._tally.read + i) for i in range(len(rows)))
        self._tally.add(FeatureBatch({self._session.tap: rows.to(self._session.device)}, names, ()))
        self._mark(begin)

    def compute(self, *, certify: bool | None = None) -> FIDResult | Report:
        """The distance, or the metrics, of what was taken since the last reset, by all processes; more may follow.

        Args:
            certify: as in ``fastfid.fid``.

        Raises:
            ValueError: fewer than two images, or a feature that is NaN or infinite.
        """
        self._follow()
        self._session.extractor.check()
        self._session.remarks = list(self._remarks)  # what an earlier result had to say is not this one's
        for text in self._told:
            self._session.warn(SetWarning, text)
        with joined(bool(self._session.settings.distributed), timeout_s=self._session.settings.timeout) as world:
            side = self._side(world)
            if not self._several:
                return world.once("distance", lambda: distance_between(self._session, self._ref, side, certify))
            return compute(self._session, self._plan, {"ref": self._ref, "gen": side}, world=world, certify=certify)

    def reset(self) -> None:
        """Forget what was taken; the reference stays."""
        block, kept = self._session.protocol.statistics.block, self._plan.rows("gen")
        self._tally = Tally({tap: Gathered(block, keep=tap in kept) for tap in self._plan.taps})
        self._notes: dict[str, None] = {}
        self._told: dict[str, None] = {}
        self._unread = Counter[str]()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: what the device still works on is waited for; a copy goes on by itself."""
        if self._last is not None:
            self._last.synchronize()
        return {**self.__dict__, "_last": None}

    def _side(self, world: World) -> MeasuredSet:
        """What all processes have taken, as a side of a comparison; nothing of it changes."""
        tally, call = self._tally, self._session
        moments = {tap: self._finished(taken) for tap, taken in tally.gathered.items()}
        told = twins(world, next(iter(moments.values()))) if world.size > 1 else None
        if told is not None:
            call.warn(SetWarning, told)
        moments = {tap: merge_across(one, world, device=call.device) for tap, one in moments.items()}
        description = f"{sum(world.gather('read', tally.read))} images taken by Evaluator"
        unread = tuple(by_reason(self._unread).items())
        n, notes = next(iter(moments.values())).n, tuple(self._notes)
        info = SetInfo(description, "evaluator", n, (), tally.dropped, tally.seconds, notes, unread)
        for tap, one in moments.items():
            label(call, tap, one, info)
        return MeasuredSet.of(call, "gen", info, moments, {tap: one.rows for tap, one in tally.gathered.items()})

    def _finished(self, taken: Gathered) -> Moments:
        """The moments of what was taken, a block that is all there is included; nothing of it changes."""
        moments = Moments()
        moments.merge(taken.moments)
        if moments.n == 0 and taken.rest is not None:
            moments.update(taken.rest)
        return moments

    def _fitting(self, batches: Iterator[FeatureBatch]) -> Iterator[FeatureBatch]:
        """The same, but the first one shows whether the network gives as many features as the reference has."""
        for batch in batches:
            self._session.require_network_dim()
            yield batch

    def _follow(self) -> None:
        """Order this call behind the one before, whichever stream that was on."""
        if self._last is not None:
            torch.cuda.current_stream(self._session.device).wait_event(self._last)

    def _mark(self, begin: float) -> None:
        self._tally.seconds += time.perf_counter() - begin
        if self._session.device.type == "cuda":
            self._last = torch.cuda.current_stream(self._session.device).record_event()
