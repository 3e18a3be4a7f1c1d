"""Runs of ``fastfid.stats`` and ``fastfid.fid`` that can be killed at any moment, in forks that have imported torch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

import fastfid
from fastfid.passes.store import checkpoint, recording
from fastfid.report.json_file import write_json
from fastfid.runtime.output import Target


def run(kind: str, keep: str, started: Any = None) -> None:
    """``stats`` or ``fid`` of the sets in the current folder, with a cache or a checkpoint, and a result file.

    A checkpoint is saved after every batch, and features go to the disk at once, so that a kill hits a save.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", fastfid.errors.FastFIDWarning)
    checkpoint.Checkpoint.due = lambda self: True  # type: ignore[method-assign]
    recording._PIECE_BYTES = 1
    if started is not None:
        started.set()
    asked: dict[str, Any] = {"extractor": "net.pt", "device": "cpu", "batch_size": 4, keep: f"kept/{keep}"}
    if kind == "stats":
        fastfid.stats("ref", "kept/result.npz", **asked)
        return
    Target("kept/result.json").prove()
    result = fastfid.fid("ref", "gen", **asked)
    write_json("kept/result.json", {"value": result.value, "lower": result.lower, "upper": result.upper})


def killed(kind: str, keep: str, folder: str, started: Any) -> None:
    """In a process of its own."""
    os.chdir(folder)
    run(kind, keep, started)


def result(folder: Path) -> bytes | None:
    """What a run wrote, without what tells the time; None before it has."""
    if (folder / "kept" / "result.json").exists():
        return (folder / "kept" / "result.json").read_bytes()
    if not (folder / "kept" / "result.npz").exists():
        return None
    moments = fastfid.Moments.load(folder / "kept" / "result.npz")
    return moments.mean.numpy().tobytes() + moments.cov().numpy().tobytes()
