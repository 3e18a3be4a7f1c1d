"""Compiles a Triton kernel for a GPU that is not there and reads its registers, spills and instructions.

Imported in processes that do not run Triton's interpreter; the two cannot share one.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


class Compiled(NamedTuple):
    ptx: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    target: str

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.registers} registers, {self.spilled_bytes} bytes spilled, "
            f"{self.shared_bytes} bytes shared"
        )


def compile_for(capability: int, kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> Compiled:
    """Compile with ``pointers`` (argument → element type) and ``constants`` (which may hold num_warps, num_stages).

    What is neither is an int64, except sizes of one capital letter, which are int32.
    """
    options = {key: constants[key] for key in ("num_warps", "num_stages") if key in constants}
    fixed = {key: value for key, value in constants.items() if key not in options}
    signature = {name: "i32" if name.isupper() or name == "first" else "i64" for name in kernel.arg_names}
    signature |= {name: f"*{kind}" for name, kind in pointers.items()} | dict.fromkeys(fixed, "constexpr")
    made = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=fixed),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
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
    registers = int(re.search(r"Used (\d+) registers", report).group(1))
    spilled = int(re.search(r"(\d+) bytes spill stores", report).group(1))
    return Compiled(ptx, registers, spilled, made.metadata.shared, target)
