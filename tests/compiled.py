"""Registers, spills and shared memory of a Triton kernel compiled for a GPU that is not there.

    python tests/compiled.py CAPABILITY OPERATION …     a line per kernel, as fastfid.kernels.probe lists them

Run in a process without Triton's interpreter; the two cannot share one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton

from fastfid.kernels import probe


def resources(capability: int, made: Any) -> str:
    """What the assembler says of the kernel's PTX."""
    ptx = made.asm["ptx"]
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    newer = folder / "ptxas-blackwell"
    assembler = newer if capability >= 100 and newer.exists() else folder / "ptxas"
    target = re.search(r"\.target (sm_\w+)", ptx).group(1)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "a.ptx"
        source.write_text(ptx)
        report = subprocess.run(
            [assembler, "-v", "--gpu-name", target, source, "-o", source.with_suffix(".cubin")],
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    registers = re.search(r"Used (\d+) registers", report).group(1)
    spilled = re.search(r"(\d+) bytes spill stores", report).group(1)
    return f"{target}: {registers} registers, {spilled} bytes spilled, {made.metadata.shared} bytes shared"


def main(capability: int, *operations: str) -> None:
    for operation in operations:
        for name, kernel, pointers, constants in probe.variants(operation):
            made = probe.compiled(capability, kernel, pointers, constants)
            ptx = made.asm["ptx"]
            assert "tf32" not in ptx
            product = "DMMA" if probe.on_tensor_cores(ptx) else ""
            sys.stdout.write(f"{operation}: {name} [{product}] {resources(capability, made)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
