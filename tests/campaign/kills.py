"""SIGKILL at random moments: what is there afterwards is whole, the next run has the same bits and leaves no strays."""

from __future__ import annotations

import functools
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastfid
from campaign.child import command, ended, forked, text
from campaign.fuzz_calls import pictures, written
from campaign.fuzz_images import Pooled
from campaign.trial import Entry, Fault, pick, require

Generator = np.random.Generator


@functools.cache
def sets() -> Path:
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    for seed, name in enumerate(("x", "y")):
        written(root, pictures(np.random.default_rng(seed), 40), name)
    torch.jit.script(Pooled().eval()).save(str(root / "net.pt"))
    for name in ("x", "y"):
        fastfid.stats(root / name, root / f"{name}.npz", extractor=str(root / "net.pt"), progress=False, device="cpu")
    return root


def words(kind: str, folder: Path, keeping: str) -> list[Any]:
    """A command line whose output lies in ``folder``/out, and its cache or checkpoint beside it."""
    root = sets()
    if kind == "merge":
        return ["merge", root / "x.npz", root / "y.npz", "-o", folder / "out" / "o.npz"]
    common = ["--extractor", root / "net.pt", "--quiet", "--device", "cpu", "--batch-size", 4, "--num-workers", 0]
    common += {"cache": ["--cache", folder / "kept"], "checkpoint": ["--checkpoint", folder / "kept" / "c"], "": []}[
        keeping
    ]
    if kind == "stats":
        return ["stats", root / "x", "-o", folder / "out" / "o.npz", *common]
    return ["compare", root / "x", root / "y", "--json", folder / "out" / "o.json", *common]


def outcome(path: Path) -> Any:
    """What an output file holds, bit for bit where it is a number; the time that was needed is left out."""
    if path.suffix == ".json":
        report = json.loads(path.read_text())
        return report["results"], [side["n"] for side in report["sets"].values()], report["networks"]
    with np.load(path) as file:
        return {key: file[key].tobytes() for key in file.files if key != "metadata"}


def make(folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "kept").mkdir()
    return folder / "log"


@functools.cache
def undisturbed(kind: str) -> tuple[Any, float]:
    """What comes of the command, and how long it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = make(folder)
        for _ in range(2):  # the first one may load what the second finds
            begin = time.monotonic()
            code = ended(forked(command(*words(kind, folder, "")), log))
            seconds = time.monotonic() - begin
        require(code == 0, f"{kind}: undisturbed run failed: exit {code}", text(log))
        (path,) = (folder / "out").iterdir()
        return outcome(path), seconds


def killed(kind: str, signal_number: int) -> Callable[[Generator, Path], int]:
    def run(rng: Generator, folder: Path) -> int:
        keeping = pick(rng, ("", "cache", "checkpoint")) if kind != "merge" else ""
        want, seconds = undisturbed(kind)
        log, label = make(folder), f"{kind}{' --' * bool(keeping)}{keeping}, {signal.Signals(signal_number).name}"
        given = words(kind, folder, keeping)
        times = int(rng.integers(1, 4))
        for _ in range(times):
            pid = forked(command(*given), log)
            time.sleep(seconds * float(rng.uniform(0, 1.3)))
            os.kill(pid, signal_number)
            code = ended(pid)
            expected = (0, -signal.SIGKILL) if signal_number == signal.SIGKILL else (0, 130)
            require(code is not None, f"{label}: does not end", text(log))
            require(code in expected, f"{label}: exit {code}, not {expected}", text(log))
            for path in (folder / "out").iterdir():
                if path.name in ("o.npz", "o.json"):
                    _whole(path, want, f"{label}: after the kill")
            if signal_number != signal.SIGKILL:
                _nothing_else(folder / "out", f"{label}: interrupted")
        code = ended(forked(command(*given), log))
        require(code == 0, f"{label}: the next run failed: exit {code}", text(log))
        (path,) = [one for one in (folder / "out").iterdir() if not one.name.startswith(".")]
        _whole(path, want, f"{label}: the next run")
        _nothing_else(folder / "out", f"{label}: the next run")
        kept = sorted(one.name for one in (folder / "kept").iterdir())
        if keeping == "checkpoint":
            require(not kept, f"{label}: a checkpoint is left", repr(kept))
        strays = [n for n in kept if n != "hashes" and not n.endswith((".safetensors", ".lock"))]
        require(not strays, f"{label}: strays in the cache", repr(strays))
        return times

    return run


def _whole(path: Path, want: Any, label: str) -> None:
    try:
        got = outcome(path)
    except Exception as error:
        raise Fault(f"{label}: {path.suffix} is not whole", repr(error)) from error
    require(got == want, f"{label}: other bits in {path.suffix}", f"{got!r:.200} not {want!r:.200}")


def _nothing_else(out: Path, label: str) -> None:
    strays = [one.name for one in out.iterdir() if one.name not in ("o.npz", "o.json")]
    require(not strays, f"{label}: strays", repr(strays))


ENTRIES = [
    Entry("kills/stats", killed("stats", signal.SIGKILL)),
    Entry("kills/compare", killed("compare", signal.SIGKILL)),
    Entry("kills/merge", killed("merge", signal.SIGKILL)),
    Entry("kills/Ctrl-C", killed("compare", signal.SIGINT)),
]
