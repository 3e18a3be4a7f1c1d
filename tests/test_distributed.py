"""Many processes with gloo on the CPU: the merge against one process, failing together, a caller's own group."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import child
import distributed_worker as worker
import numpy as np
import pytest
import tolerances as tol
import torch
from distributed_worker import run, values

import fastfid
from fastfid.distributed import World, joined, local_device, merge_across, together, under_launcher
from fastfid.errors import BackendUnavailableError, RankError
from fastfid.reference.moments import two_pass

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are made by a fork server")
Rng = np.random.Generator
D = 12
SIZES = [1, 2, 4, 7, 12, 13, 14, 29, 501]
"""Totals: fewer than ranks, one below, at and above d, and larger; few of them divide by 2, 3 or 5."""


def features(rng: Rng, n: int, d: int = D, mean: float = 3.0) -> np.ndarray:
    return (rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + mean).astype(np.float32)


def shares(x: np.ndarray, ranks: int) -> list[np.ndarray | None]:
    """Contiguous pieces as the sources cut them; a rank without images has never seen d."""
    pieces = [x[len(x) * i // ranks : len(x) * (i + 1) // ranks] for i in range(ranks)]
    return [piece if len(piece) else None for piece in pieces]


def check_against_one_process(got: dict[str, Any], x: np.ndarray) -> None:
    n, mean, scatter = two_pass(x)
    assert (got["n"], got["dim"], got["from_samples"]) == (n, x.shape[1], True)
    tol.check(got["mean"], mean, relative=tol.MERGED_ACROSS)
    tol.check(got["scatter"], scatter, relative=tol.MERGED_ACROSS, absolute=tol.MERGED_ACROSS)
    assert np.array_equal(got["scatter"], got["scatter"].T)
    one = fastfid.Moments.from_features(x)
    if n <= x.shape[1]:
        assert np.array_equal(got["rows"], x.astype(np.float64))
        assert np.array_equal(got["mean"], one.mean.numpy())
    else:
        assert got["rows"] is None


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in ("mean", "scatter")) and a["metadata"] == b["metadata"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_moments_equal_those_of_one_process(rng: Rng, ranks: int) -> None:
    sets = [features(rng, n) for n in SIZES]
    by_rank = values(run(worker.merge, ranks, [shares(x, ranks) for x in sets]))
    for number, x in enumerate(sets):
        check_against_one_process(by_rank[0][number], x)
        assert all(same_bits(by_rank[0][number], other[number]) for other in by_rank[1:])


def test_uneven_shares_and_ranks_with_nothing(rng: Rng) -> None:
    x = features(rng, 300)
    few = features(rng, 9)
    cases = [
        ([x, None, None], x),
        ([None, None, x], x),
        ([x[:1], None, x[1:]], x),
        ([x[:5], x[5:290], x[290:]], x),
        ([None, few, None], few),
        ([few[:0], few[:8], few[8:]], few),
    ]
    by_rank = values(run(worker.merge, 3, [given for given, _ in cases]))
    for results in by_rank:
        for got, (_, whole) in zip(results, cases, strict=True):
            check_against_one_process(got, whole)


def test_nothing_anywhere_is_empty() -> None:
    for (got,) in values(run(worker.merge, 2, [[None, None]])):
        assert (got["n"], got["dim"], got["metadata"]["source"]) == (0, None, ["share 0", "share 1"])


def test_far_from_zero(rng: Rng) -> None:
    # mean/std = 500, and ranks whose means differ by much more than their spread
    x = np.concatenate([rng.standard_normal((400, D)) + 500, rng.standard_normal((333, D)) + 450])
    for (got,) in values(run(worker.merge, 2, [[x[:400], x[400:]]])):
        check_against_one_process(got, x)


def test_without_rows_the_scatter_is_exchanged(rng: Rng) -> None:
    x = features(rng, 10)
    for (got,) in values(run(worker.merge, 2, [shares(x, 2)], False)):
        assert got["rows"] is None
        tol.check(got["scatter"], two_pass(x)[2], relative=tol.MERGED_ACROSS)


def test_the_same_bits_at_every_run_whoever_comes_late(rng: Rng) -> None:
    x = features(rng, 500)
    (first, second), *others = values(run(worker.merge_in_two_worlds, 3, shares(x, 3)))
    assert same_bits(first, second)
    assert all(same_bits(first, one) for pair in others for one in pair)
    for slow in (0, 2):
        assert all(same_bits(first, one) for one in values(run(worker.merge_late, 3, shares(x, 3), slow)))


def test_metadata_of_all_ranks() -> None:
    facts = [
        {"fingerprint": "a", "source": "x", "skipped": ["1.png"], "n": 4, "seed": 3},
        {"fingerprint": "a", "source": "y", "skipped": [], "n": 4, "seed": 3},
    ]
    want = {"fingerprint": "a", "source": ["x", "y"], "skipped": ["1.png"], "n": 8, "seed": 3}
    assert values(run(worker.merge_metadata, 2, facts)) == [want, want]


@pytest.mark.parametrize(
    ("case", "arguments", "errors", "text"),
    [
        (
            worker.merge,
            ([[np.ones((3, 4)), np.ones((3, 5))]],),
            ["ValueError"] * 2,
            "rank 0 has 4 features, rank 1 has 5",
        ),
        (
            worker.merge_metadata,
            ([{"fingerprint": "a"}, {"fingerprint": "b"}],),
            ["IncomparableError"] * 2,
            "fingerprint",
        ),
        (worker.merge_statistics, (1,), ["RankError", "ValueError"], "without their number of samples"),
        (worker.fail, (1, "nan"), ["RankError", "ValueError"], "sample 2) has NaN"),
        (worker.fail, (0, "work"), ["ValueError", "RankError"], "image 7 is broken"),
        (worker.fail, (1, "pickle"), ["RankError", "AttributeError|PicklingError"], "pickle"),
        (worker.fail, (1, "end"), ["RankError", "OSError"], "disk full"),
        (worker.out_of_step, (), ["RankError"] * 2, "rank 0 has come to 'count', rank 1 to 'mean'"),
        (worker.differ, (), ["ValueError"] * 2, "limit: rank 0 has 100, rank 1 has 101"),
    ],
    ids=["dims", "protocols", "unknown n", "nan", "work", "pickle", "end", "step", "settings"],
)
def test_all_fail_together(case: Any, arguments: tuple[Any, ...], errors: list[str], text: str) -> None:
    outcomes = run(case, 2, *arguments)
    for outcome, error in zip(outcomes, errors, strict=True):
        assert outcome.code == 1
        assert outcome.error in error.split("|"), outcome.text
        assert text in outcome.text
        if error == "RankError" and "RankError" not in errors[0 if outcome is outcomes[1] else 1]:
            assert outcome.text.startswith(f"rank {1 - outcomes.index(outcome)} failed: ")


def test_the_others_stop_soon_when_one_fails() -> None:
    outcomes = values(run(worker.fail_in_long_work, 3, 1, 30.0))
    assert max(seconds for seconds, _ in outcomes) < 10
    other = "rank 1 failed: ValueError: image 7 is broken"
    assert [said for _, said in outcomes] == [other, "image 7 is broken", other]


@pytest.mark.parametrize(
    ("whose", "callers", "where"),
    [
        (0, False, "exchange"),
        (2, True, "work"),
        *(pytest.param(*one, marks=pytest.mark.slow)
          for one in ((0, False, "work"), (1, False, "work"), (1, False, "exchange"), (2, True, "exchange"))),
    ],
)  # fmt: skip
def test_a_rank_that_dies_ends_all(whose: int, callers: bool, where: str) -> None:
    outcomes = run(worker.die, 3, whose, where, callers)
    assert outcomes[whose].code == 9
    for rank, outcome in enumerate(outcomes):
        if rank != whose:
            assert (outcome.code, outcome.error) == (1, "RankError"), outcome.text
            assert re.search(rf" lost (rank \d, )?rank {whose}\b.*, which died", outcome.text), outcome.text


@pytest.mark.parametrize("case", [worker.sleep, pytest.param(worker.stopped, marks=pytest.mark.slow), worker.missing])
def test_a_rank_that_does_not_answer_ends_all(case: Any) -> None:
    outcomes = run(case, 2, 1, 1.0)
    assert (outcomes[0].code, outcomes[0].error) == (1, "RankError"), outcomes[0].text
    assert outcomes[0].text.startswith("rank 1 failed: did not answer in time: rank 0 of 2 has waited 1 s at ")


def test_a_rank_that_is_stopped_in_an_exchange_is_named() -> None:
    """All have come to it, so that only the sign of life tells which of them it waits for."""
    outcomes = run(worker.stopped_inside, 3, 1, 1.5)
    assert [outcome.error for outcome in outcomes] == ["RankError"] * 3
    told = [outcomes[rank].text for rank in (0, 2)]
    assert any("did not answer in time" in one for one in told), told
    for one in told:  # that it waits in vain, or that the other does
        assert re.search(r" at 'facts' for .*rank 1 \(no sign of life for .* came last to 'facts'", one), told


def test_a_rank_that_dies_while_it_connects_ends_all() -> None:
    outcomes = run(worker.die_connecting, 3, 1, 3.0)
    assert [outcome.code for outcome in outcomes] == [1, 9, 1]
    for outcome in (outcomes[0], outcomes[2]):
        assert outcome.error == "RankError"
        assert "rank 1" in outcome.text


def test_inside_a_group_of_the_callers(rng: Rng) -> None:
    x = features(rng, 100)
    for untouched, total, results in values(run(worker.in_a_group_of_the_callers, 2, shares(x, 2), None)):
        assert (untouched, total) == (True, 3.0)
        for got in results:
            check_against_one_process(got, x)


def test_a_failure_leaves_the_callers_group_usable(rng: Rng) -> None:
    outcomes = values(run(worker.in_a_group_of_the_callers, 2, shares(features(rng, 100), 2), 1))
    assert all((untouched, total) == (True, 3.0) for untouched, total, _ in outcomes)
    assert outcomes[0][2] == ["RankError: rank 1 failed: ValueError: a bad set"] * 2
    assert outcomes[1][2] == ["ValueError: a bad set"] * 2


def test_small_exchanges() -> None:
    for rank, got in enumerate(values(run(worker.facts_of_world, 3))):
        assert got["place"] == (rank, 3, rank)
        assert (got["distance"], got["calls"]) == (12.5, [1] if rank == 0 else [])
        assert got["pieces"] == [[], ["1.png"], ["2.png", "2.png"]]
        assert not got["left"]


def test_one_rank_of_a_machine_makes_what_the_others_find(tmp_path: Path) -> None:
    assert values(run(worker.fetch_weights, 3, str(tmp_path), False)) == ["made by 0\n"] * 3


def test_the_others_learn_that_it_could_not_be_made(tmp_path: Path) -> None:
    outcomes = run(worker.fetch_weights, 3, str(tmp_path), True)
    assert [outcome.error for outcome in outcomes] == ["OSError", "RankError", "RankError"]
    assert all("no network" in outcome.text for outcome in outcomes)


def test_a_world_of_one_is_free_of_torch_distributed(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "init_process_group", None)
    moments = fastfid.Moments.from_features(features(rng, 20))
    with joined(False) as world, together(world):
        world.check()
        assert world == World()
        assert (world.gather("x", 4), world.once("y", lambda: 5)) == ([4], 5)
        assert merge_across(moments, world) is moments
    with pytest.raises(OSError, match="own error"), joined(False) as world, together(world):
        raise OSError("own error")


def test_joining_without_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert not under_launcher()
    with pytest.raises(ValueError, match=r"no torch\.distributed process group, and RANK, WORLD_SIZE"), joined():
        pass
    with pytest.raises(ValueError, match=r"timeout: 0; accepted"), joined(timeout_s=0):
        pass
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    assert under_launcher()
    with pytest.raises(ValueError, match="RANK='2', WORLD_SIZE='2'"), joined():
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not under_launcher()
    monkeypatch.setenv("RANK", "0")
    with joined() as world:
        assert world == World()


def test_a_device_for_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (local_device("auto"), local_device(torch.device("cuda"))) == ("cuda:1", "cuda:1")
    assert (local_device("cpu"), local_device("cuda:0")) == ("cpu", "cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendUnavailableError, match=r"process 1 of this machine \(LOCAL_RANK\) finds 1 GPUs"):
        local_device("cuda")
    monkeypatch.delenv("LOCAL_RANK")
    assert local_device("auto") == "auto"


def test_rank_errors_pickle() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(RankError(3, "ValueError: x")))
    assert (str(error), error.rank, error.reason) == ("rank 3 failed: ValueError: x", 3, "ValueError: x")


def torchrun(ranks: int, fails: str) -> subprocess.CompletedProcess[str]:
    script = str(Path(worker.__file__))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        script,
        fails,
    ]
    environment = child.environment(OMP_NUM_THREADS="1")
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


def test_under_torchrun() -> None:
    done = torchrun(2, "none")
    assert done.returncode == 0, done.stderr
    n, trace = done.stdout.split()
    _, _, scatter = two_pass(np.random.default_rng(5).standard_normal((101, 8)))
    assert n == "101"
    tol.check(float(trace), scatter.trace(), relative=tol.MERGED_ACROSS)


@pytest.mark.slow
def test_a_failure_under_torchrun() -> None:
    done = torchrun(3, "1")
    assert done.returncode != 0
    assert "ValueError on rank 1: image 7 is broken" in done.stderr
    assert done.stdout == ""
