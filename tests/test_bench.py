"""The benchmark's own machinery: the comparison fails on one regression, cases are complete, wrong results stop it."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fastfid.speed import timing

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of bench/."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def document(**times: tuple[float, float, float]) -> dict[str, Any]:
    about = {"op": "o", "case": "c", "metric": "time per item", "unit": "ms"}
    rows = [{**about, "variant": name, "p20": p20, "p50": p50, "p80": p80} for name, (p20, p50, p80) in times.items()]
    return {"machine": {"schema": 1, "cpu": "x", "cores": 2, "gpu": ""}, "rows": rows}


def exit_code(bench: Any, folder: Path, old: dict[str, Any], new: dict[str, Any]) -> int:
    (folder / "old.json").write_text(json.dumps(old))
    (folder / "new.json").write_text(json.dumps(new))
    code: int = bench("compare").main([str(folder / "old.json"), str(folder / "new.json")])
    return code


def test_one_regression_among_many_fails(bench: Any, tmp_path: Path) -> None:
    old = document(fastfid=(0.9, 1.0, 1.1), fastfid_2=(0.9, 1.0, 1.1), torch=(2.0, 2.1, 2.2))
    assert exit_code(bench, tmp_path, old, old) == 0
    new = copy.deepcopy(old)
    new["rows"][1] |= {"p20": 1.2, "p50": 1.3, "p80": 1.4}
    assert exit_code(bench, tmp_path, old, new) == 1
    assert exit_code(bench, tmp_path, new, old) == 0


def test_noise_small_changes_and_baselines_do_not_fail(bench: Any, tmp_path: Path) -> None:
    old = document(fastfid=(0.9, 1.0, 1.3), torch=(2.0, 2.1, 2.2))
    noisy = document(fastfid=(1.2, 1.5, 1.9), torch=(2.0, 2.1, 2.2))
    assert exit_code(bench, tmp_path, old, noisy) == 0  # within what the old run itself spread over
    small = document(fastfid=(1.02, 1.03, 1.04), torch=(2.0, 2.1, 2.2))
    assert exit_code(bench, tmp_path, document(fastfid=(0.99, 1.0, 1.01), torch=(2.0, 2.1, 2.2)), small) == 0
    slower_baseline = document(fastfid=(0.9, 1.0, 1.3), torch=(4.0, 4.1, 4.2))
    assert exit_code(bench, tmp_path, old, slower_baseline) == 0


def test_grown_memory_fails_and_is_not_mixed_up_with_time(bench: Any, tmp_path: Path) -> None:
    old = document(fastfid=(0.9, 1.0, 1.1))
    peak = {"metric": "peak_bytes", "unit": "bytes", **dict.fromkeys(("p20", "p50", "p80"), 1e6)}
    old["rows"].append(old["rows"][0] | peak)
    new = copy.deepcopy(old)
    assert exit_code(bench, tmp_path, old, new) == 0
    new["rows"][1] |= dict.fromkeys(("p20", "p50", "p80"), 1.04e6)
    assert exit_code(bench, tmp_path, old, new) == 0
    new["rows"][1] |= dict.fromkeys(("p20", "p50", "p80"), 1.06e6)
    assert exit_code(bench, tmp_path, old, new) == 1


def test_another_machine_is_not_compared(bench: Any, tmp_path: Path) -> None:
    old = document(fastfid=(0.9, 1.0, 1.1))
    new = copy.deepcopy(old)
    new["machine"]["cpu"] = "y"
    assert exit_code(bench, tmp_path, old, new) == 2


@pytest.mark.parametrize("module", ["resize_cases", "frechet_cases", "moments_cases", "decode_cases", "pairwise_cases"])
def test_cases_are_complete(bench: Any, module: str) -> None:
    ops = bench("cases").MODULES[module]
    made = bench(module).cases(torch.device("cpu"))
    assert len({(case.op, case.name) for case in made}) == len(made)
    for case in made:
        assert case.op in ops
        assert next(iter(case.variants)) == "fastfid"
        assert set(case.bounds) <= set(case.variants) | set(case.missing)
        assert case.bytes > 0
        assert case.origin
        assert (BENCH.parent / case.gate).is_file()


def test_unequal_results_are_not_timed(bench: Any) -> None:
    cases, run = bench("cases"), bench("run")
    facts = {"op": "o", "name": "n", "origin": "a test", "gate": "", "items": 1, "bytes": 1, "flops": 0}
    variants = {"fastfid": lambda: torch.zeros(3), "other": lambda: torch.tensor([0.0, 0.5, 0.0])}
    case = cases.Case(**facts, dtype="float32", threads=1, variants=variants, bounds={"other": 0.6})
    assert run.differences(case) == {"fastfid": 0.0, "other": 0.5}
    for bad in (variants["other"], lambda: torch.full((3,), torch.nan), lambda: torch.zeros(4)):
        wrong = cases.Case(
            **facts, dtype="float32", threads=1, variants=variants | {"other": bad}, bounds={"other": 0.4}
        )
        with pytest.raises(run.NotEqualError, match=r"n: other differs by .* nothing was timed"):
            run.differences(wrong)


def test_times_are_ordered(bench: Any) -> None:
    times = timing.interleaved({"a": lambda: None, "b": lambda: sum(range(20000))}, torch.device("cpu"), seconds=0.0)
    for taken in times.values():
        assert 0 <= taken.p20 <= taken.p50 <= taken.p80
        assert taken.rounds >= 7


def test_covariance_case_measures_time_memory_and_difference(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench("run")
    case = bench("moments_cases").covariance(600, 24, torch.device("cpu"))
    assert case.flops == 600 * 24 * 24
    monkeypatch.setattr(run, "peak_bytes", lambda case, variant, device: 1000 + len(variant))
    roofs = run.Roofs(torch.device("cpu"))
    roofs.copy[0], roofs.matmul["float64", 0] = 1e9, 1e12
    rows = run.rows_of(case, torch.device("cpu"), 0.0, roofs)
    times = {row["variant"]: row for row in rows if row["metric"] == "time per item"}
    peaks = {row["variant"]: row for row in rows if row["metric"] == "peak_bytes"}
    assert times.keys() == peaks.keys() == case.variants.keys()
    assert times["np.cov float64"]["max_difference"] < 1e-13 < times["XᵀX float32"]["max_difference"] < 1e-3
    one = times["fastfid"]
    assert one["share_of_matmul"] == pytest.approx(case.flops / (one["p50"] * 1e-3) / 1e12)
    assert peaks["fastfid"]["p50"] == 1007


def test_a_case_that_fails_does_not_hide_the_others(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, run = bench("cases"), bench("run")
    facts = {"op": "o", "origin": "a test", "items": 1, "bytes": 1, "flops": 0, "dtype": "float32", "threads": 1}
    one = {"fastfid": lambda: torch.zeros(2)}
    made = [
        cases.Case(**facts, name="red", gate="tests/red.py", variants=one),
        cases.Case(**facts, name="unequal", gate="tests/green.py", variants=one | {"x": lambda: torch.ones(2)}),
        cases.Case(**facts, name="right", gate="tests/green.py", variants=one),
    ]
    monkeypatch.setattr(run, "load", lambda *a: made)
    monkeypatch.setattr(run, "green", lambda gate: gate == "tests/green.py")
    monkeypatch.setattr(run, "copy_bandwidth", lambda *a: 1e9)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "cpu", "--seconds", "0", "--out", str(tmp_path)])
    assert run.main() == 1
    (path,) = tmp_path.iterdir()
    document = json.loads(path.read_text())
    assert {row["case"] for row in document["rows"]} == {"right"}
    assert document["machine"]["variables"]["OPENBLAS_CORETYPE"] == "Prescott"
    said = capsys.readouterr().out
    assert "FAILED: tests/red.py is red" in said
    assert "FAILED: unequal: x differs by 1" in said


def test_resident_peak_sees_an_allocation(bench: Any) -> None:
    peak = bench("peak")
    before = peak.resident_peak()
    torch.ones(before + (64 << 20), dtype=torch.uint8)
    assert peak.resident_peak() - before >= 60 << 20


def test_straight_line_and_its_residual(bench: Any) -> None:
    line = bench("growth").line_through([1000, 2000, 5000], [2.5, 4.5, 10.5])
    assert line["fixed_s"] == pytest.approx(0.5)
    assert line["s_per_image"] == pytest.approx(2e-3)
    assert line["largest_relative_residual"] < 1e-12
    assert bench("growth").line_through([1000, 2000, 3000], [1.0, 2.0, 9.0])["largest_relative_residual"] > 0.2


def test_growth_measures_a_pass(bench: Any) -> None:
    found = bench("growth").one(120, "cpu")
    assert 0 < found["seconds"] < 60
    assert found["peak_bytes"] > 50 << 20
    assert found["gpu_peak_bytes"] == 0
