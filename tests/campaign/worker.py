"""A worker process: trials one after the other, each announced in shared memory before it begins.

A crash, a hang or a lost process is thereby a counted failure with its seed; the parent goes on after it.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY = 8 << 30
"""Address space of a worker; torch alone takes a third of it."""
HANG_S = 60.0
"""A trial that takes longer is a hang; they take milliseconds, and machines are slow at times."""
_NOW = struct.Struct("<qqd")  # entry, seed, when it began


@dataclass
class Tally:
    """What came of one entry.

    Attributes:
        tried: trials begun.
        events: what was done in them: mostly one each.
        failed: trials that were a failure.
        faults: what failed → [how often, the first seeds, detail of the first].
    """

    tried: int = 0
    events: int = 0
    failed: int = 0
    seconds: float = 0.0
    faults: dict[str, list[Any]] = field(default_factory=dict)

    def note(self, what: str, seed: int, detail: str, count: int = 1) -> None:
        known = self.faults.setdefault(what, [0, [], detail[:600]])
        known[0] += count
        if len(known[1]) < 3 and seed not in known[1]:
            known[1].append(seed)
        self.failed += count

    def add(self, tried: int, seconds: float, faults: dict[str, list[Any]], events: int = 0) -> None:
        self.tried, self.seconds, self.events = self.tried + tried, self.seconds + seconds, self.events + events
        for what, (count, seeds, detail) in faults.items():
            self.note(what, seeds[0], detail, count)
            for seed in seeds[1:]:
                if len(self.faults[what][1]) < 3 and seed not in self.faults[what][1]:
                    self.faults[what][1].append(seed)


def trials(name: str, seeds: range, until: float = float("inf")) -> tuple[int, dict[str, list[Any]]]:
    """Run the trials of one entry in this process, for debugging; what ``main`` does without its guards."""
    from campaign.registry import ENTRIES

    tally, entry = Tally(), ENTRIES[name]
    for seed in seeds:
        if time.monotonic() > until:
            break
        _one(entry, seed, tally)
    return tally.tried, tally.faults


def _one(entry: Any, seed: int, tally: Tally) -> None:
    import numpy as np

    from campaign.trial import Fault

    folder = _scratch()
    tally.tried += 1
    try:
        tally.events += entry.run(np.random.default_rng([seed, zlib.crc32(entry.name.encode())]), folder) or 1
    except Fault as fault:
        tally.note(fault.what, seed, fault.detail)
    except Exception as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        tally.note(
            f"{type(error).__name__} outside of what was tried ({Path(where.filename).name}: {where.name})",
            seed,
            traceback.format_exc()[-600:],
        )
    finally:
        if any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
            _scratch.cache_clear()


@functools.cache
def _scratch() -> Path:
    """An empty folder; the next trial gets the same one if this one leaves it empty."""
    return Path(tempfile.mkdtemp(prefix="trial-"))


def main() -> None:
    """``worker.py BOARD``: runs "NAME FIRST COUNT SECONDS" lines from stdin, answers each with a line of JSON."""
    board_file = open(sys.argv[1], "r+b")  # noqa: SIM115, PTH123  # open as long as the process lives
    board = mmap.mmap(board_file.fileno(), 4096)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import torch

    torch.set_num_threads(1)
    from campaign import registry, selftest

    known = {**registry.ENTRIES, **{entry.name: entry for entry in selftest.ENTRIES}}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    trace = open(sys.argv[1] + ".trace", "w")  # noqa: SIM115, PTH123
    faulthandler.enable(trace)
    answers = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        index, name, first, count, seconds = json.loads(line)
        tally, begin = Tally(), time.monotonic()
        entry = known[name]
        for seed in range(first, first + count):
            now = time.monotonic()
            if now - begin > seconds:
                break
            board[: _NOW.size] = _NOW.pack(index, seed, now)
            _one(entry, seed, tally)
        passed = time.monotonic() - begin
        done = {"tried": tally.tried, "seconds": passed, "faults": tally.faults, "events": tally.events}
        print(json.dumps(done), file=answers, flush=True)


class Worker:
    """The parent's side: hands out pieces of work, and starts a new process where one is lost."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.board = folder, folder / f"board-{number}"
        self.board.write_bytes(bytes(4096))
        self.process: subprocess.Popen[str] | None = None

    def run(self, index: int, name: str, first: int, count: int, seconds: float, tally: Tally) -> int:
        """Trials first, first + 1, … of an entry, for about ``seconds``; returns the next seed."""
        process = self.process or self._start()
        assert process.stdin is not None
        begin = time.monotonic()
        try:
            process.stdin.write(json.dumps([index, name, first, count, seconds]) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._stop()
            return first
        said = self._answer(process)
        if isinstance(said, dict):
            tally.add(said["tried"], said["seconds"], said["faults"], said["events"])
            return first + int(said["tried"])
        entry, seed, _ = _NOW.unpack(self.board.read_bytes()[: _NOW.size])
        seed = max(int(seed), first) if entry == index else first
        trace = Path(f"{self.board}.trace")
        tally.note(said, seed, trace.read_text(errors="replace")[-600:] if trace.exists() else "")
        tally.tried, tally.seconds = tally.tried + seed - first + 1, tally.seconds + time.monotonic() - begin
        self._stop()
        return seed + 1

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any] | str:
        """The worker's line, or how it was lost."""
        import select

        assert process.stdout is not None
        while True:
            ready, _, _ = select.select([process.stdout], [], [], 1.0)
            if ready:
                line = process.stdout.readline()
                if line:
                    return dict(json.loads(line))
                code = process.wait()
                return f"the process ended: {signal.Signals(-code).name if code < 0 else f'exit {code}'}"
            _, _, began = _NOW.unpack(self.board.read_bytes()[: _NOW.size])
            if began and time.monotonic() - began > HANG_S:
                return "hangs"

    def _start(self) -> subprocess.Popen[str]:
        scratch = self.folder / f"{self.board.name}-scratch"
        scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "FASTFID_OFFLINE": "1"}
        environment |= {"HOME": str(scratch), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), *_path()])
        self.board.write_bytes(bytes(4096))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "campaign.worker", str(self.board)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=scratch,
            env=environment,
            text=True,
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RuntimeError("a worker does not start; see its message above")
        return self.process

    def _stop(self) -> None:
        """End the process and what it may have forked: they are one session of ours."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.process = None

    def close(self) -> None:
        self._stop()
        shutil.rmtree(self.folder / f"{self.board.name}-scratch", ignore_errors=True)


def _path() -> list[str]:
    """Where the package that this process uses lies, and what PYTHONPATH says."""
    import fastfid

    return [str(Path(fastfid.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]


if __name__ == "__main__":
    main()
