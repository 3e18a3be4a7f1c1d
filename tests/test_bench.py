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
    rows = [
        {"op": "o", "case": "c", "variant": name, "p20": p20, "p50": p50, "p80": p80}
        for name, (p20, p50, p80) in times.items()
    ]
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


def test_another_machine_is_not_compared(bench: Any, tmp_path: Path) -> None:
    old = document(fastfid=(0.9, 1.0, 1.1))
    new = copy.deepcopy(old)
    new["machine"]["cpu"] = "y"
    assert exit_code(bench, tmp_path, old, new) == 2


def test_resize_cases_are_complete(bench: Any) -> None:
    made = bench("resize_cases").cases(torch.device("cpu"))
    assert len({case.name for case in made}) == len(made)
    for case in made:
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
    times = bench("timing").interleaved(
        {"a": lambda: None, "b": lambda: sum(range(20000))}, torch.device("cpu"), seconds=0.0
    )
    for taken in times.values():
        assert 0 <= taken.p20 <= taken.p50 <= taken.p80
        assert taken.rounds >= 7
