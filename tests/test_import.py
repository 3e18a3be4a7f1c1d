"""``import fastfid`` is silent, quick and starts nothing; rooms import only from rooms below them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastfid

PACKAGE = Path(fastfid.__file__).parent


def run_python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_import_is_silent_and_loads_nothing(tmp_path: Path) -> None:
    loaded = run_python("import sys, fastfid, json; print(json.dumps(sorted(sys.modules)))", tmp_path)
    modules = set(json.loads(loaded))
    assert not modules & {"torch", "triton", "numpy", "PIL", "rich", "matplotlib", "scipy", "fastfid._C"}


def test_using_the_package_starts_neither_cuda_nor_triton_and_needs_no_scipy(tmp_path: Path) -> None:
    code = (
        "import sys, warnings, fastfid, numpy as np, json\n"
        "sys.modules['scipy'] = None\n"
        "fastfid.frechet_distance(np.zeros(3), np.eye(3), np.ones(3), np.eye(3))\n"
        "fastfid.fid, fastfid.Moments, fastfid.resize_normalize, fastfid.PROTOCOLS\n"
        "import torch\n"
        "print(json.dumps([torch.cuda.is_initialized(), 'triton' in sys.modules, 'matplotlib' in sys.modules]))"
    )
    assert json.loads(run_python(code, tmp_path)) == [False, False, False]


def test_import_costs_little_over_torch(tmp_path: Path) -> None:
    """A count, not a time: what fastfid itself adds to the modules that torch already loads."""
    code = (
        "import sys, torch; before = set(sys.modules)\nimport fastfid\n"
        "print(len([m for m in sys.modules if m not in before and not m.startswith('fastfid')]))"
    )
    assert int(run_python(code, tmp_path)) <= 5


def test_every_public_name_resolves() -> None:
    for name in fastfid.__all__:
        assert getattr(fastfid, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fastfid.nonsense


# A room may import from rooms with a larger number. Private rooms at the bottom serve all.
LEVEL = {
    "cli": 0, "__main__": 0, "report": 0, "demo": 0.5, "bench": 0.5,
    "api": 1, "evaluator": 1,
    "job": 1.5, "keeping": 1.7,
    "pipeline": 2,
    "staging": 3, "tally": 3,
    "results": 2,
    "cache": 2.5, "agreement": 2.5, "comparable": 2.5,
    "protocols": 3,
    "sources": 4, "extractors": 4,
    "distance": 5,
    "loss": 5,
    "gaussian": 5.5,
    "grouped": 5.8, "moments": 6, "scatter": 6.5, "linalg": 7, "resample": 6, "distributed": 5.5,
    "_dispatch": 8,
    "kernels": 9, "_native": 9, "reference": 9,
    "_graphs": 10, "_arithmetic": 10, "_checks": 10, "_progress": 10, "_metadata": 10, "errors": 11,
    "_output": 10, "_shown": 10,
    "_moments_io": 9, "_npz": 10, "_files": 10.5,
}  # fmt: skip
SIDEWAYS = {("cli", "report"), ("cli", "demo"), ("__main__", "cli")}


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports at run time; what only a type checker sees is not a door."""
    tree = ast.parse(path.read_text())
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    rooms = set()
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" if node.module == "fastfid" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        rooms |= {name.split(".")[1] for name in names if name.startswith("fastfid.")}
    return rooms


def test_rooms_import_only_from_below() -> None:
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported_rooms(path) - {room, "__version__", "_C"}:
            allowed = LEVEL[other] > LEVEL[room] or (room, other) in SIDEWAYS
            assert allowed, f"{path.relative_to(PACKAGE)} may not import fastfid.{other}"


def test_only_native_imports_the_compiled_core() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "_native.py":
            assert "fastfid._C" not in path.read_text(), path
