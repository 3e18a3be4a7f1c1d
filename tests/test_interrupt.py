"""Ctrl-C at the first press, wherever the program is: exit code 130, one word, nothing half-written, nobody left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from images import photos, write_folder

COMMON = """
    import os, signal, sys, time
    from fastfid import cli, sources
    from fastfid.extractors import weights
    from fastfid.sources import decode, folder, loader, npz, workers

    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored below a shell's "&"
    PRESSED, hangs = "pressed", 600

    def stuck(*_args, **_settings):
        "Ctrl-C to the whole group, once; then a call that does not come back."
        if not os.path.exists(PRESSED):
            open(PRESSED, "w").close()
            os.killpg(0, signal.SIGINT)
        time.sleep(hangs)

    loader._PATIENCE_S = workers._GRACE_S = 0.2
"""
PHASES = {
    "decoding thread": ("folder.decode_image = stuck", ["set", "--extractor", "mean.pt"]),
    "decoding processes": ("folder.decode_image = stuck", ["set", "--extractor", "mean.pt", "--num-workers", "2"]),
    "archive": ("npz._fill = stuck", ["set.npz", "--extractor", "mean.pt"]),
    "download": ("weights.urllib.request.urlopen = stuck", ["set"]),
    "hashing": ("from fastfid.passes.store import content; content._file_digest = stuck; hangs = 0.1",
                ["set", "--extractor", "mean.pt", "--cache", "cache"]),
}  # fmt: skip


class Mean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class Ended(NamedTuple):
    """How a command ended: its exit code, what it said on stdout and stderr, its files, and whether anybody is left."""

    code: int
    out: str
    said: str
    files: set[str]
    alive: bool


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The commands of the phases that are asked for, two at a time: most of their time is the start of a Python."""
    asked = [item.callspec.params["phase"] for item in request.session.items if item.path == request.path]
    folders = {phase: tmp_path_factory.mktemp("phase") for phase in asked}
    for folder in folders.values():
        write_folder(folder / "set", photos(8))
        np.savez(folder / "set.npz", photos(8))
        torch.jit.save(torch.jit.script(Mean()), folder / "mean.pt")
    with ThreadPoolExecutor(2) as pool:
        yield {phase: pool.submit(interrupted, phase, folder) for phase, folder in folders.items()}


def interrupted(phase: str, folder: Path) -> Ended:
    patch, words = PHASES[phase]
    command = ["stats", *words, "-o", "out.npz", "--quiet"]
    script = textwrap.dedent(COMMON) + f"{patch}\ncli.main({command!r})\n"
    machine = {**os.environ, "TORCH_HOME": "hub", "FASTFID_WEIGHTS": "", "FASTFID_OFFLINE": "", "FASTFID_DEBUG": ""}
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=folder,
        env=machine,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, said = child.communicate(timeout=120)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    for _ in range(50):
        if not group_is_alive(child.pid):
            break
        time.sleep(0.1)
    return Ended(child.returncode, out, said, files, group_is_alive(child.pid))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "phase", [pytest.param(name, marks=[pytest.mark.slow] if name in ("archive", "hashing") else []) for name in PHASES]
)
def test_ctrl_c(phase: str, ended: dict[str, Any]) -> None:
    done = ended[phase].result()
    assert (done.code, done.said.strip(), done.out) == (130, "interrupted", ""), done
    assert done.files == {"mean.pt", "set.npz", "pressed", *(f"{index:03d}.png" for index in range(8))}
    assert not done.alive


def group_is_alive(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
