"""Settings of the whole process that tests change: read before the first test, put back behind every one.

So no test depends on which ran before it: `torch.set_float32_matmul_precision("highest")` alone leaves oneDNN's
products at "ieee" where they began at "none".
"""

from __future__ import annotations

import locale
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile

BACKENDS: Any = torch.backends
NEWER = hasattr(torch.backends.cudnn, "conv")
"""torch 2.9 and later."""

Switch = tuple[Callable[[], Any], Callable[[Any], Any]]


def _attribute(holder: Any, name: str) -> Switch:
    return lambda: getattr(holder, name), lambda value: setattr(holder, name, value)


SWITCHES: dict[str, Switch] = {  # those that others inherit from, or that write others, come first
    "folder": (os.getcwd, os.chdir),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    "NumPy errors": (np.geterr, lambda value: np.seterr(**value)),
    "Pillow limit": _attribute(Image, "MAX_IMAGE_PIXELS"),
    "Pillow truncated": _attribute(ImageFile, "LOAD_TRUNCATED_IMAGES"),
    "dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "device": (torch.get_default_device, torch.set_default_device),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "benchmark": _attribute(BACKENDS.cudnn, "benchmark"),
    "deterministic cuDNN": _attribute(BACKENDS.cudnn, "deterministic"),
    "cuDNN": _attribute(BACKENDS.cudnn, "enabled"),
    "matmul": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "allow_tf32": _attribute(BACKENDS.cudnn, "allow_tf32"),
}
if NEWER:
    SWITCHES |= {
        f"fp32_precision of {name}": _attribute(holder, "fp32_precision")
        for name, holder in {
            "all": BACKENDS,
            "cudnn": BACKENDS.cudnn,
            "cudnn.conv": BACKENDS.cudnn.conv,
            "cudnn.rnn": BACKENDS.cudnn.rnn,
            "cuda.matmul": BACKENDS.cuda.matmul,
            "mkldnn": BACKENDS.mkldnn,
            "mkldnn.conv": BACKENDS.mkldnn.conv,
            "mkldnn.rnn": BACKENDS.mkldnn.rnn,
            "mkldnn.matmul": BACKENDS.mkldnn.matmul,
        }.items()
    }


def settings() -> dict[str, Any]:
    """Every switch; what raises, as torch's older ones do once the newer are in use, is noted as "mixed"."""
    found = {}
    for name, (read, _) in SWITCHES.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "mixed"
    return found


def put_back(wanted: dict[str, Any]) -> None:
    """Write all where one differs; twice, for writing one may change another."""
    for _ in range(2):
        if settings() == wanted:
            return
        for name, (_, write) in SWITCHES.items():
            write(wanted[name])
