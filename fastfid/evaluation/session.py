"""What one call works with: its settings, its network, made when it is first needed, and what it has to say."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from fastfid.agreement import Sharing, agree_on_network
from fastfid.distributed import World, asked, first_on_node, joined, local_device
from fastfid.errors import (
    BackendUnavailableError,
    FastFIDWarning,
    IncomparableError,
    NotFIDWarning,
    ProtocolWarning,
    SlowPathWarning,
)
from fastfid.evaluation.settings import Settings, require_known
from fastfid.extractors import PRECISIONS, Extractor, as_extractor, inception_extractor
from fastfid.extractors.folded import WIDENED
from fastfid.passes.keeping import Keeping
from fastfid.passes.pipeline import Reading, resampler
from fastfid.protocols import Protocol
from fastfid.runtime.arithmetic import ieee_convolutions
from fastfid.runtime.dispatch import report
from fastfid.runtime.progress import wanted
from fastfid.runtime.shown import shown
from fastfid.sources import WHOLE, Shard, Source


@contextmanager
def session(
    function: str,
    options: Mapping[str, Any],
    *,
    without: Collection[str] = (),
    taps: Callable[[Settings], Sequence[str]] = lambda _one: (),
) -> Iterator[Session]:
    """One call of a public function, among all processes that make it.

    Args:
        function: its name, for errors.
        options: as they were given.
        without: those that it does not take.
        taps: gives the network's layers that are read; none: only the protocol's.
    """
    require_known(function, options, without=without)
    several, own = asked(options.get("distributed", False))
    with joined(several, timeout_s=options.get("timeout")) as world:
        settings = Settings.of(options)
        yield Session(settings, world, own, taps(settings))


class Session:
    """One call: checked settings, the extractor made when first needed, and the warnings.

    Attributes:
        settings: as given, checked.
        protocol: with the tap that its distance reads.
        taps: all that are read, "" where the network is the caller's own.
        world, sharing: the processes, and what they are to each other.
        share: what part of a set this process reads.
        device: where network and statistics are.
        progress: whether bars are shown.
        remarks: what the result must say, in order.
        keeping: the cache or the checkpoints.
    """

    def __init__(self, settings: Settings, world: World, own: bool, taps: Sequence[str] = ()) -> None:
        self.settings, self.protocol, self.world = settings, settings.protocol, world
        if world.size > 1 and settings.shard != WHOLE:
            raise ValueError("shard and distributed both divide the set; leave one of them out")
        self.device = _device(settings.device if world.size == 1 else local_device(settings.device))
        self.sharing = Sharing(world, own)
        self.share = settings.shard if world.size == 1 else Shard(world.index, world.size)
        self.progress = world.index == 0 and wanted(settings.progress)
        self.remarks: list[str] = []
        self.taps = tuple(taps) or (self.tap,)
        self._dims: dict[str, tuple[int, str]] = {}
        self.keeping = Keeping(settings.cache, settings.checkpoint, self.warn)

    @cached_property
    def extractor(self) -> Extractor:
        """The network, made when it is first needed."""
        settings = self.settings
        if settings.extractor is None:
            with first_on_node(self.world, "weights"):
                made = inception_extractor(
                    self.taps,
                    weights=settings.weights,
                    device=self.device,
                    precision=settings.precision,
                    progress=self.progress,
                )
        else:
            made = as_extractor(settings.extractor, device=self.device)
            made = made.at(*self.taps) if made.taps != ("",) else made
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

    @cached_property
    def networks(self) -> dict[str, Extractor]:
        """The extractor at each of its taps alone."""
        return {tap: self.extractor.at(tap) for tap in self.extractor.taps}

    def protocol_at(self, tap: str) -> Protocol:
        """The protocol with another tap."""
        return replace(self.protocol, tap=tap or self.protocol.tap)

    @property
    def tap(self) -> str:
        """The tap of the protocol's distance, as ``networks`` has it; no network is made for it."""
        given = self.settings.extractor
        inception = given is None or (isinstance(given, Extractor) and given.taps != ("",))
        return self.protocol.tap if inception else ""

    def network(self, tap: str | None = None) -> dict[str, Any]:
        """What the extractor is at a tap (the protocol's), as results and statistics files carry it."""
        made = self.networks[self.tap if tap is None else tap]
        return {
            "extractor": made.name,
            "tap": made.taps[0] or None,
            "weights": made.weights.label if made.weights else None,
            "weights_sha256": made.weights.sha256 if made.weights else None,
            "precision": made.precision or "the extractor's own",
            "metric": made.metric,
        }

    def warn(self, category: type[FastFIDWarning], text: str) -> None:
        """Once to the caller's warning filters, and into the result, with names that can't act on a terminal."""
        text = shown(text)
        if text not in self.remarks:
            self.remarks.append(text)
            if self.world.index == 0:
                warnings.warn(text, category, stacklevel=2)

    def warn_of_resampler(self) -> None:
        """Where images are not resized where one would expect it."""
        where, backend = resampler(self.device)
        reasons = report("resize_normalize", self.device.type)
        if where != self.device:
            self.warn(SlowPathWarning, f"images are resized on the CPU, not on {self.device}: {reasons['cuda']}")
        if backend == "reference":
            self.warn(SlowPathWarning, f"images are resized by the slow float64 reference: {reasons['cpp']}")

    def reading(self, source: Source) -> Reading:
        """How this process reads a set."""
        share = WHOLE if self.sharing.is_own(source) else self.share
        block = self.protocol.statistics.block if share != WHOLE else 0
        s = self.settings
        return Reading(s.batch_size, self._workers(source), s.limit, s.seed, s.skip_bad, share, block)

    def _workers(self, source: Source) -> int:
        """Processes beside a GPU, as pytorch-fid has them; on a CPU a thread, for its cores belong to the network."""
        if self.settings.num_workers is not None:
            return self.settings.num_workers
        if self.device.type == "cpu" or source.kind not in ("folder", "zip"):
            return 0
        return min(8, os.cpu_count() or 1)

    def require_network_dim(self) -> None:
        """The network's features, as soon as their number is known, are as many as the other side's."""
        for tap, network in self.networks.items():
            if network.dim is not None:
                self.require_dim(tap, f"the network {network.name}", network.dim)

    def require_dim(self, tap: str, who: str, dim: int) -> None:
        """All features of one tap have one dimension; the first that is known is taken for it."""
        known, whose = self._dims.setdefault(tap, (dim, who))
        if known != dim:
            raise IncomparableError(
                f"{who} has {dim} features, {whose} has {known}: no distance is defined between them; make both with "
                "the same network and tap (--tap, --extractor)"
            )

    def agree_on_network(self) -> None:
        """All processes have the same network."""
        if self.world.size > 1:
            agree_on_network(self.world, self.extractor, self.network(), self.protocol.resize.size)

    def leave(self) -> None:
        """Go on as a process alone; what was measured stays."""
        self.world = World()
        self.sharing = Sharing(self.world, False)


def _device(asked_for: str | torch.device) -> torch.device:
    if asked_for == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked_for)
    except (RuntimeError, TypeError):
        raise ValueError(f"device={asked_for!r} is not a device; accepted: auto, cpu, cuda, cuda:<index>") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is not supported; accepted: auto, cpu, cuda, cuda:<index>")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise BackendUnavailableError(
                f"device={str(device)!r}: this machine has {count} CUDA devices that torch {torch.__version__} can use"
            )
    return device
