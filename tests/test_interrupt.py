"""Ctrl-C at the first press, wherever the program is: exit code 130, one word, nothing half-written, nobody left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "phase", [pytest.param(name, marks=[pytest.mark.slow] if name in ("archive", "hashing") else []) for name in PHASES]
)
def test_ctrl_c(tmp_path: Path, phase: str) -> None:
    write_folder(tmp_path / "set", photos(8))
    np.savez(tmp_path / "set.npz", photos(8))
    torch.jit.save(torch.jit.script(Mean()), tmp_path / "mean.pt")
    patch, words = PHASES[phase]
    command = ["stats", *words, "-o", "out.npz", "--quiet"]
    script = textwrap.dedent(COMMON) + f"{patch}\ncli.main({command!r})\n"
    machine = {**os.environ, "TORCH_HOME": "hub", "FASTFID_WEIGHTS": "", "FASTFID_OFFLINE": "", "FASTFID_DEBUG": ""}
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
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
    assert (child.returncode, said.strip()) == (130, "interrupted"), said
    assert out == ""
    assert (tmp_path / "pressed").exists()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"mean.pt", "set.npz", "pressed", *(f"{index:03d}.png" for index in range(8))}, left
    for _ in range(50):
        if not group_is_alive(child.pid):
            break
        time.sleep(0.1)
    assert not group_is_alive(child.pid)


def group_is_alive(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
