"""Two ranks, one killed or stopped at a random moment: the other names it, and gives the right number or none."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import distributed as dist

from campaign.child import command, ended, forked, text
from campaign.kills import outcome, sets, words
from campaign.trial import Entry, require

Generator = np.random.Generator
TIMEOUT_S = 2.0


def _rank(index: int, given: list[Any], pipe: int) -> Callable[[], None]:
    """What one rank does: it waits for the address of the store, then runs its command as under torchrun."""

    def run() -> None:
        port = os.read(pipe, 16).decode().strip()
        place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()}, TORCHELASTIC_USE_AGENT_STORE="True")
        command(*given)()

    return run


def pair(
    given: list[Any], folder: Path, disturb: Callable[[list[int]], None] = lambda _: None, first: int = 0
) -> tuple[list[int | None], list[Path]]:
    """Exit codes and logs of two ranks; ``disturb`` gets their process ids once they have begun.

    ``first``: the rank whose end is waited for first; whatever the other does then, it is ended.
    """
    logs = [folder / "log0", folder / "log1"]
    reading, writing = os.pipe()
    pids = [forked(_rank(index, given, reading), logs[index]) for index in range(2)]
    os.close(reading)
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    try:
        for _ in pids:
            os.write(writing, f"{store.port}".ljust(16).encode())
        disturb(pids)
        codes: list[int | None] = [None, None]
        codes[first] = ended(pids[first])
        with suppress(ProcessLookupError):
            os.kill(pids[1 - first], signal.SIGCONT)
        codes[1 - first] = ended(pids[1 - first])
    finally:
        os.close(writing)
        del store
    return codes, logs


@functools.cache
def undisturbed() -> tuple[Any, float]:
    """The result of both ranks together, and how long they take."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        begin = time.monotonic()
        codes, logs = pair([*words("compare", folder, ""), "--timeout", 30], folder)
        seconds = time.monotonic() - begin
        require(codes == [0, 0], f"two ranks, undisturbed: exits {codes}", text(logs[0]) + text(logs[1]))
        return outcome(folder / "out" / "o.json"), seconds


def lost(how: int) -> Callable[[Generator, Path], None]:
    def run(rng: Generator, folder: Path) -> None:
        sets()
        want, seconds = undisturbed()
        victim, name = int(rng.integers(2)), signal.Signals(how).name
        (folder / "out").mkdir()

        def disturb(pids: list[int]) -> None:
            time.sleep(float(rng.uniform(0, 1.1)) * seconds)
            os.kill(pids[victim], how)

        given = [*words("compare", folder, ""), "--timeout", TIMEOUT_S]
        codes, logs = pair(given, folder, disturb, 1 - victim)
        other = codes[1 - victim]
        said = text(logs[1 - victim])
        label = f"rank {victim}, {name}"
        require(other is not None, f"{label}: the other rank hangs", said)
        path = folder / "out" / "o.json"
        if other == 0:  # the victim had taken part in the last exchange already
            if path.exists():
                require(outcome(path) == want, f"{label}: another number", said)
            return
        require(other == 6, f"{label}: the other rank's exit is {other}, not 6", said)
        require(f"rank {victim}" in said, f"{label}: the other rank does not name it", said)
        require("Traceback" not in said, f"{label}: traceback", said)
        if path.exists():  # the distance was known, and with it delivered, before the rank was lost
            require(outcome(path) == want, f"{label}: another number", said)

    return run


ENTRIES = [Entry("ranks/killed", lost(signal.SIGKILL)), Entry("ranks/stopped", lost(signal.SIGSTOP))]
