"""One trial: a call with a typed expectation, and everything that must be as before afterwards."""

from __future__ import annotations

import locale
import os
import random
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

from fastfid.errors import FastFIDWarning


class Fault(AssertionError):
    """A promise that was not kept.

    Attributes:
        what: the kind in a few words, the same for every seed that shows it.
        detail: what came, for the report.
    """

    def __init__(self, what: str, detail: str = "") -> None:
        super().__init__(f"{what}: {detail}" if detail else what)
        self.what, self.detail = what, detail


@dataclass(frozen=True)
class Entry:
    """Something to be tried over and over.

    Attributes:
        name: "fuzz/frechet", "files/statistics npz", …: the kind, and what of it.
        run: makes one trial from a generator, in a scratch folder of its own; raises Fault. May return how often
            something was done in it (a process killed), where that is not once.
        covers: the public names or commands that it tries.
    """

    name: str
    run: Callable[[np.random.Generator, Path], int | None]
    covers: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.name.split("/", 1)[0]


def pick(rng: np.random.Generator, options: Any) -> Any:
    """One of a sequence or of a mapping's keys, without NumPy's conversions."""
    listed = list(options)
    return listed[int(rng.integers(len(listed)))]


def returns(function: Callable[..., Any], *args: Any, label: str, **kwargs: Any) -> Any:
    """The value of a call whose arguments are as documented; anything else is a Fault."""
    with unchanged(label, args, kwargs), warnings.catch_warnings():
        warnings.simplefilter("ignore", FastFIDWarning)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise Fault(f"{label}: refused or failed: {type(error).__name__}", said(error)) from error


def refuses(
    function: Callable[..., Any],
    *args: Any,
    label: str,
    names: tuple[str, ...],
    errors: tuple[type[BaseException], ...] = (ValueError, TypeError),
    **kwargs: Any,
) -> None:
    """A call with one wrong argument: ValueError or TypeError that names it (any of ``names``)."""
    with unchanged(label, args, kwargs), warnings.catch_warnings():
        warnings.simplefilter("ignore", FastFIDWarning)
        try:
            got = function(*args, **kwargs)
        except errors as error:
            if not any(name in str(error) for name in names):
                raise Fault(f"{label}: {type(error).__name__} that does not name {names[0]}", said(error)) from error
        except Exception as error:
            raise Fault(f"{label}: {type(error).__name__}", said(error)) from error
        else:
            raise Fault(f"{label}: accepted", f"gave {got!r:.200}")


def either(
    function: Callable[..., Any], *args: Any, label: str, check: Callable[[Any], None] = lambda _: None, **kwargs: Any
) -> None:
    """A call at the end of what can be done: the right value, or ValueError (TypeError) and nothing else."""
    with unchanged(label, args, kwargs), warnings.catch_warnings():
        warnings.simplefilter("ignore", FastFIDWarning)
        try:
            got = function(*args, **kwargs)
        except (ValueError, TypeError):
            return
        except Exception as error:
            raise Fault(f"{label}: {type(error).__name__}", said(error)) from error
    check(got)


def require(condition: Any, what: str, detail: str = "") -> None:
    if not condition:
        raise Fault(what, detail)


def close(got: Any, want: Any, tolerance: float, label: str) -> None:
    """|got − want| ≤ tolerance everywhere, and no NaN."""
    g, w = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    require(g.shape == w.shape, f"{label}: wrong shape", f"{g.shape}, not {w.shape}")
    gap = float(np.abs(g - w).max()) if g.size else 0.0
    require(gap <= tolerance, f"{label}: wrong value", f"off by {gap:.3g}, allowed {tolerance:.3g}")


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


class unchanged:  # reads as a statement
    """Fault where the block changes its inputs or anything that belongs to the whole process."""

    def __init__(self, label: str, *inputs: Any) -> None:
        self.label, self.inputs = label, inputs

    def __enter__(self) -> None:
        self.bytes, self.state = frozen(self.inputs), process_state()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and issubclass(kind, Fault):
            return
        if frozen(self.inputs) != self.bytes:
            raise Fault(f"{self.label}: modified its input")
        now = process_state()
        changed = [name for name, value in now.items() if value != self.state[name]]
        if changed:
            restore(self.state)
            raise Fault(f"{self.label}: changed {', '.join(changed)}", f"{changed[0]} is now {now[changed[0]]!r:.100}")


def frozen(value: Any, depth: int = 0) -> Any:
    """The content of arrays and tensors, however deep they lie in containers."""
    if isinstance(value, np.ma.MaskedArray):
        return value.data.tobytes(), np.ma.getmaskarray(value).tobytes()
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.strides, None if value.dtype.hasobject else value.tobytes()
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            return value.shape, value.dtype
        content = value.detach().double().numpy().tobytes() if value.dtype == torch.bfloat16 else _content(value)
        return value.shape, value.stride(), value.dtype, content, value.requires_grad
    if depth < 4 and isinstance(value, (list, tuple)):
        return tuple(frozen(one, depth + 1) for one in value)
    if depth < 4 and isinstance(value, Mapping):
        return tuple((str(key), frozen(one, depth + 1)) for key, one in value.items())
    return None


def _content(tensor: torch.Tensor) -> bytes:
    return tensor.detach().resolve_conj().resolve_neg().numpy().tobytes()


def process_state() -> dict[str, Any]:
    """Whatever a library could leave changed behind it."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # the global generator is what must not move
    return {
        "torch RNG": bytes(torch.get_rng_state()[:64].numpy()) + bytes(torch.get_rng_state()[-24:].numpy()),
        "numpy RNG": (numpy_state[2], int(numpy_state[1][0]), int(numpy_state[1][-1])),
        "random": hash(random.getstate()),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "cuDNN flags": (torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled),
        "numpy errors": tuple(np.geterr().items()),
        "warning filters": len(warnings.filters),
        "Pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "folder": os.getcwd(),  # noqa: PTH109  # as cheap as it gets
        "umask": _umask(),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": tuple(signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)),
    }


def _umask() -> int:
    now = os.umask(0o22)
    os.umask(now)
    return now


def restore(state: Mapping[str, Any]) -> None:
    """Put back what would spoil later trials."""
    torch.set_default_dtype(state["default dtype"])
    torch.set_num_threads(state["threads"])
    torch.set_grad_enabled(state["grad mode"][0])
    torch.use_deterministic_algorithms(state["deterministic"])
    torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled, _ = state["cuDNN flags"]
    np.seterr(**dict(state["numpy errors"]))
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = state["Pillow"]
    os.chdir(state["folder"])
    os.umask(state["umask"])
