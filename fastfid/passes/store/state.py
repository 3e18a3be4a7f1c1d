"""Where a pass over an image set stands: ``PassState``, and its form in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.errors import BadImageError, CacheError
from fastfid.passes.store.tensorfile import TensorFile
from fastfid.runtime.files import reading

_RECORD = "record"


@dataclass(frozen=True)
class PassState:
    """The state of a pass between two batches; everything that is needed to go on as if nothing had happened.

    Attributes:
        moments: ``Moments.state()``.
        read: images that were read or skipped: where the pass goes on.
        seconds: wall time so far.
        rest: rows [k, d] that wait for a whole block of the protocol, or None.
        skipped: the images that could not be read.
        notes: the source's notes so far.
        kept: rows [n, d], the features so far, where they are wanted and kept nowhere else, or None.
    """

    moments: Mapping[str, Any]
    read: int
    seconds: float
    rest: torch.Tensor | None = None
    skipped: tuple[BadImageError, ...] = ()
    notes: tuple[str, ...] = ()
    kept: torch.Tensor | None = None


def to_arrays(state: PassState, **more: Any) -> dict[str, NDArray[Any]]:
    """The state as arrays for a file: its tensors, and all the rest as JSON in "record".

    Raises:
        TypeError: the state holds what neither a tensor nor JSON is.
    """
    arrays: dict[str, NDArray[Any]] = {}
    facts = {**vars(state), "skipped": [[bad.name, bad.reason, bad.source] for bad in state.skipped], **more}
    record = json.dumps(_packed(facts, "state", arrays)).encode()
    return {**arrays, _RECORD: np.frombuffer(record, dtype=np.uint8)}


def from_file(file: TensorFile) -> tuple[PassState, dict[str, Any]]:
    """What ``to_arrays`` was given: the state, and ``more``. Tensors come back on the CPU.

    Raises:
        CacheError: the file is damaged or holds no state of a pass.
    """
    said = "{place!r} holds no state of a pass that this fastfid understands: {reason}"
    with reading(file.path, error=CacheError, say=said):
        facts = _unpacked(json.loads(file.array(_RECORD).tobytes()), file)
        made = {name: facts.pop(name) for name in PassState.__dataclass_fields__ if name != "kept" or name in facts}
        made["skipped"] = tuple(BadImageError(*bad) for bad in made["skipped"])
        made["notes"] = tuple(made["notes"])
        if type(made["read"]) is not int or made["read"] < 0 or not isinstance(made["moments"], dict):
            raise ValueError(f"its pass has read {made['read']!r} images into a {type(made['moments']).__name__}")
        return PassState(**made), facts


def _packed(value: Any, name: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """``value`` as JSON in which a tensor is the name that it has among ``arrays``."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        tensor = isinstance(value, torch.Tensor)
        arrays[name] = value.detach().cpu().contiguous().numpy() if isinstance(value, torch.Tensor) else value
        return {"tensor" if tensor else "array": name}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{name}: a key {wrong[0]!r}; accepted: strings")
        return {"map": {key: _packed(inner, f"{name}.{key}", arrays) for key, inner in value.items()}}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(inner, f"{name}.{index}", arrays) for index, inner in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{name}: {type(value).__name__}; accepted: tensors, arrays, numbers, strings, None, dicts, lists")


def _unpacked(value: Any, file: TensorFile) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "map":
        return {key: _unpacked(item, file) for key, item in inner.items()}
    if kind in ("list", "tuple"):
        items = [_unpacked(item, file) for item in inner]
        return items if kind == "list" else tuple(items)
    array = file.array(inner).copy()
    return torch.from_numpy(array) if kind == "tensor" else array
