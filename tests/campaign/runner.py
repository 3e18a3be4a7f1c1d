"""The whole campaign: shares the time out, counts, and writes what came of it.

Every kind gets its share of the time, and within a kind the entry that has had the least; below their floor of trials
entries come first, so that the counts hold on a slow machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

import fastfid
from campaign.registry import ENTRIES, FLOORS, MOST, SHARES
from campaign.worker import Tally, Worker

PIECE_S = 2.0


@dataclass
class Progress:
    """One entry's state: what was counted, and where its seeds go on."""

    index: int
    tally: Tally
    following: int
    busy: bool = False


class Campaign:
    """Runs entries in worker processes until the time is over and every floor is reached, or ``hard`` seconds are."""

    def __init__(
        self, seconds: float, seed: int, jobs: int, only: str = "", say: Callable[[str], None] = print
    ) -> None:
        chosen = [name for name in ENTRIES if only in name]
        self.state = {n: Progress(i, Tally(), seed * 10_000_000) for i, n in enumerate(ENTRIES) if n in chosen}
        self.seconds, self.seed, self.jobs, self.say = seconds, seed, jobs, say
        self.lock = threading.Lock()
        self.begin = time.monotonic()

    def run(self, hard: float = float("inf")) -> dict[str, Any]:
        """The campaign; its result as plain values."""
        with tempfile.TemporaryDirectory(prefix="campaign-") as name:
            workers = [Worker(Path(name), number) for number in range(self.jobs)]
            threads = [threading.Thread(target=self._work, args=(worker, hard)) for worker in workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for worker in workers:
                worker.close()
        return self.result()

    def _work(self, worker: Worker, hard: float) -> None:
        while True:
            with self.lock:
                name = self._next(hard)
                if name is None:
                    return
                one = self.state[name]
                one.busy = True
            left = max(FLOORS[ENTRIES[name].kind] - one.tally.tried, 0)
            over = time.monotonic() - self.begin > self.seconds
            made = Tally()
            count = left if over else max(MOST - one.tally.tried, 1)
            following = worker.run(one.index, name, one.following, count, PIECE_S, made)
            with self.lock:
                one.following, one.busy = following, False
                one.tally.add(made.tried, made.seconds, made.faults, made.events)

    def _next(self, hard: float) -> str | None:
        """The entry that is furthest behind, none where all is done."""
        passed = time.monotonic() - self.begin
        free = {name: one for name, one in self.state.items() if not one.busy and one.tally.tried < MOST}
        short = {name: one for name, one in free.items() if one.tally.tried < FLOORS[ENTRIES[name].kind]}
        if passed > hard or not free or (passed > self.seconds and not short):
            return None
        if passed > self.seconds:
            return min(short, key=lambda name: short[name].tally.seconds)
        spent: dict[str, float] = {}
        for name, one in self.state.items():
            spent[ENTRIES[name].kind] = spent.get(ENTRIES[name].kind, 0.0) + one.tally.seconds
        kind = min({ENTRIES[name].kind for name in free}, key=lambda kind: spent[kind] / SHARES[kind])
        own = [name for name in free if ENTRIES[name].kind == kind]
        return min(own, key=lambda name: (name not in short, self.state[name].tally.seconds))

    def result(self) -> dict[str, Any]:
        entries = {
            name: {
                "kind": ENTRIES[name].kind,
                "tried": one.tally.tried,
                "events": one.tally.events,
                "failed": one.tally.failed,
                "seconds": round(one.tally.seconds, 1),
                "faults": {
                    what: {"count": c, "seeds": s, "detail": pathless(d)}
                    for what, (c, s, d) in one.tally.faults.items()
                },
            }
            for name, one in self.state.items()
        }
        kinds: dict[str, dict[str, Any]] = {}
        for one in entries.values():
            kind = kinds.setdefault(one["kind"], {"entries": 0, "tried": 0, "events": 0, "failed": 0, "least": None})
            kind["entries"] += 1
            kind["tried"] += one["tried"]
            kind["events"] += one["events"]
            kind["failed"] += one["failed"]
            kind["least"] = one["tried"] if kind["least"] is None else min(kind["least"], one["tried"])
        return {
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.begin, 1),
            "jobs": self.jobs,
            "commit": _commit(),
            "machine": {
                "cpus": os.cpu_count(),
                "python": platform.python_version(),
                "packages": {"fastfid": fastfid.__version__, "torch": torch.__version__, "numpy": np.__version__,
                             "Pillow": PIL.__version__},
            },
            "kinds": kinds,
            "entries": entries,
        }  # fmt: skip


def pathless(text: str) -> str:
    """Without the folders of this machine: a result is committed."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)+", "", text)


def _commit() -> str | None:
    root = Path(fastfid.__file__).parent.parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def table(result: dict[str, Any]) -> str:
    """Counts and failures in lines."""
    lines = [f"seed {result['seed']}, {result['seconds']} s, {result['jobs']} processes"]
    for name, one in result["entries"].items():
        lines.append(f"{name:34} {one['tried']:>9,} tried {one['failed']:>7,} failed {one['seconds']:>8} s")
        for what, fault in sorted(one["faults"].items(), key=lambda item: -item[1]["count"]):
            detail = " ".join(fault["detail"].split())[:200]
            lines.append(f"    {fault['count']:>6} × {what} (seeds {fault['seeds']}): {detail}")
    for kind, one in result["kinds"].items():
        counts = f"{one['tried']:,} tried ({one['events']:,} done in them), {one['failed']:,} failed"
        lines.append(f"{kind:10} {one['entries']:>3} entries, {counts}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--hard", type=float, default=float("inf"), help="stop then, whatever the floors say")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="entries whose name contains this")
    parser.add_argument("--json", default=None)
    given = parser.parse_args(arguments)
    result = Campaign(given.seconds, given.seed, given.jobs, given.only).run(given.hard)
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1, ensure_ascii=True) + "\n")
    print(table(result))  # noqa: T201
    return 1 if any(kind["failed"] for kind in result["kinds"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
