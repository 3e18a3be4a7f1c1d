"""Time the registered cases: green tests first, then equal results, then times.

    python bench/run.py [--device cpu|cuda] [--op resize_normalize] [--match 256] [--seconds 1] [--list] [--no-save]
    python bench/run.py --end-to-end pipeline,tensors,growth [--count N] …        whole evaluations: see end_to_end.py

Rows go to bench/results/<machine>/<commit>.json. Each row is one variant of one case; see bench/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cases import Case, load
from machine import ROOT, machine, save
from peak import peak_bytes
from roofs import copy_bandwidth, matmul_rate

from fastfid.speed.timing import Times, interleaved


class NotEqualError(Exception):
    """A variant does not compute what the first one does."""


def green(gate: str) -> bool:
    """Run a guarding test; a speed is never reported beside a red one."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", gate]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def differences(case: Case) -> dict[str, float]:
    """Largest absolute difference of every variant from the first; raises where one is beyond its bound."""
    first: torch.Tensor | None = None
    found = {}
    for name, run in case.variants.items():
        result = _double(run())
        first = result if first is None else first
        found[name] = (result - first).abs().max().item() if result.shape == first.shape else float("inf")
        if not found[name] <= case.bounds.get(name, 0.0):
            raise NotEqualError(f"{case.name}: {name} differs by {found[name]:.3g}; nothing was timed")
    return found


def _double(result: object) -> torch.Tensor:
    if not isinstance(result, torch.Tensor):
        return torch.as_tensor(result, dtype=torch.float64)
    return result.double()


class Roofs:
    """The machine's own rates, each measured when it is first asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copy: dict[int, float] = {}
        self.matmul: dict[tuple[str, int], float] = {}

    def copy_at(self, threads: int) -> float:
        """Bytes per second of a copy."""
        if threads not in self.copy:
            self.copy[threads] = copy_bandwidth(self.device, threads)
        return self.copy[threads]

    def matmul_at(self, arithmetic: str, threads: int) -> float:
        """Operations per second of a product."""
        key = arithmetic, threads
        if key not in self.matmul:
            self.matmul[key] = matmul_rate(self.device, arithmetic, threads)
        return self.matmul[key]

    def facts(self) -> dict[str, dict[str, float]]:
        """For the result file."""
        return {
            "copy_bytes_per_s": {str(threads): value for threads, value in self.copy.items()},
            "matmul_flops_per_s": {f"{name}, {threads}": value for (name, threads), value in self.matmul.items()},
        }


def row_of(case: Case, variant: str, metric: str, unit: str, times: Times, **more: Any) -> dict[str, Any]:
    """One row of the result file."""
    return {
        "op": case.op,
        "case": case.name,
        "origin": case.origin,
        "variant": variant,
        "dtype": case.dtype,
        "threads": case.threads,
        "metric": metric,
        "unit": unit,
        "p20": times.p20,
        "p50": times.p50,
        "p80": times.p80,
        "rounds": times.rounds,
        "items": case.items,
        "bytes": case.bytes,
        "flops": case.flops,
        **more,
    }


def rows_of(case: Case, device: torch.device, seconds: float, roofs: Roofs) -> list[dict[str, Any]]:
    """Compare, time, and put into rows."""
    far = differences(case)
    before = torch.get_num_threads()
    if case.threads:
        torch.set_num_threads(case.threads)
    try:
        taken = interleaved(case.variants, device, seconds=seconds, least_rounds=case.rounds)
    finally:
        torch.set_num_threads(before)
    rows = []
    for name, times in taken.items():
        moved = case.bytes / (times.p50 * 1e-3)
        shares = {"bytes_per_s": moved, "share_of_copy": moved / roofs.copy_at(case.threads)}
        if case.arithmetic:
            done = case.flops / (times.p50 * 1e-3)
            shares |= {"flops_per_s": done, "share_of_matmul": done / roofs.matmul_at(case.arithmetic, case.threads)}
        each = Times(times.p20 / case.items, times.p50 / case.items, times.p80 / case.items, times.rounds)
        rows.append(row_of(case, name, "time per item", "ms", each, **shares, max_difference=far[name]))
    if case.inputs is not None:
        for name in case.variants:
            peak = float(peak_bytes(case, name, device))
            rows.append(row_of(case, name, "peak_bytes", "bytes", Times(peak, peak, peak, 1)))
    return rows


def show(case: Case, rows: list[dict[str, Any]]) -> None:
    """The rows of one case as a table on standard output."""
    print(f"\n{case.op}: {case.name}  ({case.origin})")
    ours = rows[0]["p50"]
    for row in rows:
        if row["metric"] == "peak_bytes":
            print(f"  {row['variant']:32} {row['p50'] / 2**20:9.1f} MiB at its peak, inputs left out")
            continue
        share = f"  {row['share_of_matmul']:6.1%} of a product" if "share_of_matmul" in row else ""
        print(
            f"  {row['variant']:32} {row['p50']:9.4f} ms  [{row['p20']:.4f}, {row['p80']:.4f}]"
            f"  ×{row['p50'] / ours:6.2f}  {row['bytes_per_s'] / 1e9:8.2f} GB/s  {row['share_of_copy']:6.1%} of copy"
            f"{share}  differs by {row['max_difference']:.1e}"
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
    parser.add_argument("--out", type=Path, help="folder of the result file [bench/results/<machine>]")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--end-to-end", metavar="RUNS", help="instead of the cases: pipeline, tensors, growth")
    if any(word.startswith("--end-to-end") for word in sys.argv[1:]):
        import end_to_end

        return end_to_end.main(sys.argv[1:])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    chosen = load(device, arguments.op, arguments.match)
    if arguments.list or not chosen:
        print("\n".join(f"{case.op}: {case.name}  [{', '.join(case.variants)}]" for case in chosen) or "no such case")
        return 0 if chosen else 1
    gates = {gate: green(gate) for gate in sorted({case.gate for case in chosen})}
    facts, roofs, rows = machine(device), Roofs(device), list[dict[str, Any]]()
    if facts["variables"]:
        print(f"set in this environment, and noted: {facts['variables']}")
    failed = [f"{gate} is red: its cases were not timed" for gate, is_green in gates.items() if not is_green]
    for case in (case for case in chosen if gates[case.gate]):
        try:
            made = rows_of(case, device, arguments.seconds, roofs)
        except NotEqualError as error:
            failed.append(str(error))
            continue
        show(case, made)
        rows += made
    facts |= roofs.facts()
    if rows and not arguments.no_save:
        print(f"\nwritten: {save(facts, rows, folder=arguments.out)}")
    print("\n".join(f"FAILED: {reason}" for reason in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
