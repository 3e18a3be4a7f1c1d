"""``fastfid bench``: right results are timed, a wrong one shows no time and exits with 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fastfid.cli import main
from fastfid.distance.frechet import frechet_distance
from fastfid.moments import Moments
from fastfid.speed import quick
from fastfid.speed.timing import quantiles


def _no_network(device: torch.device, tap: str) -> quick.Stage:
    del device, tap
    return quick.Stage("network", "images", 4, lambda: (0.0, 1.0), {"fastfid": lambda: None}, {"fastfid x": "why"})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., quick.Quick]:
    """The quick check with small matrices and without the network."""
    monkeypatch.setattr(quick, "_network", _no_network)
    made = partial(quick.run_quick, "cpu", seconds=0.0, d=32)
    monkeypatch.setattr(quick, "run_quick", lambda device, say: made(say=say))
    return made


def test_every_stage_is_timed_beside_its_baseline(small: Callable[..., quick.Quick]) -> None:
    said: list[str] = []
    found = small(say=said.append)
    by_stage: dict[str, list[str]] = {}
    for line in found.lines:
        by_stage.setdefault(line.stage, []).append(line.variant)
        assert 0 < line.p20 <= line.p50 <= line.p80
        assert line.rate == pytest.approx(line.items / line.p50 * 1e3)
        assert line.error <= line.bound
    assert by_stage == {
        "distance, d = 32": ["fastfid"],
        "distance, d = 8": ["fastfid", "SciPy sqrtm"],
        "resize 256² to 299², uint8": ["fastfid", "Pillow"],
        "covariance of 64 × 32 float32": ["fastfid", "np.cov float64"],
        "network": ["fastfid"],
    }
    assert found.missing == {"network: fastfid x": "why"}
    assert said[0].startswith("making inputs")
    assert len(said) == 1 + len(by_stage)


def test_command_prints_a_table_and_writes_json(small: Any, tmp_path: Path) -> None:
    del small
    path = tmp_path / "speed.json"
    done = CliRunner().invoke(main, ["bench", "--device", "cpu", "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert "covariance of 64 × 32 float32" in done.stdout
    assert "not measured: network: fastfid x: why" in done.stdout
    assert "timing" in done.stderr
    assert "timing" not in done.stdout
    report = json.loads(path.read_text())
    assert report["versions"]["torch"] == torch.__version__
    assert {line["variant"] for line in report["lines"]} >= {"fastfid", "Pillow", "np.cov float64"}
    only_json = CliRunner().invoke(main, ["bench", "--quiet", "--json", "-"])
    assert json.loads(only_json.stdout)["lines"]
    assert only_json.stderr == ""


def _wrong_distance(*sides: torch.Tensor) -> float:
    return frechet_distance(*sides) + 1e-3  # type: ignore[arg-type]


class _WrongMoments(Moments):
    def cov(self, ddof: int = 1) -> torch.Tensor:
        return super().cov(ddof) * (1 + 1e-9)


def _wrong_resize(images: torch.Tensor, *words: Any, **options: Any) -> torch.Tensor:
    made = torch.zeros(len(images), 3, 299, 299, dtype=torch.uint8)
    del words, options
    return made


@pytest.mark.parametrize(
    ("name", "wrong", "stage"),
    [
        ("frechet_distance", _wrong_distance, "distance, d = 32"),
        ("Moments", _WrongMoments, "covariance"),
        ("resize_normalize", _wrong_resize, "resize"),
        ("frechet_distance", lambda *sides: float("nan"), "distance"),
    ],
)
def test_a_red_gate_shows_no_time(
    small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, wrong: Any, stage: str
) -> None:
    del small
    monkeypatch.setattr(quick, name, wrong)
    monkeypatch.setattr(quick, "interleaved", lambda *a, **k: pytest.fail("something was timed"))
    path = tmp_path / "speed.json"
    done = CliRunner().invoke(main, ["bench", "--device", "cpu", "--json", str(path)])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert stage in done.stderr
    assert "above" in done.stderr
    assert not path.exists()


def test_a_missing_gpu_is_a_missing_device() -> None:
    done = CliRunner().invoke(main, ["bench", "--device", "cuda:77"])
    assert done.exit_code == 5
    assert "cuda:77" in done.stderr


def test_quantiles() -> None:
    assert quantiles([5.0, 1.0, 4.0, 2.0, 3.0]) == quick.Times(2.0, 3.0, 5.0, 5)


@pytest.mark.slow
def test_network_stage_is_right_in_every_precision() -> None:
    stage = quick._network(torch.device("cpu"), "64")
    error, bound = stage.check()
    assert error <= bound
    assert "fastfid" in stage.runs


@pytest.mark.gpu
def test_everything_on_a_gpu() -> None:
    found = quick.run_quick("cuda", seconds=0.0, d=256)
    assert {line.stage for line in found.lines} >= {"network, 299² images", "distance, d = 256"}
