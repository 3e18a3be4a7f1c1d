"""Values to call things with: forms that mean the same, and wrong ones by kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from campaign.trial import pick

Generator = np.random.Generator
Array = np.ndarray[Any, Any]

# ── the same array in other forms ─────────────────────────────────────────────────────────────────────────────────────


def _strided(a: Array) -> Array:
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype) if a.ndim else a.copy()
    wide[..., ::2] = a
    return wide[..., ::2] if a.ndim else wide


def _readonly(a: Array) -> Array:
    b = a.copy()
    b.flags.writeable = False
    return b


def _unaligned(a: Array) -> Array:
    raw = np.empty(a.nbytes + 1, np.uint8)
    b = raw[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


def _inference(a: Array) -> torch.Tensor:
    with torch.inference_mode():
        return torch.from_numpy(a.copy()).clone()


FORMS: dict[str, Callable[[Array], Any]] = {
    "array": lambda a: a.copy(),
    "Fortran": np.asfortranarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": _strided,
    "read-only": _readonly,
    "unaligned": _unaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "tensor": lambda a: torch.from_numpy(a.copy()),
    "transposed tensor": lambda a: torch.from_numpy(np.ascontiguousarray(a.T)).T if a.ndim == 2 else torch.tensor(a),
    "expanded tensor": lambda a: torch.from_numpy(np.repeat(a[None], 2, 0))[1],
    "inference tensor": _inference,
}


def formed(rng: Generator, a: Array, *more: str) -> Any:
    """The same numbers as another kind of array (``more``: also as "list", "gradient" or "long double")."""
    extra: dict[str, Callable[[Array], Any]] = {
        "list": lambda x: x.tolist(),
        "gradient": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
        "long double": lambda x: x.astype(np.longdouble),
    }
    made = {**FORMS, **{name: extra[name] for name in more}}
    return made[pick(rng, made)](a)


# ── wrong arrays ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _spoiled(value: float) -> Callable[[Generator, Array], Any]:
    def make(rng: Generator, a: Array) -> Any:
        b = a.astype(a.dtype if a.dtype.kind == "f" else np.float64)
        b.flat[int(rng.integers(b.size))] = value
        return b if rng.integers(2) else torch.from_numpy(b)

    return make


def _masked(rng: Generator, a: Array) -> Any:
    mask = np.zeros(a.shape, bool)
    mask.flat[int(rng.integers(a.size))] = True
    return np.ma.MaskedArray(a.copy(), mask)


WRONG_ARRAYS: dict[str, Callable[[Generator, Array], Any]] = {
    "None": lambda _r, _a: None,
    "text": lambda _r, _a: "abc",
    "objects": lambda _r, a: a.astype(object),
    "complex": lambda _r, a: a + 0j,
    "complex tensor": lambda _r, a: torch.from_numpy(a + 0j),
    "strings": lambda _r, a: a.astype("U8"),
    "ragged": lambda _r, _a: [[1.0, 2.0], [3.0]],
    "dict": lambda _r, _a: {"a": 1},
    "NaN": _spoiled(np.nan),
    "infinity": _spoiled(np.inf),
    "minus infinity": _spoiled(-np.inf),
    "0-d": lambda _r, _a: np.float64(1.5),
    "an axis more": lambda _r, a: a[None, None, None],
    "empty": lambda _r, a: a[..., :0],
    "masked": _masked,
    "times": lambda _r, a: a.astype("M8[s]"),
    "records": lambda _r, a: np.zeros(a.shape, [("x", "f8")]),
    "sparse tensor": lambda _r, a: torch.from_numpy(a.copy()).to_sparse(),
    "meta tensor": lambda _r, a: torch.empty(a.shape, dtype=torch.float64, device="meta"),
    "function": lambda _r, _a: len,
}


def wrong_array(rng: Generator, a: Array, but: tuple[str, ...] = ()) -> tuple[str, Any]:
    """(what is wrong with it, the value)."""
    name = pick(rng, [one for one in WRONG_ARRAYS if one not in but])
    return name, WRONG_ARRAYS[name](rng, a)


# ── wrong scalars ─────────────────────────────────────────────────────────────────────────────────────────────────────

NOT_NUMBERS: dict[str, Any] = {
    "text": "3",
    "list": [3],
    "dict": {},
    "complex": 3j,
    "object": object(),
    "array": np.arange(2),
    "bytes": b"3",
}


def wrong_integer(rng: Generator, least: int, *, none: bool = True) -> tuple[str, Any]:
    """What is no whole number of at least ``least``; None counts as wrong where ``none``."""
    made = {
        **NOT_NUMBERS,
        "float": 2.5,
        "NaN": float("nan"),
        "too small": least - 1,
        "far too small": -(2**63) - 1,
        "True": True,
    }
    if none:
        made["None"] = None
    name = pick(rng, made)
    return name, made[name]


HUGE = {"2**31": 2**31, "2**62": 2**62, "2**63": 2**63, "2**64": 2**64, "10**30": 10**30}


def huge_integer(rng: Generator) -> tuple[str, int]:
    name = pick(rng, HUGE)
    return name, HUGE[name]


def wrong_choice(rng: Generator, *, none: bool = True) -> tuple[str, Any]:
    made: dict[str, Any] = {
        "unknown": "nonsense",
        "empty": "",
        "number": 3,
        "bytes": b"auto",
        "list": ["auto"],
        "dict": {},
        "NUL": "a\0b",
        "surrogate": "\udcff",
        "array": np.array(["auto", "svd"]),
    }
    if none:
        made["None"] = None
    name = pick(rng, made)
    return name, made[name]


def wrong_device(rng: Generator, *, meta: bool = True) -> tuple[str, Any]:
    """What is no device; "meta" counts where values are needed."""
    made: dict[str, Any] = {
        "unknown": "nonsense",
        "empty": "",
        "float": 2.5,
        "list": ["cpu"],
        "cuda:99": "cuda:99",
        "text": "cpu:-3",
        "dict": {},
    }
    if meta:
        made["meta"] = "meta"
    name = pick(rng, made)
    return name, made[name]


def wrong_positive(rng: Generator, *, none: bool = True) -> tuple[str, Any]:
    """What is no positive number."""
    made = {**NOT_NUMBERS, "NaN": float("nan"), "minus": -1e-3}
    if none:
        made["None"] = None
    name = pick(rng, made)
    return name, made[name]
