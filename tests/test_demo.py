"""The demo end to end, small: image sets written, every level measured through the real pipeline, an honest verdict."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import fastfid
from fastfid.cli import main
from fastfid.demo.disturbances import DISTURBANCES
from fastfid.demo.run import Series, _write
from fastfid.distance.result import FrechetResult
from fastfid.report.table import title


@pytest.fixture(autouse=True)
def _no_weights_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FASTFID_OFFLINE", "1")
    monkeypatch.delenv("FASTFID_WEIGHTS", raising=False)


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["demo", "--count", "2", "--quiet"], prog_name="fastfid")
    assert done.exit_code == 0, done.output
    assert "random(seed=0)" in done.stderr
    assert "not FID" in done.stdout
    folders = sorted(p.name for p in (tmp_path / "fastfid-demo").iterdir() if p.is_dir())
    assert len(folders) == 2 + 3 * len(DISTURBANCES)
    assert "salt-and-pepper-0.3" in folders
    counts = {f: len(list((tmp_path / "fastfid-demo" / f).iterdir())) for f in folders}
    assert counts == {**dict.fromkeys(folders, 2), "reference": 4}
    with Image.open(tmp_path / "fastfid-demo" / "distances.png") as plot:
        assert plot.format == "PNG"
        assert min(plot.size) >= 200
    rows = [line for line in done.stdout.splitlines() if any(d.name in line for d in DISTURBANCES)]
    assert len(rows) == len(DISTURBANCES)
    assert all(row.split("│")[-2].strip() in ("yes", "no") for row in rows), rows

    # The line it prints to try next gives the number that the table shows.
    line = next(text for text in done.stdout.splitlines() if text.startswith("next: "))
    assert line == ("next: fastfid compare fastfid-demo/reference fastfid-demo/salt-and-pepper-0.3 --weights random")
    with pytest.warns(fastfid.errors.FastFIDWarning):
        again = fastfid.fid("fastfid-demo/reference", "fastfid-demo/salt-and-pepper-0.3", weights="random")
    assert f"{again.value:.3f}" in rows[-1]

    # A second run over the same folder is fine; over somebody else's files it stops.
    Path("fastfid-demo/reference/mine.txt").write_text("keep")
    stopped = CliRunner().invoke(main, ["demo", "--count", "2", "--quiet"], prog_name="fastfid")
    assert stopped.exit_code == 3
    assert "mine.txt" in stopped.stderr


def test_a_smaller_second_run_leaves_only_its_own_images(tmp_path: Path) -> None:
    images = np.zeros((5, 4, 4, 3), np.uint8)
    _write(tmp_path / "set", images)
    _write(tmp_path / "set", images[:2] + 9)
    assert sorted(file.name for file in (tmp_path / "set").iterdir()) == ["0000.png", "0001.png"]
    with Image.open(tmp_path / "set" / "0001.png") as image:
        assert image.getpixel((0, 0)) == (9, 9, 9)
    for name in ("12345.png", "0004.jpg", "a0004.png", "0004.png.bak", "0003.png"):
        mine = tmp_path / "set" / name
        mine.write_text("keep")
        with pytest.raises(ValueError, match=f"holds '{name}', which this demo did not write"):
            _write(tmp_path / "set", images[:2])
        assert mine.read_text() == "keep"
        mine.unlink()


def test_images_of_the_same_names_are_not_the_demos_to_replace(tmp_path: Path) -> None:
    """Somebody's own PNGs with four digits, and links and pipes under such names, stop it before anything is done."""
    elsewhere = tmp_path / "elsewhere.png"
    for place in (_own_png, _own_link, _own_pipe):
        own = tmp_path / place.__name__ / "reference"
        own.mkdir(parents=True)
        place(own / "0001.png", elsewhere)
        before = elsewhere.read_bytes() if elsewhere.exists() else b""
        done = CliRunner().invoke(main, ["demo", "--out", str(own.parent), "--count", "2", "--quiet"])
        assert done.exit_code == 3, done.output
        assert "holds '0001.png', which this demo did not write" in done.stderr
        assert [path.name for path in own.parent.rglob("*")] == ["reference", "0001.png"]
        assert (elsewhere.read_bytes() if elsewhere.exists() else b"") == before


def _own_png(path: Path, _elsewhere: Path) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(path)


def _own_link(path: Path, elsewhere: Path) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(elsewhere)
    path.symlink_to(elsewhere)


def _own_pipe(path: Path, _elsewhere: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(("values", "grows"), [((1, 2, 3, 4), True), ((1, 2, 2, 4), False), ((1, 3, 2, 4), False)])
def test_verdict(values: tuple[float, ...], grows: bool) -> None:
    def result(value: float) -> FrechetResult:
        fields = dict.fromkeys(FrechetResult._fields, 0.0)
        return FrechetResult(value, **fields)

    assert Series(DISTURBANCES[0], tuple(map(result, values))).grows is grows  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("fid", "FID"),
        ("sfid", "sFID"),
        ("fid-64", "FID (tap 64)"),
        ("fid-logits", "FID (tap logits)"),
        ("fid-bf16", "FID (network in bf16)"),
        ("fid-64-bf16", "FID (tap 64) (network in bf16)"),
        ("fd-random-bf16", "Fréchet distance under a random network (not FID) (network in bf16)"),
    ],
)
def test_titles(metric: str, words: str) -> None:
    assert title(metric) == words
