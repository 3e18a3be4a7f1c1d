"""Version sets out of pyproject.toml and constraints.txt; no package but pip is needed.

python .ci/versions.py floors           every declared floor exactly, as requirements (of dependencies and of `test`)
python .ci/versions.py resolve [3.13]   whether the constraints resolve for each Python (default: every declared one)
python .ci/versions.py python 3.13      where an interpreter of that version is; exit status 1 where none is
python .ci/versions.py install SET DIR  a virtual environment with fastfid and what its tests need, in the versions of
                                        SET: oldest, gpu, 3.10, 3.11, 3.12, 3.13 (the constraints), latest (no pins)

Both `resolve` and `install` ask the registry alone, without pip's configuration and local wheels. `resolve` installs
nothing and fetches no wheel whole. pip chooses wheels by --python-version but reads markers such as python_version <
"3.11" for the Python that runs it, so that one is made to name the other version, too.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

HERE = Path(__file__).resolve().parent
AS_IF = """
import platform, runpy, sys
version = sys.argv.pop(1)
platform.python_version = lambda: version + ".0"
platform.python_version_tuple = lambda: (*version.split("."), "0")
runpy.run_module("pip", run_name="__main__")
"""
ALONE = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}


def project() -> dict[str, Any]:
    """The table [project]."""
    found: dict[str, Any] = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


SETS = {  # Python, and what takes the place of the constraints: pins, or None for none at all
    "oldest": ("3.10", "every floor"),
    "gpu": ("3.12", "torch==2.11.0 triton==3.6.0"),  # a machine with an H100 that is at hand at times has these
    **{version: (version, "") for version in ("3.10", "3.11", "3.12", "3.13")},
    "latest": ("3.13", None),
}


def requirements() -> list[str]:
    """What `pip install '.[test]'` asks for besides fastfid."""
    found = project()
    return [*found["dependencies"], *found["optional-dependencies"]["test"]]


def floors() -> list[str]:
    """Each requirement with ``>=`` made ``==``; a requirement without a floor is an error."""
    exact = [re.sub(r">=", "==", one, count=1) for one in requirements()]
    without = [one for one in exact if "==" not in one.partition(";")[0]]
    if without:
        raise SystemExit(f"without a floor: {', '.join(without)}")
    return list(dict.fromkeys(exact))


def pythons() -> list[str]:
    """The Pythons that pyproject.toml declares."""
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one) for one in project()["classifiers"])
    return [match.group(1) for match in found if match]


def resolve(version: str) -> bool:
    """Print what pip would install for that Python, or why it can't."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-c", AS_IF, version, "install", "--dry-run", "--quiet", "--report", "-"]
        command += ["--use-feature=fast-deps", "--only-binary=:all:", "--python-version", version]
        command += ["--target", scratch, "-c", str(HERE / "constraints.txt"), *requirements()]
        done = subprocess.run(command, env={**os.environ, **ALONE}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"Python {version}: does not resolve\n{done.stdout}\n{done.stderr}")
        return False
    chosen = dict(re.findall(r'"name": "([\w.-]+)",\s*"version": "([\w.+-]+)"', done.stdout))
    told = " ".join(f"{name} {chosen.get(name)}" for name in ("torch", "triton", "numpy", "pillow", "scipy"))
    print(f"Python {version}: {len(chosen)} packages, {told}")
    return True


def interpreter(version: str) -> str | None:
    """A Python of that version, on PATH or pyenv's; None where there is none."""
    places = [shutil.which(f"python{version}"), *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for place in filter(None, places):
        command = [place, "-c", "import sys, venv; print(sys.version)"]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.startswith(f"{version}."):
            return str(place)
    return None


def pins(name: str) -> list[str]:
    """A set's constraints, one for each package."""
    own = SETS[name][1]
    if own is None:
        return []
    if own == "every floor":
        return floors()
    lines = (line.strip() for line in (HERE / "constraints.txt").read_text(encoding="utf-8").splitlines())
    replaced = tuple(f"{one.partition('==')[0]}==" for one in own.split())
    return [*own.split(), *(line for line in lines if line[:1] not in "#" and not line.startswith(replaced or "#"))]


def install(name: str, folder: Path) -> None:
    """Make the environment; fastfid is built by the set's own setuptools, pybind11 and ninja, without CUDA."""
    python = interpreter(SETS[name][0])
    if python is None:
        raise SystemExit(f"{name}: Python {SETS[name][0]} is not here")
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip"]
    environment = {**os.environ, **ALONE, "FASTFID_BUILD_CUDA": "0"}
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("\n".join(pins(name)) + "\n", encoding="utf-8")
        for words in (
            ["install", "--quiet", "--upgrade", "pip"],
            ["install", "--quiet", "--no-cache-dir", "--only-binary=:all:", "-c", constraints, *requirements()],
            ["install", "--quiet", "--no-deps", "--no-build-isolation", HERE.parent],
            ["check"],
        ):
            subprocess.run([*pip, *words], env=environment, check=True)


if __name__ == "__main__":
    asked, *rest = sys.argv[1:] or ["help"]
    if asked == "floors" and not rest:
        print("\n".join(floors()))
    elif asked == "resolve":
        with concurrent.futures.ThreadPoolExecutor() as pool:  # they wait for the registry
            results = list(pool.map(resolve, rest or pythons()))
        sys.exit(not all(results))
    elif asked == "python" and len(rest) == 1:
        sys.stdout.write(interpreter(rest[0]) or sys.exit(1))
    elif asked == "install" and len(rest) == 2 and rest[0] in SETS:
        install(rest[0], Path(rest[1]))
    else:
        sys.exit(__doc__)
