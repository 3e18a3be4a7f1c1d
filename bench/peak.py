"""Peak memory of one call beyond its inputs: GPU memory from torch's allocator, host memory in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from cases import Case, load

SCRIPT = Path(__file__).resolve()


def resident_peak() -> int:
    """Most bytes of memory this process ever held.

    VmHWM, not ru_maxrss: the latter also remembers the process that this one was started from.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # a kernel that does not count it


def peak_bytes(case: Case, variant: str, device: torch.device) -> int:
    """What one call of a variant allocates at its worst, inputs left out, its result included."""
    if device.type != "cuda":
        words = [sys.executable, str(SCRIPT), case.op, case.name, variant]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout))
    assert case.inputs is not None
    case.inputs()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    case.variants[variant]()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _alone(op: str, name: str, variant: str) -> int:
    """In the process of its own: inputs first, then the growth of the resident peak during the call."""
    (case,) = [case for case in load(torch.device("cpu"), op) if case.name == name]
    assert case.inputs is not None
    torch.set_num_threads(case.threads or torch.get_num_threads())
    case.inputs()
    before = resident_peak()
    case.variants[variant]()
    return resident_peak() - before


if __name__ == "__main__":
    print(json.dumps(_alone(*sys.argv[1:])))
