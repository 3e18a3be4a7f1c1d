"""The campaign tries every public name and every command, and its own judgement can fail."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaign.registry import ENTRIES, FLOORS, SHARES
from campaign.trial import Fault, either, refuses, returns
from campaign.worker import Tally, trials

import fastfid
from fastfid.cli import main


def test_every_public_name_and_command_has_an_entry() -> None:
    covered = {name for entry in ENTRIES.values() for name in entry.covers}
    wanted = {name for name in fastfid.__all__ if name != "__version__"} | {f"command {name}" for name in main.commands}
    assert not wanted - covered, "add an entry in tests/campaign for each of these"
    assert not covered - wanted, "these are gone"
    assert {entry.kind for entry in ENTRIES.values()} <= FLOORS.keys() & SHARES.keys()


def test_every_entry_of_fuzz_runs() -> None:
    """One trial of each that is quick: the campaign itself must not be broken between two runs of .ci/run."""
    for name in ("fuzz/protocol", "fuzz/PROTOCOLS", "fuzz/polar", "fuzz/RaggedImages"):
        tried, faults = trials(name, range(3))
        assert tried == 3
        assert not [what for what in faults if "outside of what was tried" in what], faults


def named(x: Any, *, size: int = 1) -> float:
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    return float(x.sum()) / size


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda x: refuses(named, x, label="f", names=("size",), size=1), "accepted"),
        (lambda x: refuses(named, x, label="f", names=("other",), size=0), "does not name"),
        (lambda x: refuses(named, None, label="f", names=("x",)), "AttributeError"),
        (lambda x: returns(named, x, label="f", size=0), "refused"),
        (lambda x: either(lambda: 1 / 0, label="f"), "ZeroDivisionError"),
        (lambda x: returns(lambda y: y.__iadd__(1), x, label="f"), "modified its input"),
        (lambda x: returns(lambda: np.random.seed(3), label="f"), "numpy RNG"),  # noqa: NPY002
        (lambda x: returns(lambda: random.random(), label="f"), "changed random"),
    ],
)
def test_faults_are_seen(wrong: Any, what: str) -> None:
    with pytest.raises(Fault, match=what):
        wrong(np.ones(3))


def test_what_is_right_passes() -> None:
    x = np.ones(3)
    assert returns(named, x, label="f") == 3.0
    refuses(named, x, label="f", names=("size",), size=0)
    either(named, x, label="f", size=0)


def test_counts_add_up() -> None:
    one, other = Tally(), Tally()
    other.note("a", 5, "x")
    other.note("a", 6, "y")
    one.add(10, 1.0, other.faults)
    one.add(10, 1.0, other.faults)
    assert (one.tried, one.failed, one.faults["a"][:2]) == (20, 4, [4, [5, 6]])


def test_crashes_and_hangs_are_counted_with_their_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies or stands still is a failure with a seed, and the next trial runs in a new one."""
    from campaign import worker

    monkeypatch.setattr(worker, "HANG_S", 1.0)
    runner, tally = worker.Worker(tmp_path, 0), Tally()
    try:
        assert runner.run(0, "self/ends", 7, 5, 60.0, tally) == 10
        assert runner.run(1, "self/stands", 7, 5, 60.0, tally) == 9
    finally:
        runner.close()
    assert tally.tried == 3 + 2
    assert {what: fault[:2] for what, fault in tally.faults.items()} == {
        "the process ended: SIGSEGV": [1, [9]],
        "hangs": [1, [8]],
    }
