"""What a number is worth nothing without, and the file that holds it beside the numbers."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
SCHEMA = 1
VARIABLES = re.compile(r"(OPENBLAS|OMP|MKL|ONEDNN|DNNL|KMP|GOMP)_\w+|TORCH_ALLOW_TF32\w*|NVIDIA_TF32_OVERRIDE")
"""Environment variables that make libraries faster or slower: a comparison with NumPy or SciPy must know them."""
PACKAGES = ("numpy", "scipy", "Pillow", "triton", "torchvision", "pytorch-fid", "torch-fidelity", "clean-fid")


def output_of(*command: str) -> str:
    """A command's output, "unknown" where it can't run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def machine(device: torch.device) -> dict[str, Any]:
    """Commit, hardware, versions and the variables that change speed."""
    model = next(
        (line.split(":")[1].strip() for line in output_of("cat", "/proc/cpuinfo").splitlines() if "model name" in line),
        platform.processor() or platform.machine(),
    )
    facts = {
        "schema": SCHEMA,
        "commit": output_of("git", "rev-parse", "--short=12", "HEAD"),
        "dirty": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "cpu": model,
        "cores": os.cpu_count(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)},
        "device": device.type,
        "gpu": "",
        "driver": "",
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["driver"] = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return facts


def slug(facts: dict[str, Any]) -> str:
    """The folder of a machine's results."""
    name = facts["gpu"] or f"{facts['cpu']} {facts['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def save(facts: dict[str, Any], rows: list[dict[str, Any]], suffix: str = "", folder: Path | None = None) -> Path:
    """Write ``<folder>/<commit><suffix>.json``; the folder is that of the machine unless one is named."""
    folder = folder or RESULTS / slug(facts)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{facts['commit']}{'-dirty' if facts['dirty'] else ''}{suffix}.json"
    path.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    return path
