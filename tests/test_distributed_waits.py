"""Ranks that are late, stopped, interrupted or never there: who is told what, and that every wait ends."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from distributed_worker import run, stop_for, values
from images import photos, write_folder
from torch import distributed as dist

import fastfid
from fastfid.cli import main
from fastfid.distributed import board, joined
from fastfid.distributed.patience import Patience, seconds
from fastfid.errors import RankError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the processes are made by a fork server"),
    pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning"),
]


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


SETTINGS: dict[str, Any] = {"extractor": Means(), "device": "cpu", "batch_size": 8, "progress": False}
REAL = photos(30, 20, 24)


@contextmanager
def listening() -> Iterator[io.StringIO]:
    """What this process says on stderr."""
    kept, sys.stderr = sys.stderr, io.StringIO()
    try:
        yield sys.stderr
    finally:
        sys.stderr = kept


def be_late(whose: int, how: str, where: str) -> tuple[list[int], str]:
    """One rank sleeps, or is stopped, before it joins or inside; what came of it, and what was said."""
    os.environ["FASTFID_ANNOUNCE"] = "0.5" if where == "inside" else "3"  # a sixth of it before all have joined
    board.BEAT_S = 0.2
    rank = int(os.environ["RANK"])

    def late() -> None:
        if rank == whose:
            time.sleep(1.5) if how == "sleeps" else stop_for(2.5)

    with listening() as said:
        if where == "joining":
            late()
        with joined(timeout_s=60) as world:
            world.gather("begin", None)
            if where == "inside":
                late()
            found = world.gather("facts", rank)
    return found, said.getvalue()


@pytest.mark.parametrize(("whose", "how", "where"), [(1, "stopped", "inside"), (0, "sleeps", "joining")])
def test_the_first_that_waits_says_for_whom(whose: int, how: str, where: str) -> None:
    outcomes = values(run(be_late, 3, whose, how, where))
    assert [found for found, _ in outcomes] == [[0, 1, 2]] * 3
    speaker, at = (1 if whose == 0 else 0), ("facts" if where == "inside" else "join")
    told = [[line for line in said.splitlines() if f" s at {at!r} for rank {whose}" in line] for _, said in outcomes]
    if where == "inside":  # before, on a machine under load, others may be late, too
        assert [bool(lines) for lines in told] == [rank == speaker for rank in range(3)]
    first, *later = told[speaker]
    assert first.startswith(f"fastfid: rank {speaker} of 3 has waited ")
    assert "it gives up after 60 s (--timeout, FASTFID_TIMEOUT)" in first
    assert ("RANK=1 and WORLD_SIZE=3 in the environment" in first) == (where == "joining")
    if how == "stopped":
        assert "no sign of life for" in " ".join(later), later
        assert "it came last to 'begin'" in first


def interrupted() -> tuple[str, float]:
    """Rank 0 waits and is interrupted; rank 1 sleeps, and finds it gone."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored below a shell's "&"
    begin = time.monotonic()
    try:
        with joined(timeout_s=50) as world:
            world.gather("begin", None)
            if world.index == 0:
                threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            else:
                time.sleep(2.0)
                world.check()
            world.gather("facts", None)
    except (KeyboardInterrupt, RankError) as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - begin
    return "", 0.0


def test_an_interrupt_is_answered_at_once_and_ends_all() -> None:
    (first, seconds_0), (second, _) = values(run(interrupted, 2))
    assert first == "KeyboardInterrupt: "
    assert seconds_0 < 40  # not the time that an exchange may take
    assert second == "RankError: rank 0 failed: KeyboardInterrupt"


def uncalled(callers: bool) -> str:
    """An Evaluator whose compute one rank does not call."""
    if callers:
        dist.init_process_group("gloo")
    evaluator = fastfid.Evaluator(REAL, distributed=True, timeout=1, **SETTINGS)
    evaluator.update(REAL[int(os.environ["RANK"]) :: 2])
    if os.environ["RANK"] == "1":
        time.sleep(2.5)
        return ""
    with listening() as said, pytest.raises(RankError) as caught:
        evaluator.compute()
    assert caught.value.rank == 1
    return said.getvalue() + str(caught.value)


@pytest.mark.parametrize("callers", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_rank_that_does_not_call_compute(callers: bool) -> None:
    told = values(run(uncalled, 2, callers))[0]
    assert "rank 1 failed: did not answer in time: rank 0 of 2 has waited 1 s at 'join' for rank 1" in told


def inherited(folders: tuple[Path, Path], rank: str, words: list[str]) -> tuple[int, str, str]:
    """The command in a shell that only inherited a launcher's variables."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    os.environ.update(
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="False",
        FASTFID_ANNOUNCE="3",
    )  # fmt: skip
    common = ["--extractor", str(folders[0].parent / "means.pt"), "--device", "cpu", "--quiet"]
    with listening() as said:
        done = CliRunner().invoke(main, ["compare", *map(str, folders), *common, *words])
    return done.exit_code, done.output, said.getvalue() + done.output


@pytest.mark.parametrize("rank", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_command_that_inherited_a_launchers_variables(rank: str, tmp_path: Path) -> None:
    torch.jit.script(Means()).save(tmp_path / "means.pt")
    folders = write_folder(tmp_path / "a", REAL), write_folder(tmp_path / "b", REAL[:20])
    ((code, _, told),) = values(run(inherited, 1, folders, rank, ["--timeout", "1"]))
    assert code == 6
    assert f"RANK={rank} and WORLD_SIZE=2 in the environment make this one of 2 processes" in told
    assert "if it was to run alone, unset them, or pass --alone" in told
    assert f"for rank {1 - int(rank)}" in told
    ((code, output, _),) = values(run(inherited, 1, folders, rank, ["--alone"]))
    assert code == 0
    assert "30" in output
    assert "20" in output


@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), 1e9, "soon"])
def test_a_time_that_is_none_is_refused(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"timeout: .*; accepted: a positive number of seconds"):
        fastfid.fid(REAL, REAL, timeout=given, **SETTINGS)
    monkeypatch.setenv("FASTFID_TIMEOUT", str(given))
    with pytest.raises(ValueError, match=r"FASTFID_TIMEOUT: '.*'; accepted: a positive number of seconds"):
        fastfid.fid(REAL, REAL, **SETTINGS)
    assert seconds("timeout", 7, "FASTFID_TIMEOUT", 9.0) == 7.0  # the argument before the variable


def test_lines_come_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    said = listened(clock, Patience("facts", (0, 4), 300.0, 30.0, lambda: [2, 3], about=lambda rank: f" (r{rank})"))
    assert said == [(at, "rank 2 (r2), rank 3 (r3)") for at in (30, 60, 120, 240)]
    clock[0] = 0.0
    assert listened(clock, Patience("facts", (2, 4), 100.0, 30.0, lambda: [1, 3])) == []  # rank 0 waits and speaks
    clock[0] = 0.0
    assert listened(clock, Patience("facts", (2, 4), 50.0, 30.0, lambda: None, holder="x")) == [(30, "x")]
    clock[0] = 0.0
    many = listened(clock, Patience("facts", (0, 9), 50.0, 30.0, lambda: list(range(1, 9))))
    assert many == [(30, "rank 1, rank 2, rank 3, rank 4, rank 5 and 3 more")]


def test_at_the_end_of_a_wait_those_are_named_first_whose_signs_have_stopped() -> None:
    asked: list[int] = []

    def silent() -> list[int]:
        asked.append(1)
        return stopped

    cases: list[tuple[list[int] | None, list[int], int | None, str, bool]] = [
        ([], [3], 3, "rank 3", True),
        ([1, 2], [2], 2, "rank 2, rank 1", True),
        ([], [], None, "data on their way", True),
        ([1], [2], 1, "rank 1", False),
        (None, [2], None, "other ranks", False),
    ]
    for late, stopped, rank, want, asks in cases:  # noqa: B007  # silent gives them
        asked.clear()
        with pytest.raises(RankError) as caught:
            Patience("facts", (0, 4), 1e-9, 1.0, lambda late=late: late, silent=silent).tick()  # type: ignore[misc]
        assert f" for {want}; a longer wait" in str(caught.value)
        assert caught.value.rank == rank
        assert bool(asked) == asks


def test_a_rank_without_signs_is_told_from_one_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "BEAT_S", 0.3)
    store = dist.HashStore()
    ranks = [board.Board(store, rank, 3) for rank in range(3)]
    first = ranks[0]
    try:
        assert all(one.join() for one in ranks)
        assert first.all_here()
        for one in reversed(ranks):
            one.come_to(4, "facts")
            assert one.look()
        with monkeypatch.context() as patch:
            patch.setattr(board, "_QUIET", 1e9)
            assert (first.missing(4), first.about(2), first.about(7)) == ([], " (it came last to 'facts')", "")
        ranks[2].close()
        first.silent()  # the last beat may have come after the first look
        assert 2 in first.silent()
        assert 2 in first.missing(4)
        assert re.fullmatch(
            r" \(no sign of life for \d+ s: stopped, or dead; it came last to 'facts'\)", first.about(2)
        )
        for _ in range(100):
            assert first.look()
            if first.about(1) == " (still at work; it came last to 'facts')":
                break
            time.sleep(0.1)  # a machine under load
        else:
            pytest.fail(first.about(1))
        assert first.missing(5) == [2, 1]
    finally:
        for one in ranks:
            one.close()


def listened(clock: list[float], patience: Patience) -> list[tuple[int, str]]:
    """What is said, and when, until patience ends."""
    lines = []
    with listening() as said:
        for clock[0] in np.arange(0.0, patience.timeout_s, 1.0):
            patience.tick()
            if said.getvalue():
                lines.append((int(clock[0]), said.getvalue().split(" for ")[1].split("; it gives up")[0]))
                said.seek(said.truncate(0))
    clock[0] = patience.timeout_s
    with pytest.raises(RankError, match=rf"has waited {patience.timeout_s:.0f} s at 'facts'"):
        patience.tick()
    return lines


def test_stderr_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        patience = Patience("facts", (0, 2), 100.0, 1e-9, lambda: [1])
        patience.tick()
