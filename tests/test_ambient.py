"""Torch's, NumPy's and the process's own switches change no number, and are found as they were left."""

from __future__ import annotations

import contextlib
import copy
import decimal
import gc
import hashlib
import json
import locale
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import child
import numpy as np
import pytest
import torch
from images import photos
from PIL import Image, ImageFile
from random_inception import shared_state

import fastfid
from fastfid.extractors.adapters import _Inception, as_extractor
from fastfid.extractors.weights import WeightsInfo
from fastfid.runtime import arithmetic as _arithmetic

pytestmark = pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")

REAL, MADE = photos(14, 20, 24), (photos(25, 20, 24)[14:] // 2 + 40).astype(np.uint8)


class Means(torch.nn.Module):
    """12 features of an image: means over its quarters, through a product whose dtype autocast would change."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.linspace(-1, 1, 144, dtype=torch.float32, device="cpu").view(12, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) @ self.turn


MEANS = Means()
INCEPTION = _Inception(
    shared_state(), WeightsInfo(None, "0" * 64, "argument", False, "shared"), ("64",), "fp32", True, None
)(torch.device("cpu"))


def workload() -> dict[str, Any]:
    """Numbers of every part, from data that ambient switches do not reach; exact, as hexadecimal or digests."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((40, 12)), rng.standard_normal((30, 12)).astype(np.float32) + 0.5
    few = rng.standard_normal((7, 12))
    mean, sigma, other = x.mean(0), np.cov(x.T), np.cov(y.T)
    found: dict[str, Any] = {}

    def keep(name: str, *values: Any) -> None:
        digest = hashlib.sha256()
        for value in values:
            array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        found[name] = digest.hexdigest()[:16]

    for certify in (False, True):
        made = fastfid.frechet(mean, sigma, mean + 1, other, certify=certify)
        keep(f"frechet {certify}", made.value, made.lower, made.upper)
    keep("sqrtm", fastfid.sqrtm(sigma), fastfid.sqrtm(sigma, other), fastfid.sqrtm(sigma @ other))
    keep("trace", fastfid.trace_sqrtm_product(sigma, other))
    keep("nuclear", *fastfid.nuclear_norm(few, bounds=True), fastfid.nuclear_norm(few, method="newton-schulz"))
    keep("polar", *fastfid.polar(few)[:2])
    moments = fastfid.Moments()
    for part in (x[:5], x[5:20], x[20:]):
        moments.update(part)
    keep("moments", moments.mean, moments.cov())
    second = fastfid.Moments.from_features(torch.from_numpy(y))
    keep("few", fastfid.frechet_moments(moments, fastfid.Moments.from_features(few)).value)
    second.merge(moments)
    keep("merged", second.mean, second.scatter)
    grouped = fastfid.GroupedMoments(3)
    grouped.update(x, np.arange(40) % 3)
    keep("grouped", *(grouped.moments(g).cov() for g in range(3)))
    with torch.inference_mode(False), torch.enable_grad():
        features = torch.from_numpy(x).requires_grad_()
        loss = fastfid.frechet_loss(features, (mean, other))
        loss.backward()
    keep("loss", loss, features.grad)
    images = torch.from_numpy(REAL)
    keep("resize", fastfid.resize_normalize(images, (29, 31), scale=1 / 128, bias=-1))
    keep("quantize", fastfid.resize_normalize(images, (9, 7), filter="lanczos3", quantize=True))
    keep("single", fastfid.resize_normalize(images, (33, 9), precision="single", filter="bilinear"))
    made = fastfid.fid(REAL, MADE, extractor=MEANS, device="cpu", batch_size=4, progress=False)
    keep("fid", made.value, made.lower, made.upper)
    evaluator = fastfid.Evaluator(REAL, extractor=MEANS, device="cpu", batch_size=4, progress=False)
    evaluator.update(torch.from_numpy(MADE).permute(0, 3, 1, 2))
    keep("evaluator", evaluator.compute().value)
    network = fastfid.fid(REAL[:2], MADE[:2], extractor=INCEPTION, device="cpu", batch_size=1, progress=False)
    keep("inception", network.value)
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return workload()


@contextlib.contextmanager
def attribute(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
        assert getattr(holder, name) == value, f"{name} was changed"
    finally:
        setattr(holder, name, before)


@contextlib.contextmanager
def called(write: Callable[[Any], Any], read: Callable[[], Any], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
        assert read() == value, f"{write.__name__} was changed"
    finally:
        write(before)


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
        assert torch.get_default_device().type == name
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic(warn_only: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def flush_denormal() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
        assert not gc.isenabled()
    finally:
        gc.enable()


class Watching(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def printing() -> Iterator[None]:
    with np.printoptions(precision=1, threshold=2):
        torch.set_printoptions(precision=1)
        yield
        torch.set_printoptions(profile="default")


@contextlib.contextmanager
def errors_raised() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield
        assert set(np.geterr().values()) == {"raise"}


@contextlib.contextmanager
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", fastfid.errors.FastFIDWarning)
        yield


def cudnn(name: str, value: bool) -> Callable[[], Any]:
    return lambda: attribute(torch.backends.cudnn, name, value)


SWITCHES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    **{
        f"default dtype {dtype}": (lambda dtype=dtype: called(torch.set_default_dtype, torch.get_default_dtype, dtype))
        for dtype in (torch.float64, torch.float16, torch.bfloat16)
    },
    "default device": lambda: default_device("meta"),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "deterministic": lambda: deterministic(False),
    "deterministic, warnings": lambda: deterministic(True),
    "fill": lambda: attribute(torch.utils.deterministic, "fill_uninitialized_memory", False),
    "flush denormal": flush_denormal,
    "benchmark": cudnn("benchmark", True),
    "cuDNN deterministic": cudnn("deterministic", True),
    "cuDNN off": cudnn("enabled", False),
    "function mode": Watching,
    "anomaly": torch.autograd.detect_anomaly,
    "print options": printing,
    "seterr raise": errors_raised,
    "warnings are errors": warnings_are_errors,
    "gc off": without_gc,
    "decimal": lambda: decimal.localcontext(decimal.Context(prec=1)),
    "recursion": lambda: called(sys.setrecursionlimit, sys.getrecursionlimit, 400),
    "Pillow's limit": lambda: attribute(Image, "MAX_IMAGE_PIXELS", 1),
    "Pillow, truncated": lambda: attribute(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    "start method": lambda: called(
        lambda m: multiprocessing.set_start_method(m, force=True),
        lambda: multiprocessing.get_start_method(allow_none=True),
        "spawn",
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_switch_changes_no_number(name: str, plain: dict[str, Any]) -> None:
    with SWITCHES[name]():
        assert workload() == plain


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_precision_of_products(precision: str, plain: dict[str, Any]) -> None:
    """That of a caller's own network is the caller's; the Inception network's is stated."""
    with called(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, precision):
        found = workload()
    differing = {key for key in plain if found[key] != plain[key]}
    assert differing <= {"fid", "evaluator"}


def test_random_state_is_not_consumed() -> None:
    def states() -> tuple[Any, ...]:
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate(), legacy, torch.get_rng_state().tolist()

    before = states()
    workload()
    assert states() == before


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_of_another_number(threads: int, plain: dict[str, Any]) -> None:
    with called(torch.set_num_threads, torch.get_num_threads, threads):
        found = workload()
    for key in ("resize", "quantize", "single"):
        assert found[key] == plain[key]


def test_no_switch_of_the_process_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass next to a training thread: whatever would write a global setting fails here."""

    def refuse(*_args: Any) -> None:
        raise AssertionError("a switch of the whole process was written")

    for backend in (torch.backends.cudnn, torch.backends.mkldnn, torch.backends.cuda.matmul, torch.backends):
        monkeypatch.setattr(type(backend), "__setattr__", refuse)
    for name in (
        "set_float32_matmul_precision",
        "set_num_threads",
        "set_default_dtype",
        "use_deterministic_algorithms",
    ):
        monkeypatch.setattr(torch, name, refuse)
    with _arithmetic.stated(torch.device("cuda")), _arithmetic.stated(torch.device("cpu")):
        pass
    workload()


def test_two_passes_at_once(plain: dict[str, Any]) -> None:
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(workload())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [plain, plain]


PROCESSES: dict[str, tuple[list[str], dict[str, str | None]]] = {
    "-OO, hash seed, C locale": (["-OO"], {"PYTHONHASHSEED": "7", "LC_ALL": "C", "PYTHONUTF8": "0"}),
    "decimal comma, no HOME, TZ, narrow": (
        ["-W", "ignore"],
        {"LC_ALL": "de_DE.UTF-8", "HOME": None, "TZ": "Pacific/Kiritimati", "COLUMNS": "1", "NO_COLOR": "1"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_another_process(name: str, plain: dict[str, Any], tmp_path: Path) -> None:
    """In a folder that can't be written to, with standard input closed and an odd umask."""
    flags, changes = PROCESSES[name]
    environment = {key: value for key, value in {**child.environment(), **changes}.items() if value is not None}
    code = (
        "import os, json, locale\n"
        "os.umask(0o777)\n"
        "try: locale.setlocale(locale.LC_ALL, '')\nexcept locale.Error: pass\n"
        f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"
        "import test_ambient\nfound = test_ambient.workload()\n"
        "os.write(1, json.dumps(found).encode())\n"
    )
    folder = tmp_path / "read only"
    folder.mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        preexec_fn=lambda: os.close(0),
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert json.loads(done.stdout) == plain


def test_a_locale_with_a_decimal_comma_is_left(plain: dict[str, Any]) -> None:
    before = locale.setlocale(locale.LC_ALL)
    assert workload() == plain
    assert locale.setlocale(locale.LC_ALL) == before


# ---- accumulators across modes --------------------------------------------------------------------------------------

MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "plain": contextlib.nullcontext,
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: deterministic(False),
    "float16": lambda: called(torch.set_default_dtype, torch.get_default_dtype, torch.float16),
    "meta": lambda: default_device("meta"),
}


@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("sizes", [(3, 4), (3, 40), (40, 3)], ids=str)
def test_accumulators_across_modes(first: str, second: str, sizes: tuple[int, int], rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((sum(sizes), 12)).astype(np.float32))
    ids = torch.from_numpy(np.arange(sum(sizes)) % 2)
    parts = (slice(0, sizes[0]), slice(sizes[0], None))
    made, want = [], []
    for modes, into in (((first, second), made), (("plain", "plain"), want)):
        moments: Any = None
        for mode, part in zip(modes, parts, strict=True):
            with MODES[mode]():
                if moments is None:
                    moments, grouped = fastfid.Moments(), fastfid.GroupedMoments(2)
                    other = fastfid.Moments.from_statistics(np.zeros(12), np.eye(12), 30)
                moments.update(x[part].clone())
                grouped.update(x[part].clone(), ids[part].clone())
                other.merge(moments)
        reference = fastfid.FrechetReference.from_moments(other)
        features = x[:7].double().requires_grad_()
        loss = fastfid.frechet_loss(features, reference)
        loss.backward()
        into.extend([moments.mean, moments.cov(), grouped.moments(1).cov(), other.cov(), loss.detach(), features.grad])
    for got, expected in zip(made, want, strict=True):
        assert torch.equal(got, expected)


def test_a_reference_factorised_in_inference_mode_serves_a_loss(rng: np.random.Generator) -> None:
    with torch.inference_mode():
        reference = fastfid.FrechetReference(np.zeros(5), np.eye(5))
        fastfid.frechet_many(reference, [(np.ones(5), np.diag(np.arange(1.0, 6.0)))])
    features = torch.from_numpy(rng.standard_normal((8, 5))).requires_grad_()
    fastfid.frechet_loss(features, reference).backward()
    assert features.grad is not None


# ---- pickle and copy ------------------------------------------------------------------------------------------------


def evaluator() -> fastfid.Evaluator:
    made = fastfid.Evaluator(REAL, extractor=MEANS, device="cpu", batch_size=4, progress=False)
    made.update(MADE[:5])
    return made


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_evaluator_goes_on_and_its_copy_is_its_own(way: str) -> None:
    one = evaluator()
    two = WAYS[way](one)
    half = one.compute().value
    assert two.compute().value == half
    two.update(MADE[5:])
    assert one.compute().value == half
    assert one.n == 5
    one.update(MADE[5:])
    assert one.compute().value == two.compute().value != half
    two.reset()
    assert (one.n, two.n) == (11, 0)


@pytest.mark.parametrize("way", WAYS)
def test_extractors(way: str, tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 3 * 80 * 80).view(1, 3, 80, 80)
    torch.jit.trace(MEANS, x).save(str(tmp_path / "net.pt"))
    for made in (INCEPTION, as_extractor(MEANS), as_extractor(tmp_path / "net.pt"), as_extractor(quarter)):
        again = WAYS[way](made)
        assert torch.equal(again(x), made(x))
        facts = ("name", "device", "taps", "weights", "precision", "official", "metric", "dim")
        assert [getattr(again, fact) for fact in facts] == [getattr(made, fact) for fact in facts]


def quarter(x: torch.Tensor) -> torch.Tensor:
    return x[:, :, ::40, ::40].flatten(1)


@pytest.mark.parametrize("way", WAYS)
def test_results_and_statistics(way: str, rng: np.random.Generator) -> None:
    go = WAYS[way]
    result = fastfid.fid(REAL, MADE, extractor=MEANS, device="cpu", progress=False)
    again = go(result)
    assert type(again) is type(result)
    assert again.to_dict() == result.to_dict()
    assert again.run == result.run
    assert go(result.run.ref) == result.run.ref
    bare = fastfid.frechet(np.zeros(2), np.eye(2), np.ones(2), np.eye(2) * 2)
    assert go(bare).to_dict() == bare.to_dict()
    assert go(fastfid.protocol("clean")) == fastfid.protocol("clean")
    x = rng.standard_normal((40, 6))
    for n in (3, 20):
        moments = fastfid.Moments.from_features(x[:n])
        grouped = fastfid.GroupedMoments(2)
        grouped.update(x[:n], np.arange(n) % 2)
        copies = go(moments), go(grouped)
        for one, other in ((moments, grouped), copies):
            one.update(x[n:])
            other.update(x[n:], np.arange(40 - n) % 2)
        assert torch.equal(copies[0].cov(), moments.cov())
        assert torch.equal(copies[1].moments(1).cov(), grouped.moments(1).cov())
    reference = fastfid.FrechetReference(np.zeros(6), np.cov(x.T))
    want = fastfid.frechet_many(reference, [(np.ones(6), np.eye(6))])[0].value
    assert fastfid.frechet_many(go(reference), [(np.ones(6), np.eye(6))])[0].value == want


def _finish(sent: fastfid.Evaluator) -> float:
    sent.update(MADE[5:])
    return sent.compute().value


@pytest.mark.slow
def test_an_evaluator_sent_to_a_spawned_process() -> None:
    one = evaluator()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sent = pool.apply(_finish, (one,))
    assert sent == _finish(one)


# ---- arrays of every kind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(a.dtype.newbyteorder()),
        np.asfortranarray,
        lambda a: np.flip(np.flip(a).copy()),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: a.view(type("Sub", (np.ndarray,), {})),
        lambda a: _frozen(a.copy()),
    ],
    ids=["byte order", "Fortran", "negative strides", "strides", "subclass", "read-only"],
)
def test_arrays_of_another_kind_hold_the_same_numbers(change: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 5))
    mean, sigma = x.mean(0), np.cov(x.T)
    assert torch.equal(fastfid.Moments.from_features(change(x)).cov(), fastfid.Moments.from_features(x).cov())
    want = fastfid.frechet_distance(mean, sigma, mean + 1, 2 * sigma)
    assert fastfid.frechet_distance(change(mean), change(sigma), mean + 1, 2 * sigma) == want
    np.testing.assert_array_equal(fastfid.sqrtm(change(sigma)), fastfid.sqrtm(sigma))
    ids = np.arange(30) % 3
    one, two = fastfid.GroupedMoments(3), fastfid.GroupedMoments(3)
    one.update(x, ids)
    two.update(change(x), change(ids))
    assert torch.equal(one.moments(2).cov(), two.moments(2).cov())
    images = [change(image) for image in REAL[:3]]
    assert torch.equal(fastfid.resize_normalize(images, (9, 9)), fastfid.resize_normalize(list(REAL[:3]), (9, 9)))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def test_masked_arrays_are_refused(rng: np.random.Generator) -> None:
    x = np.ma.masked_greater(rng.standard_normal((30, 5)), 1.0)
    images = np.ma.masked_equal(REAL, REAL[0, 0, 0, 0])
    square = np.ma.masked_array(np.eye(5), mask=np.eye(5))
    for call in (
        lambda: fastfid.Moments.from_features(x),
        lambda: fastfid.GroupedMoments(2).update(x, np.zeros(30, dtype=int)),
        lambda: fastfid.GroupedMoments(2).update(
            x.data, np.ma.masked_array(np.zeros(30, dtype=int), np.arange(30) == 3)
        ),
        lambda: fastfid.frechet_distance(np.zeros(5), square, np.zeros(5), np.eye(5)),
        lambda: fastfid.frechet_distance(square[0], np.eye(5), np.zeros(5), np.eye(5)),
        lambda: fastfid.sqrtm(square),
        lambda: fastfid.nuclear_norm(x),
        lambda: fastfid.resize_normalize([np.ma.masked_equal(REAL[0], REAL[0, 0, 0, 0])], (9, 9)),
        lambda: fastfid.fid(images, MADE, extractor=MEANS, device="cpu"),
    ):
        with pytest.raises(TypeError, match="masked array"):
            call()


@pytest.mark.parametrize("dtype", [object, [("a", "f8")], "U3", "c16", "M8[s]", bool], ids=str)
def test_kinds_that_are_no_numbers_are_refused(dtype: Any) -> None:
    a = np.zeros((5, 5), dtype=dtype)
    for call in (fastfid.sqrtm, fastfid.nuclear_norm, fastfid.Moments.from_features):
        with pytest.raises(TypeError, match="accepted"):
            call(a)
