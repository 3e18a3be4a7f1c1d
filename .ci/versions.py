"""Version sets out of pyproject.toml and constraints.txt; no package but pip is needed.

python .ci/versions.py floors          every declared floor exactly, as requirements (of dependencies and of `test`)
python .ci/versions.py resolve [3.13]  whether the constraints resolve for each Python (default: every declared one)

`resolve` asks the registry alone: no pip configuration and no local wheels, nothing is installed, no wheel is fetched
whole. pip chooses wheels by --python-version but reads markers (`; python_version < "3.11"`) for the Python that runs
it, so that one is made to name the other version, too.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
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


if __name__ == "__main__":
    asked, *rest = sys.argv[1:] or ["help"]
    if asked == "floors" and not rest:
        print("\n".join(floors()))
    elif asked == "resolve":
        with concurrent.futures.ThreadPoolExecutor() as pool:  # they wait for the registry
            results = list(pool.map(resolve, rest or pythons()))
        sys.exit(not all(results))
    else:
        sys.exit(__doc__)
