"""Whether the installed Triton can compile the kernels for a GPU, and with its tensor cores. Imports no Triton itself.

That Triton is installed says little: 3.2 to 3.4 refuse a product in float64, 3.5 knows no sm_100 and may end the
process, 3.6 and 3.7 compile the product for sm_100 without its float64 tensor cores. So the kernels themselves are
compiled, in a process of its own, once per process and GPU that asks (seconds; Triton keeps what it has compiled).
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

OLDEST = (8, 0)
_PATIENCE = 300.0
"""Seconds for all kernels of an operation; they take about ten on a machine that does nothing else."""

Variant = tuple[str, Any, dict[str, str], dict[str, Any]]
"""What it is, the kernel, {pointer: element type}, {constant: value} with num_warps and num_stages among them."""


def why_no_triton(device_type: str) -> str | None:
    """None where tensors are on an NVIDIA GPU that Triton knows and all that Triton needs is there, else the reason."""
    if device_type != "cuda":
        return f"its kernels run on NVIDIA GPUs; the tensors are on {device_type}."
    import torch

    if torch.version.cuda is None:
        return "its kernels run on NVIDIA GPUs; this torch is not built for CUDA."
    if not torch.cuda.is_available():
        return "torch finds no CUDA device; see nvidia-smi."
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) < OLDEST:
        return f"the GPU has compute capability {major}.{minor}; the kernels need 8.0 or newer."
    if triton_version() is None:
        return "Triton is not installed (pip install triton)."
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        return "Triton needs a C compiler to launch kernels: install gcc or clang, or set CC."
    return None


def triton_version() -> str | None:
    """Of the Triton that would be imported; None where there is none."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def why_not_compiled(operation: str, capability: int, tensor_cores: bool) -> str | None:
    """None where all kernels of the operation compile for sm_<capability>, else the reason.

    Args:
        operation: "polar_products" or "scatter".
        capability: 90 for 9.0, and so on.
        tensor_cores: float64 products must be on tensor cores, which the GPU has.
    """
    code = f"from fastfid.kernels import probe; probe.answer({operation!r}, {capability}, {tensor_cores})"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    who = f"Triton {triton_version()}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{who} was not done compiling its kernels for sm_{capability} after {_PATIENCE:.0f} s."
    except OSError as error:
        return f"whether {who} compiles its kernels cannot be found out: {error}."
    if done.returncode == 0:
        reason = json.loads(done.stdout.splitlines()[-1])
        return None if reason is None else f"{who} {reason}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in lines if "ERROR" in line.upper()), lines[-1] if lines else "without a word")
    return f"{who} fails on its kernels for sm_{capability} (exit status {done.returncode}): {said[:300]}"


def answer(operation: str, capability: int, tensor_cores: bool) -> None:
    """Write the reason, or null, as JSON to stdout; for the process that ``why_not_compiled`` starts."""
    reason = None
    for name, *variant in variants(operation):
        try:
            ptx = compiled(capability, *variant).asm["ptx"]
        except Exception as error:  # Triton raises what its parser, its passes and LLVM raise
            reason = f"does not compile {name} for sm_{capability}: {_root(error)}."
            break
        if tensor_cores and "float64" in name and not on_tensor_cores(ptx):
            reason = f"compiles {name} for sm_{capability} without its float64 tensor cores."
            break
    sys.stdout.write(json.dumps(reason) + "\n")


def _root(error: BaseException) -> str:
    """What the first cause says; what is raised after it quotes the kernel's source."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


def on_tensor_cores(ptx: str) -> bool:
    """Whether it has a float64 product (DMMA)."""
    return ".f64.f64.f64.f64" in ptx


def compiled(capability: int, kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> Any:
    """Triton's compiled kernel for a GPU that need not be there.

    What is neither a pointer nor a constant is an int64, except sizes of one capital letter, which are int32.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {key: constants[key] for key in ("num_warps", "num_stages") if key in constants}
    fixed = {key: value for key, value in constants.items() if key not in options}
    signature = {name: "i32" if name.isupper() else "i64" for name in kernel.arg_names}
    signature |= {name: f"*{kind}" for name, kind in pointers.items()} | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def variants(operation: str) -> Iterator[Variant]:
    """The kernels of an operation as they are launched; those with float64 products say so in their names."""
    if operation == "polar_products":
        yield from _symmetric()
    elif operation == "scatter":
        yield from _scatter()
    else:
        raise ValueError(f"operation: {operation!r}; accepted: polar_products, scatter")


def _symmetric() -> Iterator[Variant]:
    from fastfid.kernels.symmetric import CONFIGS, _symmetric_product_kernel

    for dtype, config in CONFIGS.items():
        kind = str(dtype).removeprefix("torch.")
        pointers = dict.fromkeys(("x_ptr", "d_ptr", "c_ptr"), kind.replace("float", "fp"))
        for has_d in (False, True):
            name = f"the symmetric product in {kind}{' with an addend' if has_d else ''}"
            yield name, _symmetric_product_kernel, pointers, dict(config, HAS_D=has_d)


def _scatter() -> Iterator[Variant]:
    from fastfid.kernels.scatter import PRODUCTS, SUMS, _column_sums_kernel, _scatter_kernel

    order = {"order_ptr": "i64", "offsets_ptr": "i64"}
    sums = dict.fromkeys(("origin_ptr", "sums_ptr"), "fp64")
    yield "column sums", _column_sums_kernel, {**sums, **order, "x_ptr": "fp32"}, dict(SUMS, GROUPED=True)
    pointers = dict.fromkeys(("shift_ptr", "delta_ptr", "weight_ptr", "s_ptr"), "fp64") | order
    for element, grouped in (("fp32", False), ("fp32", True), ("bf16", True), ("fp16", True), ("fp64", True)):
        name = f"the float64 scatter of {element}, {'grouped' if grouped else 'one group'},"
        yield name, _scatter_kernel, dict(pointers, x_ptr=element), dict(PRODUCTS, GROUPED=grouped)
