"""Measure what the distance's tests only bound: error, enclosure width and time per method, and what intervals hold.

    python tests/measure_frechet.py [--sizes 64 512 2048] [--scale 1.0] [--output FILE.json]

The truth of the table is the singular values of the true factors; that of the coverage is ``exact``: closed forms, 50
digits, or constructions exact in binary. ``--scale 1`` is 100,000 cases up to d = 8, 3,000 up to d = 40 and 300 from
d = 256 to 2048, and nuclear norms beside them. Widths and errors of the table are relative to tr(Σ₁Σ₂)^½. Run it on an
idle machine if the times matter.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import exact
import mpmath
import numpy as np
import spectra
import torch

import fastfid
from fastfid.errors import NumericalWarning
from fastfid.reference.linalg import nuclear_norm

LABELS = ("auto", "certify", "svd", "newton-schulz")

ASKED: tuple[dict[str, Any], ...] = (
    {},
    {"certify": True},
    {"method": "eigvalsh"},
    {"method": "eigh"},
    {"method": "svd"},
)


def row(name: str, d: int, label: str, method: str, certify: bool | None) -> dict[str, Any]:
    f1, f2 = spectra.pair(name, d)
    s1, s2 = spectra.covariance(f1), spectra.covariance(f2)
    want, zero = nuclear_norm(f1.T @ f2), np.zeros(d)
    begin = time.perf_counter()
    got = fastfid.frechet(zero, s1, zero, s2, method=method, certify=certify)
    seconds = time.perf_counter() - begin
    scale = want or 1.0
    return {
        "spectrum": name,
        "d": d,
        "asked": label,
        "method": got.method,
        "proof": got.proof,
        "steps": got.steps,
        "ranks": [got.rank1, got.rank2],
        "error": abs(got.trace_root - want) / scale,
        "width": (got.upper - got.lower) / 2 / scale,
        "seconds": seconds,
    }


class Count:
    """Cases, those outside, and the widths against the distance."""

    def __init__(self) -> None:
        self.cases = self.outside = self.probable = 0
        self.widths: list[float] = []
        self.bad: list[str] = []

    def add(self, got: fastfid.FrechetResult, want: mpmath.mpf, what: str) -> None:
        self.cases += 1
        self.probable += got.proof == "probable"
        self.widths.append((got.upper - got.lower) / max(float(want), 1e-300))
        if not got.lower <= want <= got.upper:
            self.outside += 1
            self.bad.append(f"{what}: {mpmath.nstr(want, 20)} outside {got!r}")

    def join(self, other: Count) -> None:
        """Take another's cases in."""
        self.cases, self.outside = self.cases + other.cases, self.outside + other.outside
        self.probable += other.probable
        self.widths += other.widths
        self.bad += other.bad

    def report(self) -> dict[str, Any]:
        widths = np.array(self.widths or [0.0])
        return {
            "cases": self.cases,
            "outside": self.outside,
            "probable": self.probable,
            "median width / distance": float(f"{np.median(widths):.2g}"),
            "wider than 1e-3 of the distance": int((widths > 1e-3).sum()),
            "cases outside": self.bad[:5],
        }


def random_pairs(d: int, count: int, seed: int) -> Count:
    rng, made = np.random.default_rng([seed, d]), Count()
    for k in range(seed % 20, seed % 20 + count):  # pieces begin at different routes
        kind, a, b = exact.random_pair(d, rng)
        mu = rng.standard_normal((2, d)) * 10.0 ** rng.choice([-30, 0])
        asked = {"method": "newton-schulz"} if k % 20 == 7 else ASKED[k % len(ASKED)]
        made.add(
            fastfid.frechet(mu[0], a, mu[1], b, **asked), exact.distance(mu[0], a, mu[1], b), f"{k} {kind} {asked}"
        )
    return made


def exact_pairs(d: int, count: int, seed: int) -> Count:
    """Hadamard matrices with dyadic spectra where d is a power of two, and blocks of two."""
    rng, made = np.random.default_rng([seed, d]), Count()
    zero = np.zeros(d)
    for k in range(seed % 20, seed % 20 + count):  # pieces begin at different routes
        asked = {"method": "newton-schulz"} if k % 20 == 7 and d <= 512 else ASKED[k % len(ASKED)]
        if d & (d - 1) == 0 and k % 3:
            top = (52 - 2 * (d.bit_length() - 1)) // 2 // int(rng.integers(1, 4)) - 1
            values = 4.0 ** -rng.integers(0, max(top, 0) + 1, (2, d))
            if k % 3 == 2:
                values *= rng.uniform(size=(2, d)) > 0.3
            if rng.uniform() < 0.3:
                values[1] = values[0]
                values[1][0] = max(4 * values[1][0], 1.0)
            a, b, want = exact.of_spectra(*values)
        else:
            f = rng.integers(-9, 10, (2, d // 2, 2, 2)).astype(float)
            blocks = f @ f.transpose(0, 1, 3, 2)
            if rng.uniform() < 0.3:
                blocks[1] = blocks[0] + np.eye(2) * 2.0 ** -int(rng.integers(0, 20))
            a, b, want = exact.of_blocks(blocks[0], blocks[1], rng.permutation(d))
        made.add(fastfid.frechet(zero, a, zero, b, **asked), want, f"{k} {asked}")
    return made


def nuclear_norms(count: int, seed: int) -> dict[str, Any]:
    """Constant and few-valued columns of integers, tall and wide."""
    rng = np.random.default_rng(seed)
    outside, widest = 0, 0.0
    for k in range(count):
        n, columns = int(rng.integers(1, 4097)), int(rng.integers(1, 3))
        values = rng.integers(-(2**26), 2**26, 3)
        m = rng.choice(values, (n, columns)) if k % 2 else np.full((n, columns), values[0])
        want = exact.nuclear_of_two_columns(m.astype(float)) * mpmath.mpf(2) ** -20
        given = m.astype(float) * 2.0**-20
        method = ("svd", "newton-schulz")[k // 2 % 2]
        value, lower, upper = fastfid.nuclear_norm(given.T if k % 3 else given, method=method, bounds=True)
        outside += not lower <= want <= upper
        widest = max(widest, (upper - lower) / max(value, 1e-300))
    return {"cases": count, "outside": outside, "widest / value": float(f"{widest:.2g}")}


SMALL = {1: 10_000, 2: 84_000, 3: 3_000, 4: 2_000, 5: 500, 6: 300, 7: 100, 8: 100}
MIDDLE = {9: 60, 12: 40, 16: 1000, 20: 600, 32: 800, 40: 500}
LARGE = {256: 230, 512: 50, 1024: 14, 2048: 6}


def coverage(scale: float, seed: int, jobs: int) -> dict[str, Any]:
    """The whole plan in pieces of at most 250 cases, each with its own seed, over ``jobs`` processes."""
    tasks: list[tuple[str, Callable[[int, int, int], Count], int, int, int]] = []
    for plan, function in ((LARGE, exact_pairs), (MIDDLE, None), (SMALL, random_pairs)):
        for d, planned in plan.items():
            pairs, left = function or (random_pairs if d < 16 else exact_pairs), max(1, round(planned * scale))
            while left:
                count = min(left, 250 if d < 100 else 5)
                tasks.append((f"d={d}, {pairs.__name__}", pairs, d, count, seed + len(tasks)))
                left -= count
    norms = max(1, round(1000 * scale))
    found: dict[str, Count] = {}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _one_thread) as pool:
        columns = pool.submit(nuclear_norms, norms, seed)
        pieces = {pool.submit(pairs, d, count, own): name for name, pairs, d, count, own in tasks}
        for done, future in enumerate(as_completed(pieces), 1):
            found.setdefault(pieces[future], Count()).join(future.result())
            sys.stdout.write(f"{done} of {len(pieces)} pieces, {sum(one.outside for one in found.values())} outside\n")
            sys.stdout.flush()
        return {name: found[name].report() for name in dict.fromkeys(task[0] for task in tasks)} | {
            "nuclear_norm": columns.result()
        }


def _one_thread() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NumericalWarning)


def totals(made: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Cases and those outside, by size."""
    groups = {"d ≤ 8": (1, 8), "d = 9 to 40": (9, 40), "d = 256 to 2048": (256, 2048)}
    found = {name: {"cases": 0, "outside": 0, "probable": 0} for name in groups}
    for key, one in made.items():
        d = int(match[1]) if (match := re.match(r"d=(\d+),", key)) else 0
        for name, (low, high) in groups.items():
            if low <= d <= high:
                found[name] = {what: count + one[what] for what, count in found[name].items()}
    return found | {
        "nuclear norms": {"cases": made["nuclear_norm"]["cases"], "outside": made["nuclear_norm"]["outside"]}
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 512, 2048])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the coverage's counts; 0 for none")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the coverage's cases")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    rows = []
    for d in arguments.sizes:
        for name in spectra.SPECTRA:
            for label, (method, certify) in zip(LABELS, spectra.ROUTES, strict=True):
                if d > 1024 and (label == "svd" or (label == "newton-schulz" and not torch.cuda.is_available())):
                    continue  # minutes on a CPU, and nothing new
                made = row(name, d, label, method, certify)
                rows.append(made)
                sys.stdout.write(
                    f"{d:5d}  {name:24} {label:14} {made['method']:14} {made['steps']:3d} steps  "
                    f"error {made['error']:.1e}  width {made['width']:.1e}  {made['seconds']:8.3f} s\n"
                )
                sys.stdout.flush()
    counts = coverage(arguments.scale, arguments.seed, arguments.jobs) if arguments.scale else {}
    if arguments.output:
        facts = {
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "note": "other jobs shared the cores: the times are indicative, errors and widths are not affected",
        }
        found = {"machine": facts, "rows": rows, "coverage": counts, "totals": totals(counts) if counts else {}}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
