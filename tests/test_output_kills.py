"""Runs killed at any moment leave a whole result or none, and what the next one needs to give the same bits.

A few kills of each kind; ``tests/campaign`` kills hundreds.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import child
import pytest
import torch
from images import photos, write_folder
from output_runs import killed, result

KINDS = [
    ("stats", "checkpoint"),
    ("fid", "cache"),
    pytest.param("stats", "cache", marks=pytest.mark.slow),
    pytest.param("fid", "checkpoint", marks=pytest.mark.slow),
]


class Means(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)


def strangers(folder: Path) -> list[str]:
    """Files that are neither a result, nor an entry of the cache, nor what it knows of the sets' files."""
    kept = (folder / "kept").rglob("*")
    return [file.name for file in kept if file.is_file() and file.suffix not in (".npz", ".json", ".safetensors")]


def kill_loop(folder: Path, kind: str, keep: str, kills: int) -> None:
    """Kill ``kills`` runs at moments drawn by a fixed seed; some of the runs in between are let go on to their end."""
    write_folder(folder / "ref", photos(40, 8, 8))
    write_folder(folder / "gen", photos(40, 8, 8)[::-1] // 2)
    torch.jit.script(Means()).save(folder / "net.pt")
    (folder / "kept").mkdir()
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        context, draw = child.processes(), random.Random(f"{kind} {keep}")
        begun = context.Event()
        process = context.Process(target=killed, args=(kind, keep, str(folder), begun))
        process.start()
        assert begun.wait(120)
        since = time.perf_counter()
        process.join(120)
        length = time.perf_counter() - since
        want = result(folder)
        assert want is not None
        assert strangers(folder) == []
        counted = finished = 0
        while counted < kills:
            if finished or not counted:
                shutil.rmtree(folder / "kept")
                (folder / "kept").mkdir()
                finished = 0
            started = context.Event()
            process = context.Process(target=killed, args=(kind, keep, str(folder), started))
            process.start()
            assert started.wait(120)
            time.sleep(draw.random() * length)
            process.kill()
            process.join(120)
            finished = process.exitcode == 0
            counted += process.exitcode == -9
            assert result(folder) in (None, want)  # never half a file, never another number
            if finished or not draw.randrange(4):
                process = context.Process(target=killed, args=(kind, keep, str(folder), None))
                process.start()
                process.join(120)
                assert process.exitcode == 0
                assert result(folder) == want
                assert strangers(folder) == []
                finished = 1
        run_again(folder, kind, keep, want)
    finally:
        os.chdir(before)


def run_again(folder: Path, kind: str, keep: str, want: bytes) -> None:
    """The same command once more, after all that."""
    process = child.processes().Process(target=killed, args=(kind, keep, str(folder), None))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert result(folder) == want
    assert strangers(folder) == []


@pytest.mark.parametrize(("kind", "keep"), KINDS)
def test_kills(kind: str, keep: str, tmp_path: Path) -> None:
    kill_loop(tmp_path, kind, keep, 5)
