"""What this installation is and can do: ``fastfid info``."""

from __future__ import annotations

import os
import platform

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastfid.errors import BackendUnavailableError
from fastfid.evaluation.results import versions
from fastfid.extractors import accepted_precisions, where_weights
from fastfid.runtime import dispatch as _dispatch
from fastfid.runtime import native as _native


def environment_table() -> RenderableType:
    """Versions, devices, each operation × backend (or why not), and the places where weights are looked for."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, version in versions().items():
        facts.add_row(name, version)
    facts.add_row("platform", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs")
    facts.add_row("compiled core", ", ".join(f"{key} {value}" for key, value in _native.build_info().items()) or "none")
    return Group(facts, Text(), _devices(), Text(), _backends(), Text(), _weights())


def _devices() -> RenderableType:
    table = Table(title="Devices", title_justify="left")
    table.add_column("device")
    table.add_column("what it is", overflow="fold")
    table.add_column("precisions of the network")
    able = ", ".join(accepted_precisions(torch.device("cpu")))
    table.add_row("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}", able)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"sm_{properties.major}{properties.minor}"
        what = f"{properties.name}, {capability}, {properties.total_memory / 2**30:.0f} GiB"
        table.add_row(f"cuda:{index}", what, ", ".join(accepted_precisions(torch.device("cuda", index))))
    if torch.cuda.device_count() == 0:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
        table.add_row("cuda", f"none: {built}")
    return table


def _backends() -> RenderableType:
    table = Table(title="Kernels", title_justify="left")
    for heading in ("operation", "device", "backend", "state"):
        table.add_column(heading, overflow="fold")
    for operation in _dispatch.BACKENDS:
        for device in ("cpu", "cuda"):
            used = _used(operation, device)
            for backend, reason in _dispatch.report(operation, device).items():
                state = "available, used" if backend == used else "available"
                shown = Text(state) if reason is None else Text(f"not available: {reason}", "dim")
                table.add_row(operation, device, backend, shown)
    return table


def _used(operation: str, device: str) -> str | None:
    """The backend that would run; None where none can, or where a variable names one that can't."""
    try:
        return _dispatch.backend_for(operation, device)
    except (BackendUnavailableError, ValueError):
        return None


def _weights() -> RenderableType:
    table = Table(title="Inception weights, in the order they are looked for", title_justify="left")
    table.add_column("place", overflow="fold")
    table.add_column("found")
    for place, found in where_weights():
        table.add_row(Text(place), "yes" if found else "no")
    return table
