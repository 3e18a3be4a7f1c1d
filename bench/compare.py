"""Compare two result files of bench/run.py; exit 1 where one of fastfid's own times became worse.

    python bench/compare.py OLD.json NEW.json [--least 0.05]

A time, or a peak of memory, counts as worse when its median grew by more than ``--least`` and beyond the noise of both
runs: the new p20 lies above the old p80. Files of different machines are not compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

Key = tuple[str, str, str, str]


def rows_by_key(document: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    return {(row["op"], row["case"], row["variant"], row["metric"]): row for row in document["rows"]}


def verdict(old: dict[str, Any], new: dict[str, Any], least: float) -> str:
    """ "worse", "better" or "same"."""
    if new["p50"] > old["p50"] * (1 + least) and new["p20"] > old["p80"]:
        return "worse"
    if new["p50"] < old["p50"] / (1 + least) and new["p80"] < old["p20"]:
        return "better"
    return "same"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--least", type=float, default=0.05, help="smallest relative change that counts")
    asked = parser.parse_args(arguments)
    old, new = json.loads(asked.old.read_text()), json.loads(asked.new.read_text())
    for fact in ("schema", "cpu", "cores", "gpu"):
        if old["machine"][fact] != new["machine"][fact]:
            print(f"not comparable: {fact} is {old['machine'][fact]!r} and {new['machine'][fact]!r}")
            return 2
    if old["machine"].get("variables", {}) != new["machine"].get("variables", {}):
        print(f"set for the one: {old['machine'].get('variables')}, for the other: {new['machine'].get('variables')}")
    before, after = rows_by_key(old), rows_by_key(new)
    worse = 0
    for key in sorted(before.keys() | after.keys()):
        if key not in before or key not in after:
            print(f"only in {'old' if key in before else 'new'}: {' | '.join(key)}")
            continue
        said = verdict(before[key], after[key], asked.least)
        was, now = before[key]["p50"], after[key]["p50"]
        print(f"{said:6} ×{now / was:5.2f}  {was:.4f} → {now:.4f} {after[key]['unit']}  {' | '.join(key)}")
        worse += said == "worse" and key[2].startswith("fastfid")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
