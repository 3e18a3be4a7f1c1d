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


def run_python(code: str, cwd: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, check=False)
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


# The house, from the roof down: a room imports from lower floors alone, and from whole rooms of them.
FLOORS = (
    {"cli", "__main__"},
    {"demo"},
    {"api", "evaluator", "report", "speed"},
    {"evaluation"},
    {"passes", "metrics"},
    {"protocols", "agreement"},
    {"distributed", "sources", "distance"},
    {"moments", "extractors", "linalg", "resample", "pairwise"},
    {"runtime"},
    {"kernels", "reference", "errors"},
)
FLOOR = {room: number for number, rooms in enumerate(reversed(FLOORS)) for room in rooms}
ALSO = {("__main__", "cli")}


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
        for other in imported_rooms(path) - {room, "_C"}:
            allowed = FLOOR[other] < FLOOR[room] or (room, other) in ALSO
            assert allowed, f"{path.relative_to(PACKAGE)} may not import fastfid.{other}"


def test_only_native_imports_the_compiled_core() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "native.py":
            assert "fastfid._C" not in path.read_text(), path


def test_no_module_hides_a_public_name(tmp_path: Path) -> None:
    """Importing ``fastfid.x`` sets the attribute x of fastfid: whatever the order, public names are what they were."""
    code = (
        "import importlib, pkgutil, random, sys, types, json, fastfid\n"
        "names = [m.name for m in pkgutil.walk_packages(fastfid.__path__, 'fastfid.') if '__main__' not in m.name]\n"
        "names = [name for name in names if not name.startswith(('fastfid._C', 'fastfid.kernels.s'))]\n"
        "random.Random(int(sys.argv[1])).shuffle(names)\n"
        "for name in names: importlib.import_module(name)\n"
        "print(json.dumps([n for n in fastfid.__all__ if isinstance(getattr(fastfid, n), types.ModuleType)]))"
    )
    for order in range(3):
        assert json.loads(run_python(code, tmp_path, str(order))) == []
