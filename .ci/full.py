"""What .ci/run leaves out: every set of versions whole, every wheel, random order, BLAS kernels, the long campaign.

    .ci/full [--only SET,SET,wheels,campaign] [--campaign SECONDS]

Run before an issue is called done. What it counts goes into bench/results/full.json, which is committed; parts
that are run alone replace their own entries there. One set at a time: 8 GB of disk, half an hour and more each on two
cores. Exit status 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import versions

ROOT = versions.HERE.parent
KERNELS = {"Nehalem": "sse4_2", "Sandybridge": "avx", "Haswell": "avx2", "Zen": "avx2", "SkylakeX": "avx512f"}
"""Of OpenBLAS, and the instructions that each needs."""

NUMERIC = "frechet or linalg or moments or gaussian or kernels or bounds"
"""Files whose tests multiply by NumPy's or torch's BLAS."""

FACTS = """
import importlib.metadata, json, platform, sys
packages = ("torch", "triton", "numpy", "scipy", "Pillow", "click", "rich", "matplotlib", "pytest", "setuptools")
json.dump({"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in packages}, sys.stdout)
"""


def pytest(environment: Path, *words: str, **variables: str) -> dict[str, Any]:
    """Run pytest against the installed fastfid; its status, seconds, counts, and the names of what failed."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        command = [environment / "bin" / "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}", *words]
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        begin = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, env=inherited | variables, check=False).returncode
        found: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - begin)}
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    states = [
        next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed") for case in cases
    ]
    names = [f"{case.get('classname')}::{case.get('name')}" for case in cases]
    bad = [name for name, state in zip(names, states, strict=True) if state in ("failure", "error")]
    return found | {"passed": states.count("passed"), "skipped": states.count("skipped"), "failed": bad}


def one_set(name: str, environment: Path) -> dict[str, Any]:
    """Install a set and run its default and slow tests; on the newest Python also in random order and on other BLAS."""
    try:
        versions.install(name, environment)
    except (subprocess.CalledProcessError, SystemExit) as error:
        return {"status": 1, "installation": str(error)}
    python = environment / "bin" / "python"
    facts = json.loads(subprocess.run([python, "-c", FACTS], capture_output=True, text=True, check=True).stdout)
    runs = {"default": pytest(environment), "slow": pytest(environment, "-m", "slow and not oracle and not campaign")}
    if name == "3.13":
        able = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        for kernel, needs in KERNELS.items():
            if needs in able:
                runs[f"OPENBLAS_CORETYPE={kernel}"] = pytest(environment, "-k", NUMERIC, OPENBLAS_CORETYPE=kernel)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pytest-randomly"], check=True)
        for seed in ("1", "2"):
            runs[f"random order {seed}"] = pytest(environment, f"--randomly-seed={seed}")
    return {"versions": facts, "runs": runs, "status": int(any(run["status"] for run in runs.values()))}


def wheels(folder: Path) -> dict[str, Any]:
    """Build a wheel for every declared Python, install it alone and load the compiled core; with CUDA where nvcc is."""
    found: dict[str, Any] = {"status": 0}
    for version in versions.pythons():
        for cuda in ("0", "1") if shutil.which("nvcc") else ("0",):
            name, place = f"{version}{' with CUDA' * (cuda == '1')}", folder / f"{version}-{cuda}"
            python = versions.interpreter(version)
            if python is None:
                found |= {name: "this Python is not here", "status": 1}
                continue
            subprocess.run([python, "-m", "venv", place], check=True)
            pip = [place / "bin" / "python", "-m", "pip", "-q"]
            variables = {**os.environ, "FASTFID_BUILD_CUDA": cuda}
            ask = "import fastfid._C as core, json; print(json.dumps(core.build_info()))"
            try:
                subprocess.run([*pip, "wheel", "--no-deps", "-w", place / "wheel", ROOT], env=variables, check=True)
                (wheel,) = (place / "wheel").glob("*.whl")
                subprocess.run([*pip, "install", "--no-deps", wheel], check=True)
                command = [place / "bin" / "python", "-c", ask]
                said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
                found[name] = {"wheel": wheel.name, "bytes": wheel.stat().st_size, "build": json.loads(said)}
            except subprocess.CalledProcessError as error:
                found |= {name: str(error), "status": 1}
    return found


def campaign(environment: Path, seconds: int, path: Path) -> dict[str, Any]:
    """The long campaign on the newest set; its own table lies beside the summary."""
    versions.install("3.11", environment)
    variables = {"FASTFID_CAMPAIGN_SECONDS": str(seconds), "FASTFID_CAMPAIGN_JSON": str(path)}
    return {"given_seconds": seconds, **pytest(environment, "-s", "-m", "campaign", **variables)}


def git(*words: str) -> str:
    """Output of a git command in the checkout."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Run the parts asked for, writing the summary after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="parts, with commas between: sets, wheels, campaign", metavar="PARTS")
    parser.add_argument("--campaign", type=int, default=4 * 3600, help="seconds of the campaign [14400]")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder [bench/results]")
    asked = parser.parse_args()
    every = [*versions.SETS, "wheels", "campaign"]
    parts = asked.only.split(",") if asked.only else every
    if unknown := set(parts) - set(every):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; accepted: {', '.join(every)}")
    commit = git("rev-parse", "--short=12", "HEAD") + "-dirty" * bool(git("status", "--porcelain", "-uno"))
    path = asked.out.resolve() / "full.json"
    summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    failed = []
    for part in parts:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, part)
            if part == "wheels":
                found = wheels(Path(scratch))
            elif part == "campaign":
                found = campaign(folder, asked.campaign, path.with_name("campaign.json"))
            else:
                found = one_set(part, folder)
        summary[part] = {"commit": commit, "cores": os.cpu_count(), **found}
        path.write_text(
            json.dumps({name: summary[name] for name in every if name in summary}, indent=1) + "\n", "utf-8"
        )
        if found["status"]:
            failed.append(part)
    print(f"failed: {', '.join(failed)}" if failed else f"all of {', '.join(parts)} passed", f"({path})")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
