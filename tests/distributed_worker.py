"""Several processes for the tests of fastfid.distributed: what each of them does, and what came of it.

They are forked from a server that has loaded torch, this package and pytest once, and meet as under torchrun: the same
variables, and a store that the parent holds. Run as a script, this file is one rank of a real torchrun.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import child
import numpy as np
import torch
from torch import distributed as dist

import fastfid
from fastfid.distributed import World, board, first_on_node, joined, merge_across
from fastfid.distributed import merge as merge_room
from fastfid.distributed import world as world_room
from fastfid.errors import FastFIDError

LIMIT_S = 60.0
BEAT_S = 0.4
"""The sign of life where a rank dies or is silent: two missed beats are waited for, and that is all they are for."""


@dataclass(frozen=True)
class Outcome:
    """How one rank ended: its exit code and what it returned, or the error that came out of it."""

    code: int | None
    value: Any = None
    error: str = ""
    text: str = ""


def run(case: Callable[..., Any], size: int, *arguments: Any) -> list[Outcome]:
    """``case(*arguments)`` in ``size`` processes; AssertionError if one hangs."""
    return run_and_signal(case, size, *arguments)


def run_and_signal(
    case: Callable[..., Any],
    size: int,
    *arguments: Any,
    whose: int | None = None,
    after_s: float = 0.0,
    number: int = signal.SIGKILL,
) -> list[Outcome]:
    """The same, and rank ``whose`` gets signal ``number`` after so many seconds, wherever it is then.

    A rank that was killed has code ``-number`` and neither value nor error. One that was stopped (SIGSTOP) is continued
    when all others have ended. A rank that has not ended after LIMIT_S is killed, which is an AssertionError.
    """
    context = child.processes()
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    processes, pipes = [], []
    for rank in range(size):
        pipe, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(theirs, rank, size, store.port, case, arguments))
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(pipe)
    end = time.monotonic() + LIMIT_S
    order = list(range(size))
    if whose is not None:
        processes[whose].join(after_s)
        if processes[whose].exitcode is None:
            os.kill(processes[whose].pid, number)
        order.remove(whose)
    found = {rank: _outcome(processes[rank], pipes[rank], end) for rank in order}
    if whose is not None:
        if processes[whose].exitcode is None:
            os.kill(processes[whose].pid, signal.SIGCONT)
        found[whose] = _outcome(processes[whose], pipes[whose], end)
    outcomes = [found[rank] for rank in range(size)]
    assert all(outcome.code is not None for outcome in outcomes), f"hangs: {outcomes}"
    return outcomes


def stop_for(seconds: float) -> None:
    """Stop this process, all threads of it, as SIGSTOP does, for so long."""
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def values(outcomes: list[Outcome]) -> list[Any]:
    """What every rank returned, if all ended well."""
    assert all(outcome.code == 0 for outcome in outcomes), "\n".join(outcome.text for outcome in outcomes)
    return [outcome.value for outcome in outcomes]


def _outcome(process: Any, pipe: Any, end: float) -> Outcome:
    said: dict[str, Any] = {}
    if pipe.poll(max(end - time.monotonic(), 0)):
        with suppress(EOFError):  # died without a word
            said = pipe.recv()
    process.join(max(end - time.monotonic(), 0))
    code = process.exitcode
    if code is None:
        process.kill()
    return Outcome(code, **said)


def _rank(pipe: Any, rank: int, size: int, port: int, case: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, TORCHELASTIC_USE_AGENT_STORE="True")
    try:
        pipe.send({"value": case(*arguments)})
    except BaseException as error:
        pipe.send({"error": type(error).__name__, "text": f"{error}\n{traceback.format_exc()}"})
        sys.exit(1)


# ── what ranks do ─────────────────────────────────────────────────────────────────────────────────────────────────────


def state(moments: fastfid.Moments) -> dict[str, Any]:
    """Everything that a Moments holds, as it travels to the parent."""
    filled = moments.n != 0
    return {
        "n": moments.n,
        "dim": moments.dim,
        "mean": moments.mean.numpy() if filled else None,
        "scatter": moments.scatter.numpy() if moments.dim else None,
        "rows": None if moments.rows is None else moments.rows.numpy(),
        "from_samples": moments.from_samples,
        "metadata": moments.metadata,
    }


def of_shares(shares: list[Any], keep_rows: bool = True) -> list[fastfid.Moments]:
    """One Moments per share: of an array [n, d], or empty (and without dim) where it is None."""
    made = []
    for rank, share in enumerate(shares):
        moments = fastfid.Moments(keep_rows=keep_rows, metadata={"source": f"share {rank}", "n": 0, "skipped": []})
        if share is not None:
            moments.update(share)
        moments.metadata["n"] = moments.n
        made.append(moments)
    return made


def merge(cases: list[list[Any]], keep_rows: bool = True) -> list[dict[str, Any]]:
    """Merge the shares of several sets, one after the other in one world."""
    with joined() as world:
        return [state(merge_across(of_shares(shares, keep_rows)[world.index], world)) for shares in cases]


def merge_in_two_worlds(shares: list[Any]) -> list[dict[str, Any]]:
    """The same set merged in two worlds, joined one after the other."""
    return merge([shares]) + merge([shares])


def merge_late(shares: list[Any], slow: int) -> dict[str, Any]:
    """One rank comes late."""
    with joined() as world:
        if world.index == slow:
            time.sleep(0.3)
        return state(merge_across(of_shares(shares)[world.index], world))


def merge_statistics(whose: int) -> dict[str, Any]:
    """One rank has statistics of unknown count."""
    with joined() as world:
        moments = fastfid.Moments.from_features(np.eye(4))
        if world.index == whose:
            moments = fastfid.Moments.from_statistics(np.zeros(4), np.eye(4))
        return state(merge_across(moments, world))


def merge_metadata(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Ranks whose metadata say different things."""
    with joined() as world:
        moments = fastfid.Moments(metadata=facts[world.index])
        moments.update(np.eye(4))
        return merge_across(moments, world).metadata


def in_a_group_of_the_callers(shares: list[Any], fails: int | None) -> tuple[Any, ...]:
    """Two evaluations inside a process group that is used before and after."""
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    backend = dist.get_backend()
    results = []
    for _ in range(2):
        try:
            with joined() as world:
                if world.index == fails:
                    raise ValueError("a bad set")
                results.append(state(merge_across(of_shares(shares)[world.index], world)))
        except (ValueError, FastFIDError) as error:
            results.append(f"{type(error).__name__}: {error}")
    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    untouched = dist.is_initialized() and dist.group.WORLD is group and dist.get_backend() == backend
    dist.destroy_process_group()
    return untouched, total.item(), results


def fail(whose: int, where: str) -> int:
    """One rank raises at some point, inside a world that has exchanges before and after it."""
    with joined() as world:
        bad = world.index == whose
        world.gather("begin", None)
        if bad and where == "work":
            raise ValueError("image 7 is broken")
        features = np.ones((5, 3))
        if bad and where == "nan":
            features[2, 1] = np.nan
        if bad and where == "pickle":
            world.gather("facts", lambda: None)
        moments = fastfid.Moments.from_features(features)
        if where == "pickle":
            world.gather("facts", 0)
        merge_across(moments, world)
        if bad and where == "end":
            raise OSError("disk full")
    return 0


def fail_in_long_work(whose: int, long_s: float) -> tuple[float, str]:
    """One rank raises at once, the others have much to do and look up between batches; seconds until they stop, why."""
    begin, said = time.monotonic(), ""
    try:
        with joined() as world:
            if world.index == whose:
                raise ValueError("image 7 is broken")
            while time.monotonic() - begin < long_s:
                time.sleep(0.02)
                world.check()
    except (ValueError, FastFIDError) as error:
        said = str(error)
    return time.monotonic() - begin, said


def die(whose: int, where: str, callers: bool) -> int:
    """One rank is gone without a word, in a group of our own or beside the caller's."""
    board.BEAT_S = BEAT_S
    if callers:
        dist.init_process_group("gloo")
    with joined(timeout_s=30) as world:
        dead = world.index == whose
        if dead and where == "work":
            os._exit(9)
        if dead and where == "exchange":
            merge_room._sum_of_all = lambda *_: os._exit(9)  # its share is announced, its scatter never comes
        moments = fastfid.Moments.from_features(np.random.default_rng(world.index).standard_normal((50, 20)))
        merge_across(moments, world)
    return 0


def die_connecting(whose: int, timeout_s: float) -> int:
    """One rank is gone between signing in and its connections."""
    board.BEAT_S = BEAT_S
    if int(os.environ["RANK"]) == whose:
        world_room._connect = lambda *_: os._exit(9)
    with joined(timeout_s=timeout_s):
        return 0


def sleep(whose: int, timeout_s: float) -> int:
    """One rank neither answers nor dies in time."""
    board.BEAT_S = BEAT_S
    with joined(timeout_s=timeout_s) as world:
        if world.index == whose:
            time.sleep(timeout_s + 4 * BEAT_S)
        world.gather("facts", None)
    return 0


def stopped(whose: int, timeout_s: float) -> int:
    """One rank is stopped, and goes on when the others have given up."""
    with joined(timeout_s=timeout_s) as world:
        world.gather("begin", None)
        if world.index == whose:
            stop_for(timeout_s * 3)
        world.gather("facts", None)
    return 0


def stopped_inside(whose: int, timeout_s: float) -> int:
    """One rank is stopped after it has said that it has come to an exchange."""
    board.BEAT_S = 0.3
    with joined(timeout_s=timeout_s) as world:
        world.gather("begin", None)
        signs = world._board
        if world.index == whose and signs is not None:
            come_to = signs.come_to

            def come_and_stop(step: int, what: str) -> None:
                signs.come_to = come_to  # type: ignore[method-assign]
                come_to(step, what)
                signs.look()  # what was asked before is written
                stop_for(timeout_s + 2)

            signs.come_to = come_and_stop  # type: ignore[method-assign]
        world.gather("facts", None)
    return 0


def missing(whose: int, timeout_s: float) -> int:
    """One rank never joins."""
    board.BEAT_S = BEAT_S
    if int(os.environ["RANK"]) == whose:
        return 0
    with joined(timeout_s=timeout_s):
        return 0


def out_of_step() -> int:
    """Ranks come to different exchanges."""
    with joined() as world:
        world.gather("mean" if world.index else "count", 0)
    return 0


def facts_of_world() -> dict[str, Any]:
    """The small exchanges."""
    with joined() as world:
        calls: list[int] = []
        world.same("protocol", {"name": "adm", "size": 299})
        distance = world.once("distance", lambda: _note(calls, 12.5))
        pieces = world.gather("skipped", [f"{world.index}.png"] * world.index)
        place = (world.index, world.size, world.local_index)
    return {"place": place, "distance": distance, "calls": calls, "pieces": pieces, "left": dist.is_initialized()}


def differ() -> int:
    """Ranks that were given different settings."""
    with joined() as world:
        world.same("limit", 100 + world.index)
    return 0


def fetch_weights(folder: str, fails: bool) -> str:
    """Every rank uses a file that the first one of the machine has to make."""
    with joined() as world:
        path = os.path.join(folder, "weights")  # noqa: PTH118
        with first_on_node(world, "weights"):
            if not os.path.exists(path):  # noqa: PTH110
                if fails:
                    raise OSError("no network")
                time.sleep(0.2)
                with open(path, "a") as file:  # noqa: PTH123
                    file.write(f"made by {world.local_index}\n")
        with open(path) as file:  # noqa: PTH123
            return file.read()


def _note(calls: list[int], value: float) -> float:
    calls.append(1)
    return value


def _under_torchrun(fails: str) -> int:
    """The script form: one rank of a real torchrun; rank 0 prints."""
    features = np.random.default_rng(5).standard_normal((101, 8))
    try:
        with joined() as world:
            _print_merged(world, features, fails)
    except (ValueError, FastFIDError) as error:
        sys.stderr.write(f"{type(error).__name__} on rank {os.environ['RANK']}: {error}\n")
        return 3
    return 0


def _print_merged(world: World, features: np.ndarray, fails: str) -> None:
    if str(world.index) == fails:
        raise ValueError("image 7 is broken")
    share = features[len(features) * world.index // world.size : len(features) * (world.index + 1) // world.size]
    merged = merge_across(fastfid.Moments.from_features(share), world)
    if world.index == 0:
        sys.stdout.write(f"{merged.n} {float(merged.scatter.trace())!r}\n")


if __name__ == "__main__":
    sys.exit(_under_torchrun(sys.argv[1]))
