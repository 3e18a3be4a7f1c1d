"""README's measured blocks and the plots are what the committed results give, and a stale one is found."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("report")


def test_readme_and_plots_are_what_the_results_say(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_readme_is_found_and_mended(report: Any, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    want = (ROOT / "README.md").read_text()
    stale, changed = re.subn(r"(?m)^\| pytorch-fid 0\.3\.0 \| [\d.]+ \|$", "| pytorch-fid 0.3.0 | 12345 |", want)
    readme.write_text(stale)
    assert changed == 1
    assert report.main(["--check"], root=tmp_path) == 1
    assert "12345" in readme.read_text()  # a check changes nothing
    assert report.main([], root=tmp_path) == 0
    assert readme.read_text() == want


def test_a_changed_result_makes_readme_and_plot_stale(report: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(report.RESULTS, results)
    path = results / report.SOURCES["frechet"]
    document = json.loads(path.read_text())
    text = (ROOT / "README.md").read_text()
    assert report.filled(text, results=results) == text
    (one,) = [r for r in document["rows"] if r["case"] == "d=2048, covariances" and r["variant"] == "fastfid"]
    one["p50"] = 123456.0
    path.write_text(json.dumps(document))
    assert "| fastfid | 123 |" in report.filled(text, results=results)
    assert report.digest(report.bars(results=results)) != report.digest(report.bars())


@pytest.mark.parametrize(
    "text",
    ["<!-- bench:nonsense -->\n<!-- /bench:nonsense -->", "<!-- bench:frechet -->\nno end", "<!-- /bench:frechet -->"],
)
def test_an_unknown_or_half_block_is_an_error(report: Any, text: str) -> None:
    with pytest.raises(SystemExit, match="README's blocks"):
        report.filled(text)


def test_numbers(report: Any) -> None:
    got = [report.number(x) for x in (10.17, 0.7369, 123.4, 2.0, 0.05)]
    assert got == ["10.2", "0.737", "123", "2.00", "0.0500"]
    assert report.power(2.43e-7) == "2.4e-7"
    assert report.power(1.2e-13, 0) == "1e-13"


def row(op: str, case: str, variant: str, p50: float, items: int = 1, **more: Any) -> dict[str, Any]:
    return {"op": op, "case": case, "variant": variant, "metric": "time per item", "p50": p50, "items": items, **more}


def test_blocks_that_wait_for_results(report: Any, tmp_path: Path) -> None:
    peak = {"metric": "peak_bytes"}
    document = {
        "machine": {"packages": {"pytorch-fid": "0.3.0"}},
        "rows": [
            row("moments", "n", "fastfid", 2000.0, share_of_matmul=0.83, max_difference=0.0),
            row("moments", "n", "np.cov float64", 5000.0, share_of_matmul=0.33, max_difference=2e-14),
            row("moments", "n", "fastfid", 100 * 2**20, **peak),
            row("moments", "n", "np.cov float64", 2400 * 2**20, **peak),
            row("tensors", "t", "fastfid fp16", 0.1, 50_000, split={"network_s": 4.0, "rest_share": 0.2}),
            row("tensors", "t", "pytorch-fid", 1.0, 50_000),
            row("growth", "n=1000", "fastfid", 1.5, 1000),
            row("growth", "n=2000", "fastfid", 1.25, 2000),
            row("growth", "n=4000", "fastfid", 1.125, 4000),
            *(row("growth", f"n={n}", "fastfid", 300 * 2**20, n, **peak) for n in (1000, 2000, 4000)),
        ],
    }
    moments = report.moments_block(document, "f.json").splitlines()
    assert moments[2:] == [
        "| fastfid | 2.00 | 83% | 100 | 0 |",
        "| np.cov float64 | 5.00 | 33% | 2400 | 2e-14 |",
    ]
    tensors = report.tensors_block(document, "f.json").splitlines()
    assert tensors[2:] == ["| fastfid, fp16 (opt-in) | 5.00 | 4.00 | 20% |", "| pytorch-fid 0.3.0 | 50.0 | | |"]
    growth = report.growth_block(document, "f.json")
    assert "| 4,000 | 4.50 | 300 |" in growth
    assert "off by at most 0.0%" in growth
    report.draw_growth(document, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


def test_a_plot_is_the_same_bytes_each_time_and_has_no_date(report: Any, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        report.draw_bars(report.bars(), tmp_path / name)
    one = (tmp_path / "one.svg").read_text()
    assert one == (tmp_path / "two.svg").read_text()
    assert "<dc:date>" not in one
    assert report.digest(report.bars()) in one
    assert "fastfid bf16" in one


def test_reliability_says_what_was_tried_and_what_failed(report: Any) -> None:
    document = {
        "seconds": 1800.2,
        "kinds": {
            "fuzz": {"entries": 32, "tried": 1_234_567, "events": 1_234_567, "failed": 8, "least": 200},
            "kills": {"entries": 4, "tried": 150, "events": 301, "failed": 0, "least": 70},
        },
    }
    lines = report.reliability_block(document, "campaign.json").splitlines()
    assert lines[0] == "| 30 minutes (`campaign.json`) | tried | failed |"
    assert lines[2].startswith("| calls of 32 public functions and commands")
    assert lines[2].endswith("| 1,234,567 | 8 |")
    assert lines[3].endswith("| 301 | 0 |")
