"""The version sets of CI, as far as they can be read without a network: floors, pins, declared Pythons."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def versions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_versions", ROOT / ".ci" / "versions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(requirement: str) -> str:
    return re.split(r"[=<>;! ]", requirement)[0].lower()


def test_every_requirement_has_one_floor_and_a_set_that_runs_it(versions: ModuleType) -> None:
    floors = versions.pins("oldest")
    assert [name_of(one) for one in floors] == [name_of(one) for one in dict.fromkeys(versions.requirements())]
    for one in floors:
        assert re.fullmatch(r"[\w-]+==\d+(\.\d+)*(; .*)?", one), one
    assert versions.SETS["oldest"][0] == versions.pythons()[0] == "3.10"


def test_every_requirement_is_pinned_once_for_every_python(versions: ModuleType) -> None:
    for name, (python, _) in versions.SETS.items():
        if name in ("oldest", "latest"):
            continue
        old = python == "3.10"
        pins = [one for one in versions.pins(name) if ("<" in one) == old or "python_version" not in one]
        names = [name_of(one) for one in pins]
        assert len(names) == len(set(names)), name
        assert {name_of(one) for one in versions.requirements()} <= set(names), name
    assert "torch==2.11.0" in versions.pins("gpu")
    assert versions.pins("latest") == []


def test_every_declared_python_has_a_set(versions: ModuleType) -> None:
    assert versions.pythons() == ["3.10", "3.11", "3.12", "3.13"]
    assert set(versions.pythons()) <= {python for python, _ in versions.SETS.values()}


def test_a_requirement_without_a_floor_is_an_error(versions: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "requirements", lambda: ["torch>=2.6", "numpy; python_version >= '3.10'"])
    with pytest.raises(SystemExit, match="without a floor: numpy"):
        versions.floors()
