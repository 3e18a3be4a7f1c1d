"""What the launcher says: which process of how many this is, and on which device."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from fastfid.distributed.patience import Patience
from fastfid.errors import BackendUnavailableError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_stores: dict[tuple[str, ...], Store] = {}
_seconds: dict[tuple[int, int], tuple[Store, Store]] = {}  # with the first, so that its id stays its own


def asked(distributed: bool | str) -> tuple[bool, bool]:
    """The argument of that name as (several processes, each with images of its own); ValueError where it is neither."""
    if distributed not in (False, True, "shared", "own"):
        raise ValueError(
            f"distributed={distributed!r}; accepted: False, True or 'shared' (all processes are given the same sets, "
            "which are divided), 'own' (what comes from Python is each process's own)"
        )
    return bool(distributed), distributed == "own"


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


def inherited_hint() -> str:
    """The way out for a command that is alone and only inherited the variables, as a sentence after a line."""
    return (
        f". RANK={os.environ['RANK']} and WORLD_SIZE={os.environ['WORLD_SIZE']} in the environment make this one of "
        f"{os.environ['WORLD_SIZE']} processes; if it was to run alone, unset them, or pass --alone "
        "(distributed=False)"
    )


def holder_of_store() -> str:
    """Who is silent when the store is, in words."""
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return f"the launcher's store at {where}" if store_of_agent() else f"rank 0, which holds the store at {where}"


def launcher_store(index: int, size: int, timeout_s: float, announce_s: float, hint: str) -> Store:
    """The store where the launcher's processes meet, connected once: to connect again takes 5 s now and then.

    Raises:
        RankError: nobody listens there in time.
    """
    from torch._C._distributed_c10d import TCPStore

    address, port, agent = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], store_of_agent()
    if not (port.isdecimal() and int(port) < 2**16):
        raise ValueError(f"distributed: MASTER_PORT={port!r}; accepted: a port, 0 to 65535")
    place = (address, port, str(index), str(size), str(os.getpid()))
    if place not in _stores:
        master = index == 0 and not agent
        if not master:
            nobody = Patience(
                "join",
                (index, size),
                timeout_s,
                announce_s,
                lambda: None if agent else [0],
                about=lambda _: f", which holds the store at {address}:{port}",
                hint=hint,
                holder=holder_of_store(),
            )
            while not _listens(address, int(port)):
                nobody.tick()
                time.sleep(0.1)
        _stores[place] = TCPStore(
            address,
            int(port),
            size,
            master,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=not agent,
        )
    _stores[place].set_timeout(timedelta(seconds=timeout_s))
    return _stores[place]


def beside(store: Store) -> Store:
    """A second connection to a ``launcher_store``, made once: gloo holds the first while it waits.

    The first itself where this torch can't; a rank that dies while it connects is then not named.
    """
    key = (id(store), os.getpid())
    if key not in _seconds:
        _seconds[key] = (store, store.clone() if hasattr(store, "clone") else store)
    return _seconds[key][1]


def store_of_agent() -> bool:
    """Whether torchrun's own process holds the store, as it does unless told otherwise."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2.0).close()
    except OSError:
        return False
    return True


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
