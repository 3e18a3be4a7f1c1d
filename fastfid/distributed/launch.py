"""What the launcher says: which process of how many this is, and on which device."""

from __future__ import annotations

import os

import torch

from fastfid.errors import BackendUnavailableError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def under_launcher() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process as one of several."""
    return all(os.environ.get(name) for name in _VARIABLES) and os.environ["WORLD_SIZE"] != "1"


def launcher_place() -> tuple[int, int]:
    """RANK and WORLD_SIZE as torchrun sets them."""
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"distributed: there is no torch.distributed process group, and {', '.join(missing)} not set; start the "
            "processes with torchrun, or call init_process_group first"
        )
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ValueError(f"distributed: RANK={rank!r}, WORLD_SIZE={size!r}; accepted: whole numbers, 0 ≤ RANK < SIZE")
    return int(rank), int(size)


def local_device(asked: str | torch.device) -> str | torch.device:
    """The GPU of this process where several run on a machine: "auto" and "cuda" become "cuda:LOCAL_RANK".

    Anything else, and everything where there is no GPU or no LOCAL_RANK, comes back as it is.

    Raises:
        BackendUnavailableError: LOCAL_RANK is beyond the GPUs that this process sees.
    """
    rank = os.environ.get("LOCAL_RANK", "")
    if str(asked) not in ("auto", "cuda") or not rank.isdecimal() or not torch.cuda.is_available():
        return asked
    count = torch.cuda.device_count()
    if int(rank) >= count:
        raise BackendUnavailableError(
            f"device={str(asked)!r}: process {rank} of this machine (LOCAL_RANK) finds {count} GPUs; start one process "
            "per GPU, or name the device that all shall share, such as cuda:0"
        )
    return f"cuda:{rank}"
