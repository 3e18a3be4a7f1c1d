"""Time the registered cases: green tests first, then equal results, then times.

    python bench/run.py [--device cpu|cuda] [--op resize_normalize] [--match 256] [--seconds 1] [--list] [--no-save]

Rows go to bench/results/<machine>/<commit>.json. Each row is one variant of one case; see bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cases import Case, load
from timing import copy_bandwidth, interleaved

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = 1


def output_of(*command: str) -> str:
    """A command's output, "unknown" where it can't run."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def machine(device: torch.device) -> dict[str, Any]:
    """What a number is worth nothing without."""
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
        "python": platform.python_version(),
        "torch": torch.__version__,
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


def gates_are_green(cases: list[Case]) -> bool:
    """Run the guarding tests; a speed is never reported beside a red one."""
    gates = sorted({case.gate for case in cases})
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *gates]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def differences(case: Case) -> dict[str, float]:
    """Largest absolute difference of every variant from the first; raises where one is beyond its bound."""
    results = {name: _double(run()) for name, run in case.variants.items()}
    first = next(iter(results.values()))
    found = {}
    for name, result in results.items():
        found[name] = (result - first).abs().max().item() if result.shape == first.shape else float("inf")
        if not found[name] <= case.bounds.get(name, 0.0):
            raise SystemExit(f"{case.name}: {name} differs by {found[name]:.3g}; nothing was timed")
    return found


def _double(result: object) -> torch.Tensor:
    if not isinstance(result, torch.Tensor):
        return torch.as_tensor(result, dtype=torch.float64)
    return result.double()


def rows_of(case: Case, device: torch.device, seconds: float, roofs: dict[int, float]) -> list[dict[str, Any]]:
    """Compare, time, and put into rows."""
    far = differences(case)
    if case.threads:
        torch.set_num_threads(case.threads)
    if case.threads not in roofs:
        roofs[case.threads] = copy_bandwidth(device, max(case.threads, 1))
    times = interleaved(case.variants, device, seconds=seconds)
    rows = []
    for name, taken in times.items():
        reached = case.bytes / (taken.p50 * 1e-3)
        rows.append(
            {
                "op": case.op,
                "case": case.name,
                "origin": case.origin,
                "variant": name,
                "dtype": case.dtype,
                "threads": case.threads,
                "metric": "time per item",
                "unit": "ms",
                "p20": taken.p20 / case.items,
                "p50": taken.p50 / case.items,
                "p80": taken.p80 / case.items,
                "rounds": taken.rounds,
                "items": case.items,
                "bytes": case.bytes,
                "flops": case.flops,
                "bytes_per_s": reached,
                "share_of_copy": reached / roofs[case.threads],
                "max_difference": far[name],
            }
        )
    return rows


def show(case: Case, rows: list[dict[str, Any]]) -> None:
    """The rows of one case as a table on standard output."""
    print(f"\n{case.op}: {case.name}  ({case.origin})")
    ours = rows[0]["p50"]
    for row in rows:
        print(
            f"  {row['variant']:32} {row['p50']:9.4f} ms  [{row['p20']:.4f}, {row['p80']:.4f}]"
            f"  ×{row['p50'] / ours:6.2f}  {row['bytes_per_s'] / 1e9:8.2f} GB/s  {row['share_of_copy']:6.1%} of copy"
            f"  differs by {row['max_difference']:.1e}"
        )
    for name, reason in case.missing.items():
        print(f"  {name:32} not measured: {reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--op", default="", help="only this operation")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=1.0, help="least time per case")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    chosen = [case for case in load(device) if arguments.op in ("", case.op) and arguments.match in case.name]
    if arguments.list or not chosen:
        print("\n".join(f"{case.op}: {case.name}  [{', '.join(case.variants)}]" for case in chosen) or "no such case")
        return 0 if chosen else 1
    if not gates_are_green(chosen):
        print("the guarding tests are red; nothing was timed")
        return 1
    facts, roofs, rows = machine(device), dict[int, float](), list[dict[str, Any]]()
    for case in chosen:
        made = rows_of(case, device, arguments.seconds, roofs)
        show(case, made)
        rows += made
    facts["copy_bytes_per_s"] = {str(threads): value for threads, value in roofs.items()}
    if not arguments.no_save:
        folder = ROOT / "bench" / "results" / slug(facts)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{facts['commit']}{'-dirty' if facts['dirty'] else ''}.json"
        path.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
        print(f"\nwritten: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
