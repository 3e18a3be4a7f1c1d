"""The command line as a user meets it: results on stdout, bars on stderr, exit codes that mean something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import fastfid
from fastfid.cli import main


class Colours(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of 20 images and a small TorchScript network."""
    root = tmp_path_factory.mktemp("sets")
    for name, seed in (("ref", 1), ("gen", 2)):
        (root / name).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 16, 12, 3), dtype=np.uint8)
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(root / name / f"{index:02d}.png")
    torch.jit.script(Colours()).save(root / "net.pt")
    return root


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="fastfid")


def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastfid", *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_compare_prints_the_result_on_stdout_and_the_bar_on_stderr(sets: Path, tmp_path: Path) -> None:
    done = run("compare", sets / "ref", sets / "gen", "--extractor", sets / "net.pt", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    want = fastfid.fid(sets / "ref", sets / "gen", extractor=str(sets / "net.pt"))
    assert report["results"]["fid"]["value"] == want.value
    assert f"{want.value:.6f}" in done.stdout
    assert "pytorch-fid" in done.stdout
    assert "20 samples" in done.stdout
    assert "images/s" in done.stderr
    assert "Traceback" not in done.stderr
    assert "━" not in done.stdout


def test_quiet_and_statistics(sets: Path, tmp_path: Path) -> None:
    made = run("stats", sets / "ref", "-o", "ref.npz", "--extractor", sets / "net.pt", "--quiet", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == "ref.npz: 20 samples, 12 dimensions, protocol pytorch-fid\n"
    done = call("compare", tmp_path / "ref.npz", sets / "gen", "--extractor", sets / "net.pt", "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    direct = fastfid.fid(sets / "ref", sets / "gen", extractor=str(sets / "net.pt"))
    assert f"{direct.value:.6f}" in done.stdout


def test_protocols_lists_them_all() -> None:
    result = call("protocols")
    assert result.exit_code == 0
    for name, entry in fastfid.PROTOCOLS.items():
        assert name in result.stdout
        assert entry.normalize.formula in result.stdout


def test_info_names_versions_kernels_and_weights() -> None:
    result = call("info")
    assert result.exit_code == 0
    for word in (fastfid.__version__, torch.__version__, "resize_normalize", "FASTFID_WEIGHTS", "cpu"):
        assert word in result.stdout
    assert "available, used" in result.stdout
    assert "not available: " in result.stdout  # Triton's, on the CPU


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("compare", "ref"), 2, "Missing argument 'GEN'"),
        (("compare", "ref", "gen", "--protocol", "fid"), 2, "'fid' is not one of 'pytorch-fid'"),
        (("compare", "ref", "gen", "--batch-size", "0"), 2, "0 is not in the range"),
        (("compare", "nowhere", "gen", "--extractor", "net.pt"), 3, "nowhere"),
        (("compare", "ref", "gen", "--extractor", "net.pt", "--limit", "21"), 3, "20"),
        (("compare", "ref", "gen", "--extractor", "net.pt", "--limit", "1"), 3, "holds 1 image"),
        (("compare", "ref", "gen", "--extractor", "net.pt", "--json", "no/r.json"), 7, "does not exist"),
        (("compare", "ref", "gen", "--extractor", "net.pt", "--json", "."), 7, "it is a folder"),
        (("compare", "ref", "gen", "--extractor", "net.pt", "--json", ""), 7, "it is a folder"),
        (("compare", "ref", "gen", "--weights", "nothing.pth"), 4, "nothing.pth"),
        (("compare", "ref", "gen"), 4, "--weights"),
        (("compare", "ref", "gen", "--device", "cuda:77"), 5, "cuda:77"),
        (("stats", "ref"), 2, "Missing option '-o'"),
        (("stats", "ref", "-o", "x.txt", "--extractor", "net.pt"), 2, "does not end in .npz"),
        (("compare", "ref", "gen", "--device", "gpu"), 2, "'gpu' is not auto, cpu, cuda"),
        (("compare", "ref", "gen", "--tap", "63"), 2, "'63' is not one of"),
    ],
)
def test_exit_codes(
    sets: Path, words: tuple[str, ...], code: int, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(sets)
    monkeypatch.setenv("FASTFID_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("FASTFID_WEIGHTS", raising=False)
    result = call(*words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""


def test_json_to_stdout_replaces_the_table(sets: Path) -> None:
    done = call("compare", sets / "ref", sets / "gen", "--extractor", sets / "net.pt", "--quiet", "--json", "-")
    assert json.loads(done.stdout)["sets"]["gen"]["n"] == 20


def test_names_in_brackets_are_shown_as_they_are(sets: Path, tmp_path: Path) -> None:
    odd = tmp_path / "gen[bold][/x]"
    odd.mkdir(parents=True)
    for file in (sets / "gen").iterdir():
        (odd / file.name).write_bytes(file.read_bytes())
    done = call("compare", sets / "ref", odd, "--extractor", sets / "net.pt", "--quiet")
    assert done.exit_code == 0, done.output
    assert "gen[bold][/x]" in done.stdout


def test_skip_bad_lists_what_was_left_out(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for file in (sets / "gen").iterdir():
        (tmp_path / "bad" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "bad" / "03.png").write_bytes(b"\x89PNG nothing")
    words = ("compare", sets / "ref", tmp_path / "bad", "--extractor", sets / "net.pt", "--quiet")
    stopped = call(*words)
    assert stopped.exit_code == 3
    assert "03.png" in stopped.stderr
    assert "--skip-bad" in stopped.stderr
    made = call("stats", tmp_path / "bad", "-o", tmp_path / "s.npz", "--extractor", sets / "net.pt", "--skip-bad")
    assert "warning: " in made.stdout
    assert "left out 1 unreadable images: 03.png" in made.stdout
    went_on = call(*words, "--skip-bad", "--json", tmp_path / "r.json")
    assert went_on.exit_code == 0, went_on.output
    assert "1 unreadable left out" in went_on.stdout
    assert json.loads((tmp_path / "r.json").read_text())["sets"]["gen"]["skipped"][0]["name"] == "03.png"


def test_ctrl_c_leaves_no_file(sets: Path, tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored below a shell's "&"
    code += "import fastfid.api; print('ready', flush=True); from fastfid.cli import main; main()"
    words = ("stats", str(sets / "ref"), "-o", "out.npz", "--weights", "random", "--batch-size", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.0)  # inside the work, which takes seconds: the network is made, then run on 20 images
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 130, (out, err)
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", [False, True])
def test_ctrl_c_leaves_nothing_wherever_it_comes(inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words' reading or in the work, in the moment in which a temporary is made: 130, and it is removed."""
    from fastfid import cli
    from fastfid.runtime import output as _output

    def pressed(*_args: object, **_settings: object) -> None:
        file, part = _output.temporary(tmp_path / "r.json")
        _output.publish(*_output.temporary(tmp_path / "s.json"), tmp_path / "s.json")
        assert part.exists()
        file.close()
        raise KeyboardInterrupt

    if inside:
        monkeypatch.setattr("fastfid.api.merge", pressed)
        result = call("merge", __file__, __file__, "-o", tmp_path / "o.npz")
    else:
        monkeypatch.setattr(cli.main, "invoke", pressed)
        result = call("info")
    assert (result.exit_code, result.stderr.strip()) == (130, "interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]
    assert not _output._made
