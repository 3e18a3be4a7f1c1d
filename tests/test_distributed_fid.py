"""``fid``, ``stats``, ``Evaluator`` and the command line over several processes equal one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import child
import numpy as np
import pytest
import torch
from distributed_worker import run, values
from images import photos, write_folder
from tolerances import MERGED_ACROSS, check

import fastfid
from fastfid.distributed import joined

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the processes are made by a fork server"),
    pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning"),
]

REAL = photos(61, 20, 24)
MADE = (REAL[:47] // 2 + 40).astype(np.uint8)


class Means(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * self.scale


SETTINGS: dict[str, Any] = {"extractor": Means(), "device": "cpu", "batch_size": 8, "progress": False}


def facts(result: fastfid.FIDResult) -> tuple[Any, ...]:
    run = result.run
    return run.ref.n, run.gen.n, run.gen.skipped, run.gen.dropped, tuple(run.warnings)


def measure(ref: Any, gen: Any, *calls: dict[str, Any]) -> list[tuple[float, tuple[Any, ...]]]:
    """On every rank, one call after the other."""
    results = [fastfid.fid(ref, gen, distributed=True, **SETTINGS, **settings) for settings in calls]
    return [(result.value, facts(result)) for result in results]


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_fid_of_folders(ranks: int, tmp_path: Path) -> None:
    folders = write_folder(tmp_path / "a", REAL), write_folder(tmp_path / "b", MADE)
    calls: list[dict[str, Any]] = [
        {},
        {"limit": 9},
        {"protocol": "ttur"},
        {"protocol": "stylegan3", "limit": 30},
    ]
    by_rank = values(run(measure, ranks, *folders, *calls))
    assert by_rank[1:] == by_rank[:1] * (ranks - 1)  # every rank has the same
    for settings, (value, said) in zip(calls, by_rank[0], strict=True):
        want = fastfid.fid(*folders, **SETTINGS, **settings)
        assert said == facts(want), settings
        check(value, want.value, relative=1e-11)


def test_bad_images_and_streams(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", REAL)
    for index in (0, 40, 60):
        (folder / f"{index:03d}.png").write_bytes(b"no image")
    want = fastfid.fid(folder, list(MADE), skip_bad=True, **SETTINGS)
    ((value, said),), *others = values(run(measure, 3, folder, list(MADE), {"skip_bad": True}))
    assert said == facts(want)
    assert others == [[(value, said)]] * 2
    check(value, want.value, relative=1e-11)
    failed = run(measure, 2, folder, list(MADE), {})
    assert all(one.code != 0 for one in failed)
    assert {one.error for one in failed} <= {"BadImageError", "RankError"}
    assert all("cannot read image" in one.text for one in failed)


def write_stats(images: Any, output: Path) -> int | None:
    return fastfid.stats(images, output, distributed=True, **SETTINGS).n


def test_stats_are_written_once(tmp_path: Path) -> None:
    assert values(run(write_stats, 3, REAL, tmp_path / "real.npz")) == [61, 61, 61]
    want = fastfid.stats(REAL, **SETTINGS)
    got = fastfid.Moments.load(tmp_path / "real.npz")
    check(got.cov(), want.cov(), relative=MERGED_ACROSS)
    assert "shards" not in got.metadata
    refused = run(write_stats, 2, REAL, tmp_path / "nowhere" / "real.npz")
    assert {one.error for one in refused} == {"OutputError", "RankError"}


def evaluate(shares: list[Any]) -> list[float]:
    """An Evaluator on each rank, its own images in, two rounds."""
    evaluator = fastfid.Evaluator(REAL, distributed=True, **SETTINGS)
    with joined() as world:
        index = world.index
    found = []
    for scale in (1, 2):
        evaluator.reset()
        if len(shares[index]):
            evaluator.update(shares[index] // scale)
        found.append(evaluator.compute().value)
    return found


def test_evaluator() -> None:
    """One rank has nothing to add in either round."""
    got = values(run(evaluate, 3, [MADE[:30], MADE[:0], MADE[30:]]))
    assert got[0] == got[1] == got[2]
    want = [fastfid.fid(REAL, MADE // scale, **SETTINGS).value for scale in (1, 2)]
    check(got[0], want, relative=1e-11)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no torch\.distributed process group, and RANK"):
        fastfid.fid(REAL, MADE, distributed=True, **SETTINGS)


def torchrun(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fastfid"]
    return subprocess.run(
        [*command, *map(str, words)],
        cwd=tmp_path, env=child.environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, check=False,
        timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path: Path) -> None:
    torch.jit.script(Means()).save(tmp_path / "means.pt")
    folders = write_folder(tmp_path / "a", REAL), write_folder(tmp_path / "b", MADE)
    common = ["--extractor", tmp_path / "means.pt", "--device", "cpu", "--quiet"]
    done = torchrun(tmp_path, "compare", *folders, *common, "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # printed once
    want = fastfid.fid(*folders, extractor=tmp_path / "means.pt", device="cpu")
    check(report["results"]["fid"]["value"], want.value, relative=1e-11)
    assert tuple(report["sets"][role]["n"] for role in ("ref", "gen")) == (61, 47)
    (folders[1] / "020.png").write_bytes(b"no image")
    done = torchrun(tmp_path, "compare", *folders, *common)
    assert done.returncode != 0
    assert "fastfid: cannot read image '020.png'" in done.stderr
    assert done.stdout == ""


def report_of(metrics: Any, *pairs: Any) -> list[dict[str, float]]:
    """On every rank, metrics of pairs of sets, and of what an Evaluator took on each rank."""
    found = [fastfid.evaluate(*pair, metrics, distributed=True, **SETTINGS).flat() for pair in pairs]
    evaluator = fastfid.Evaluator(REAL, metrics, distributed=True, **SETTINGS)
    with joined() as world:
        index = world.index
    evaluator.update(MADE[:20] if index == 0 else MADE[20:40] if index == 1 else MADE[40:])
    return [*found, evaluator.compute().flat()]


def test_metrics_on_rows_are_those_of_one_process(tmp_path: Path) -> None:
    """Rows come to rank 0 in the order of one process: runs of a folder, turns of a stream. KID draws by that order."""
    metrics = {"fid": {}, "kid": {"subsets": 4, "subset_size": 20}}
    folders = write_folder(tmp_path / "a", REAL), write_folder(tmp_path / "b", MADE)
    pairs = [folders, (list(REAL), list(MADE))]
    by_rank = values(run(report_of, 3, metrics, *pairs))
    assert by_rank[0] == by_rank[1] == by_rank[2]
    want = fastfid.evaluate(*folders, metrics, **SETTINGS).flat()
    for got in by_rank[0]:
        assert got.keys() == want.keys()
        for name, value in got.items():
            check(value, want[name], relative=1e-6 if name.startswith("kid") else 1e-11, what=name)
