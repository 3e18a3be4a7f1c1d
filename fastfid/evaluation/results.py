"""What a comparison gives: the distance and where it comes from."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch

from fastfid.distance.result import FrechetResult
from fastfid.protocols import Protocol
from fastfid.runtime.version import VERSION


@dataclass(frozen=True)
class SetInfo:
    """One side of a comparison: what it was and what was read of it.

    Attributes:
        description: the path or object the caller gave.
        kind: "folder", "zip", "npz", …, or "statistics".
        n: samples in the moments; None for statistics that do not say.
        skipped: names of the images that could not be read.
        dropped: images of an incomplete last block, which the protocol leaves out.
        seconds: wall time of the pass; None for statistics.
        notes: what is worth knowing of how the images were read (greyscale repeated, wide greyscale cut off, …).
        unread: (reason, count) of what lies in the set and was not read.
        reasons: why each of ``skipped`` could not be read.
    """

    description: str
    kind: str
    n: int | None
    skipped: tuple[str, ...] = ()
    dropped: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    unread: tuple[tuple[str, int], ...] = ()
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        return {
            "description": self.description,
            "kind": self.kind,
            "n": self.n,
            "n_skipped": len(self.skipped),
            "skipped": list(self.skipped),
            "skipped_reasons": skipped_reasons(self.skipped, self.reasons),
            "unread": dict(self.unread),
            "dropped": self.dropped,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "images_per_second": self.n / self.seconds if self.n and self.seconds else None,
        }


@dataclass(frozen=True)
class Run:
    """Everything that must be known to repeat a number, or to judge it."""

    metric: str
    protocol: Protocol
    extractor: str
    weights: str | None
    weights_sha256: str | None
    precision: str
    device: str
    limit: int | None
    seed: int
    ref: SetInfo
    gen: SetInfo
    warnings: tuple[str, ...]
    versions: Mapping[str, str]


class FIDResult(FrechetResult):
    """A FrechetResult that knows where it comes from.

    Attributes:
        run: the metric's name, protocol, network, weights, counts, warnings and versions.
    """

    run: Run

    def to_dict(self) -> dict[str, Any]:
        """The JSON report. The value stands under the metric's own name: "fid" only with the published weights."""
        run = self.run
        return {
            "metric": run.metric,
            run.metric: super().to_dict(),
            "protocol": run.protocol.name,
            "extractor": run.extractor,
            "weights": run.weights,
            "weights_sha256": run.weights_sha256,
            "n_ref": run.ref.n,
            "n_gen": run.gen.n,
            "warnings": list(run.warnings),
            "ref": run.ref.to_dict(),
            "gen": run.gen.to_dict(),
            "limit": run.limit,
            "seed": run.seed,
            "precision": run.precision,
            "device": run.device,
            "versions": dict(run.versions),
            "protocol_details": run.protocol.to_dict(),
        }


def skipped_reasons(names: Sequence[str], reasons: Sequence[str]) -> list[dict[str, str]]:
    """Images that could not be read, for JSON."""
    return [{"name": name, "reason": reason} for name, reason in zip(names, reasons, strict=True)]


def versions() -> dict[str, str]:
    """The versions that can move a number."""
    return {
        "fastfid": VERSION,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "Pillow": PIL.__version__,
        "python": platform.python_version(),
    }
