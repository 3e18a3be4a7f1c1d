"""How Moments leave the process: an ``.npz``, written whole or not at all and read without unpickling, or a state."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from fastfid import _metadata
from fastfid._output import Target

_FORMAT = 1

_STATE = ("n", "dim", "mean", "scatter", "rows", "cov", "seen", "keep_rows", "metadata")


def write(
    path: str | os.PathLike[str],
    mean: torch.Tensor,
    sigma: torch.Tensor,
    rows: torch.Tensor | None,
    *,
    n: int | None,
    ddof: int,
    metadata: dict[str, Any],
) -> None:
    """Put statistics into the file ``path``, taken literally; OutputError where that fails."""
    arrays: dict[str, Any] = {
        "mu": mean.cpu().numpy(),
        "sigma": sigma.cpu().numpy(),
        "ddof": np.array(ddof),
        "metadata": np.array(json.dumps(metadata)),
        "format": np.array(_FORMAT),
    }
    if n is not None:
        arrays["n"] = np.array(n)
    if rows is not None:
        arrays["rows"] = rows.cpu().numpy()
    with Target(path).writing() as file:
        np.savez(file, **arrays)


class Found(NamedTuple):
    """What a file says; ``n`` is None where it doesn't say, ``rows`` where it doesn't hold the samples."""

    mean: Any
    sigma: Any
    rows: Any
    n: int | None
    ddof: int
    metadata: dict[str, Any]


def read(path: str | os.PathLike[str], keys: tuple[str, str]) -> Found:
    """The statistics in an ``.npz`` that has both ``keys``; ValueError where it isn't one."""
    name = os.fspath(path)
    with Path(path).open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"path: {name} cannot be read as .npz: {error}") from error
        if not isinstance(archive, NpzFile):
            raise ValueError(f"path: {name} holds a single array; accepted: .npz with {keys[0]} and {keys[1]}")
        missing = [key for key in keys if key not in archive.files]
        if missing:
            raise ValueError(f"path: {name} has no {' and no '.join(missing)}; it holds {', '.join(archive.files)}")
        try:
            return _found(archive, keys)
        except ValueError as error:
            raise ValueError(f"path: {name}: {error}") from error


def _found(archive: NpzFile, keys: tuple[str, str]) -> Found:
    described = {"format", "metadata"} <= set(archive.files)
    ours = described and {"n", "ddof"} <= set(archive.files) and keys == ("mu", "sigma")
    rows = archive["rows"] if ours and "rows" in archive.files else None
    n, ddof = (int(archive["n"]), int(archive["ddof"])) if ours else (None, 1)
    metadata = _metadata.parsed(str(archive["metadata"])) if described else {}
    return Found(archive[keys[0]], archive[keys[1]], rows, n, ddof, metadata)


def checked_state(state: Mapping[str, Any]) -> tuple[int | None, int | None, dict[str, torch.Tensor]]:
    """(n, dim, the tensors that are there) of what ``Moments.state`` returned; ValueError for anything else."""
    missing = [key for key in _STATE if key not in state]
    if missing:
        raise ValueError(f"state: without {', '.join(missing)}; accepted: what Moments.state() returned")
    n, d = state["n"], state["dim"]
    shapes = {"mean": (d,), "scatter": (d, d), "cov": (d, d), "rows": (n, d)}
    given = {key: state[key] for key in shapes if state[key] is not None}
    for key, tensor in given.items():
        if tuple(tensor.shape) != shapes[key] or tensor.dtype != torch.float64:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(f"state: {key} is {found}; accepted: torch.float64 {list(shapes[key])}")
    return n, d, given
