"""Ambient switches of torch, NumPy, Pillow and the process, any of them at once: the same bits as without them."""

from __future__ import annotations

import contextlib
import functools
import gc
import locale
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageFile

import fastfid
from campaign import truths
from campaign.fuzz_calls import SETTINGS, pictures
from campaign.trial import Entry, Fault, pick, said, unchanged

Generator = np.random.Generator


@contextlib.contextmanager
def _set(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def _precision(value: Any) -> Any:
    return lambda: _set(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, value)


def _locale() -> Any:
    names = [name for name in ("de_DE.UTF-8", "tr_TR.UTF-8", "C.UTF-8", "C") if _has(name)]
    return _set(lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name), names[0])


def _has(name: str) -> bool:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_ALL, before)
    return True


def _deterministic() -> Any:
    return _set(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True)


def _raising() -> Any:
    return np.errstate(all="raise")


def _no_gc() -> Any:
    return _set(gc.isenabled, lambda on: gc.enable() if on else gc.disable(), False)


def _umask() -> Any:
    before = os.umask(0o22)
    os.umask(before)
    return _set(lambda: before, os.umask, 0o777)


SWITCHES: dict[str, Callable[[], Any]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "default float64": lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default bfloat16": lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "default float16": lambda: _set(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "default device meta": lambda: torch.device("meta"),
    "deterministic": _deterministic,
    "matmul medium": _precision("medium"),
    "matmul high": _precision("high"),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "no mkldnn": lambda: torch.backends.mkldnn.flags(enabled=False),
    "NumPy errors raise": _raising,
    "NumPy prints two digits": lambda: np.printoptions(precision=2, threshold=3),
    "Pillow's limit of ten": lambda: mock.patch.object(Image, "MAX_IMAGE_PIXELS", 10),
    "Pillow takes truncated": lambda: mock.patch.object(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    "locale": _locale,
    "no garbage collection": _no_gc,
    "umask 777": _umask,
    "another folder": lambda: _set(os.getcwd, os.chdir, "/"),
    "warnings are errors": lambda: _strict(),
    "no terminal width": lambda: mock.patch.dict(os.environ, {"COLUMNS": "1", "NO_COLOR": "1", "TERM": "dumb"}),
}


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Everything but fastfid's own warnings is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", fastfid.errors.FastFIDWarning)
        yield


# ── what is called ────────────────────────────────────────────────────────────────────────────────────────────────────


def _moments() -> Any:
    made = fastfid.Moments()
    for part in np.split(_features(), (3, 20)):
        made.update(part)
    return made


def _features() -> Any:
    return np.random.default_rng(3).normal(size=(30, 6)).astype(np.float32)


def _grouped() -> Any:
    made = fastfid.GroupedMoments(3)
    made.update(_features(), np.arange(30) % 3)
    return [made.moments(group).scatter for group in range(3)]


def _evaluator() -> Any:
    one = fastfid.Evaluator(_images(0), **SETTINGS)
    one.update(_images(1))
    return float(one.compute())


@functools.cache
def _images(seed: int) -> Any:
    return pictures(np.random.default_rng(seed), 20)


@functools.cache
def _pair() -> Any:
    rng = np.random.default_rng(8)
    return rng.normal(size=6), truths.covariance(rng, 6), rng.normal(size=6), truths.covariance(rng, 6, 4)


def _loss() -> Any:
    with torch.enable_grad():
        x = torch.from_numpy(_features()).requires_grad_()
        value = fastfid.frechet_loss(x, _pair()[:2])
    return value.detach()


CALLS: dict[str, Callable[[], Any]] = {
    "frechet": lambda: [float(v) for v in _three(fastfid.frechet(*_pair()))],
    "frechet certified": lambda: [float(v) for v in _three(fastfid.frechet(*_pair(), certify=True))],
    "frechet newton-schulz": lambda: [float(v) for v in _three(fastfid.frechet(*_pair(), method="newton-schulz"))],
    "frechet_distance": lambda: fastfid.frechet_distance(*_pair()),
    "frechet_loss": _loss,
    "sqrtm": lambda: fastfid.sqrtm(_pair()[1]),
    "sqrtm of a product": lambda: fastfid.sqrtm(_pair()[1], _pair()[3]),
    "polar": lambda: list(fastfid.polar(_features())[:2]),
    "nuclear_norm": lambda: list(fastfid.nuclear_norm(_features(), bounds=True)),
    "trace_sqrtm_product": lambda: fastfid.trace_sqrtm_product(_pair()[1], _pair()[3]),
    "Moments": lambda: [_moments().mean, _moments().scatter],
    "GroupedMoments": _grouped,
    "frechet_moments": lambda: float(fastfid.frechet_moments(_moments(), _moments())),
    "resize_normalize": lambda: fastfid.resize_normalize(torch.from_numpy(_images(0)).cpu(), (5, 7), scale=0.5),
    "resize_normalize of a list": lambda: fastfid.resize_normalize(list(_images(0)), (5, 7)),
    "fid": lambda: [float(v) for v in _three(fastfid.fid(_images(0), _images(1), **SETTINGS))],
    "Evaluator": _evaluator,
    "as_extractor": lambda: fastfid.as_extractor(torch.nn.Flatten())(torch.from_numpy(_features()[:2, :3, None, None])),
}


def _three(result: Any) -> tuple[Any, Any, Any]:
    return result, result.lower, result.upper


def bits(value: Any) -> Any:
    """Dtype and bytes."""
    if isinstance(value, (list, tuple)):
        return [bits(one) for one in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().clone().numpy().tobytes()
    return type(value).__name__, np.asarray(value).tobytes()


@functools.cache
def plain(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bits(CALLS[name]())


def run(rng: Generator, _: Path) -> None:
    name = pick(rng, CALLS)
    want = plain(name)
    chosen = sorted({pick(rng, SWITCHES) for _ in range(int(2 ** rng.integers(0, 3)))})
    label = f"{name} under {', '.join(chosen)}" if len(chosen) == 1 else f"{name} under several switches"
    with unchanged(label), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.ExitStack() as stack:
            for one in chosen:
                stack.enter_context(SWITCHES[one]())
            try:
                value = CALLS[name]()
            except Exception as error:
                raise Fault(f"{label}: {type(error).__name__}", f"{chosen} {said(error)}") from error
        got = bits(value)
    if got != want:
        raise Fault(f"{label}: other bits", f"{chosen}")


ENTRIES = [Entry("ambient/switches", run)]
