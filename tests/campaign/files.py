"""Damaged files of every format: the right value, a listed skip or a ValueError that names the file; nothing else.

Formats with a checksum (archives, the cache) may never give another value. Those without (npy, most image formats) give
what NumPy and Pillow themselves read in the same bytes.
"""

from __future__ import annotations

import functools
import io
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from cache_pass import DIM, Interrupted, key_of, noise, run_pass
from PIL import Image

import fastfid
from campaign.damage import damaged
from campaign.fuzz_images import Pooled, pooled
from campaign.trial import Entry, Fault, pick, require, said, unchanged
from fastfid.errors import BadImageError, CacheError, CacheWarning, FastFIDWarning
from fastfid.extractors import weights
from fastfid.passes.store import FeatureCache, record_checkpoints
from fastfid.sources import open_source
from fastfid.sources.decode import MAX_PIXELS, decode_image

Generator = np.random.Generator
_MANY = 1 << 26
"""Pixels that a trial decodes at most: a header may promise a gigapixel, and reading it is right, but slow."""


def photos(n: int, size: int = 8) -> Any:
    rng = np.random.default_rng(size)
    steps = rng.integers(0, 60, (n, size, size, 3)).cumsum(1)
    return (steps % 256).astype(np.uint8)


def read(call: Callable[[], Any], label: str, name: str, errors: tuple[type[Exception], ...] = (ValueError,)) -> Any:
    """What a reader gives; None where it refuses the file by its name. Anything else is a Fault."""
    with unchanged(label), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except errors as error:
            require(name in str(error), f"{label}: {type(error).__name__} that does not name the file", said(error))
            return None
        except (Exception, MemoryError) as error:
            raise Fault(f"{label}: {type(error).__name__}", said(error)) from error


# ── statistics ────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def statistics() -> dict[str, tuple[bytes, Any, Any]]:
    """Files of statistics, with mean and covariance."""
    rng = np.random.default_rng(5)
    made = {}
    folder = Path(tempfile.mkdtemp(prefix="statistics-"))
    for name, n in (("ours with samples", 5), ("ours", 40)):
        moments = fastfid.Moments.from_features(rng.normal(size=(n, 6)))
        moments.save(folder / "s.npz", metadata={"source": "x", "list": [1, 2]})
        made[name] = (folder / "s.npz").read_bytes(), moments.mean.numpy(), moments.cov().numpy()
    mu, sigma = made["ours"][1:]
    for name, save in (("foreign", np.savez), ("foreign, packed", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, mu=mu, sigma=sigma)
        made[name] = stream.getvalue(), mu, sigma
    return made


def statistics_file(rng: Generator, folder: Path) -> None:
    kind = pick(rng, statistics())
    data, mu, sigma = statistics()[kind]
    content = damaged(rng, data)
    path = folder / "damaged.npz"
    path.write_bytes(content)
    label = f"statistics npz ({kind})"
    got = read(lambda: fastfid.Moments.load(path), label, "damaged.npz")
    if got is not None:
        same = np.array_equal(got.mean.numpy(), mu) and np.abs(got.cov().numpy() - sigma).max() < 1e-14
        require(same, f"{label}: another value", repr(got))
    if rng.integers(4) == 0:  # as an argument of a comparison, where it may also pass for images
        read(lambda: fastfid.fid(str(path), str(path), progress=False), f"{label}, compared", "damaged.npz", _ANY)


_ANY = (ValueError, TypeError)


# ── images in arrays and archives ─────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def arrays() -> dict[str, bytes]:
    images = photos(7)
    made = {}
    for name, save in (
        ("npy", lambda f: np.save(f, images)),
        ("npz", lambda f: np.savez(f, arr_0=images)),
        ("packed npz", lambda f: np.savez_compressed(f, arr_0=images)),
    ):
        stream = io.BytesIO()
        save(stream)
        made[name] = stream.getvalue()
    return made


def _images(path: Path) -> Any:
    """All images of a set."""
    batches = list(open_source(str(path)).batches(3))
    return [one.numpy() for batch in batches for one in batch.images]


def npz_file(rng: Generator, folder: Path) -> None:
    kind = pick(rng, ("npz", "packed npz"))
    content = damaged(rng, arrays()[kind])
    (folder / "damaged.npz").write_bytes(content)
    label = f"images {kind}"
    got = read(lambda: _images(folder / "damaged.npz"), label, "damaged.npz", _ANY)
    if got is not None:
        require(np.array_equal(np.array(got), photos(7)), f"{label}: other pixels", f"{len(got)} images")


def npy_file(rng: Generator, folder: Path) -> None:
    content = damaged(rng, arrays()["npy"])
    (folder / "damaged.npy").write_bytes(content)
    label = "images npy"
    got = read(lambda: _images(folder / "damaged.npy"), label, "damaged.npy", _ANY)
    if got is not None:
        want = np.load(io.BytesIO(content), allow_pickle=False)
        want = np.repeat(want, 3, 3) if want.shape[3] == 1 else want
        require(np.array_equal(np.array(got), want), f"{label}: other pixels than NumPy's", f"{len(got)} images")


METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@functools.cache
def archive(method: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", METHODS[method]) as file:
        for index, one in enumerate(photos(4)):
            file.writestr(f"{index:03d}.png", _encoded(one, "PNG"))
    return stream.getvalue()


def _encoded(pixels: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def zip_file(method: str) -> Callable[[Generator, Path], None]:
    def run(rng: Generator, folder: Path) -> None:
        content = damaged(rng, archive(method))
        path = folder / "damaged.zip"
        path.write_bytes(content)
        label, skip = f"zip of images ({method})", bool(rng.integers(2))

        def call() -> Any:
            source = open_source(str(path))
            batches = list(source.batches(3, skip_bad=skip))
            bad = [one.name for batch in batches for one in batch.bad]
            names = [name for batch in batches for name in batch.names]
            return source.count, names, bad, [one.numpy() for batch in batches for one in batch.images]

        got = read(call, label, "damaged.zip")
        if got is None:
            return
        count, names, bad, images = got
        require(len(names) == len(images) and len(names) + len(bad) == count, f"{label}: lost images", repr(got[:3]))
        originals = photos(4)
        for name, one in zip(names, images, strict=True):
            require(name[:3].isdigit() or name not in NAMES, f"{label}: unknown name", name)
            require(any(np.array_equal(one, known) for known in originals), f"{label}: other pixels", name)
            if name in NAMES:
                require(np.array_equal(one, originals[NAMES.index(name)]), f"{label}: pixels of another", name)

    return run


NAMES = [f"{index:03d}.png" for index in range(4)]

# ── image files ───────────────────────────────────────────────────────────────────────────────────────────────────────

KINDS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "PNG": [("PNG", {}), ("PNG", {"compress_level": 0})],
    "JPEG": [("JPEG", {}), ("JPEG", {"progressive": True})],
    "TIFF": [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"})],
    "WebP": [("WEBP", {}), ("WEBP", {"lossless": True})],
    "GIF": [("GIF", {})],
    "BMP": [("BMP", {})],
    "PPM": [("PPM", {})],
}
_ENDING = {"JPEG": "jpg", "TIFF": "tif"}


@functools.cache
def encoded(kind: str, index: int) -> bytes:
    name, options = KINDS[kind][index]
    return _encoded(photos(1, 16)[0], name, **options)


def image_file(kind: str) -> Callable[[Generator, Path], None]:
    ending = _ENDING.get(kind, kind.lower())

    def run(rng: Generator, folder: Path) -> None:
        content = damaged(rng, encoded(kind, int(rng.integers(len(KINDS[kind])))))
        path = folder / f"damaged.{ending}"
        path.write_bytes(content)
        label = f"{kind}"
        want, size = _pillow(content)
        if _MANY < size <= MAX_PIXELS:
            return
        if rng.integers(8) == 0 and ending != "gif":  # in a folder, with a good one
            (folder / "good.png").write_bytes(encoded("PNG", 0))

            def call() -> Any:
                batches = list(open_source(str(folder)).batches(3, skip_bad=True))
                bad = [one.name for batch in batches for one in batch.bad]
                names = [name for batch in batches for name in batch.names]
                images = [one.numpy() for batch in batches for one in batch.images]
                return dict(zip(names, images, strict=True)), bad

            images, bad = read(call, f"{label}, in a folder", path.name)
            require(np.array_equal(images["good.png"], photos(1, 16)[0]), f"{label}: the good image is another")
            require((path.name in images) != (path.name in bad), f"{label}: neither read nor listed")
            got = images.get(path.name)
        else:
            got = read(lambda: decode_image(path, path.name, "x")[0], label, path.name, (BadImageError,))
        require((got is None) == (want is None), f"{label}: {'refused' if got is None else 'read'}, Pillow does not")
        require(got is None or np.array_equal(got, want), f"{label}: other pixels than Pillow's")

    return run


def _pillow(content: bytes) -> tuple[Any, int]:
    """(what Pillow itself reads, or None, the pixels that the header promises)."""
    size = 0
    with warnings.catch_warnings(), mock.patch.object(Image, "MAX_IMAGE_PIXELS", None):
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as image:
                size = image.size[0] * image.size[1]
                if size > _MANY:
                    return None, size
                image.load()
                image.info.pop("transparency", None)
                return np.asarray(image.convert("RGB")), size
        except Exception:
            return None, size


# ── networks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SHAPES = {"a.weight": (4, 3), "a.running_var": (4,), "b": (5, 2, 2)}


@functools.cache
def state_dicts() -> dict[str, bytes]:
    rng = np.random.default_rng(3)
    state = {name: torch.from_numpy(rng.uniform(0.5, 1, shape).astype(np.float32)) for name, shape in SHAPES.items()}
    made = {}
    for name, new in (("zip", True), ("legacy", False)):
        stream = io.BytesIO()
        torch.save(state, stream, _use_new_zipfile_serialization=new)
        made[name] = stream.getvalue()
    return made


def weights_file(rng: Generator, folder: Path) -> None:
    """A state dict of three small tensors, as if the network had just these."""
    kind = "zip" if rng.integers(4) else "legacy"
    content = damaged(rng, state_dicts()[kind])
    path = folder / "damaged.pth"
    path.write_bytes(content)
    label = f"weights ({kind})"
    with mock.patch.object(weights, "parameter_shapes", return_value=SHAPES):
        got = read(lambda: weights.read_state(path), label, "damaged.pth")
    if got is not None and kind == "zip":
        want = torch.load(io.BytesIO(state_dicts()[kind]), weights_only=True)
        require(all(torch.equal(got[name], want[name]) for name in SHAPES), f"{label}: other weights")


@functools.cache
def script() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(Pooled().eval()), stream)
    return stream.getvalue()


def torchscript_file(rng: Generator, folder: Path) -> None:
    content = damaged(rng, script())
    path = folder / "damaged.pt"
    path.write_bytes(content)
    label = "TorchScript"
    x = torch.from_numpy(photos(2)).permute(0, 3, 1, 2).float()
    got = read(lambda: fastfid.as_extractor(path)(x), label, "damaged", _ANY)
    if got is not None:
        require(torch.equal(got, pooled(x)), f"{label}: other features")


# ── the cache ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def cached() -> tuple[str, bytes, Any, Any]:
    """(file name, content, features, bits of the moments) of one entry."""
    with tempfile.TemporaryDirectory() as name:
        cache = FeatureCache(name)
        moments, _ = run_pass(noise(7), cache.record(key_of("x")))
        entry = cache.open(key_of("x"))
        assert entry is not None
        (path,) = Path(name).glob("*.safetensors")
        return path.name, path.read_bytes(), np.array(entry.features), moments.bits()


def cache_file(rng: Generator, folder: Path) -> None:
    name, data, features, bits = cached()
    content = damaged(rng, data)
    (folder / name).write_bytes(content)
    label = "cache entry"
    said_so: list[str] = []

    def call() -> Any:
        entry = FeatureCache(folder, warn=lambda kind, text: said_so.append(f"{kind.__name__} {text}")).open(
            key_of("x")
        )
        return None if entry is None else (_bits(entry.state.moments), np.array(entry.features))

    got = read(call, label, name, (CacheError,))
    if got is None:
        require(not said_so or CacheWarning.__name__ in said_so[0], f"{label}: another warning", repr(said_so))
        return
    require(got[0] == bits and np.array_equal(got[1], features), f"{label}: another value")
    require(got[1].shape == (7, DIM), f"{label}: another shape")


def _bits(moments: Any) -> tuple[int, bytes, bytes]:
    return moments["n"], moments["mean"].numpy().tobytes(), moments["scatter"].numpy().tobytes()


@functools.cache
def checkpointed() -> tuple[bytes, Any]:
    """A checkpoint of the first two batches, and the state in it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "c"
        with suppress(Interrupted):
            run_pass(noise(12), record_checkpoints(path, key_of("x"), every_s=0), stop_after=2)
        begun = record_checkpoints(path, key_of("x"), every_s=0).resumed
        assert begun is not None
        return path.read_bytes(), (_bits(begun.moments), begun.read)


def checkpoint_file(rng: Generator, folder: Path) -> None:
    data, want = checkpointed()
    content = damaged(rng, data)
    (folder / "damaged").write_bytes(content)
    label = "checkpoint"

    def call() -> Any:
        begun = record_checkpoints(folder / "damaged", key_of("x"), every_s=0).resumed
        return None if begun is None else (_bits(begun.moments), begun.read)

    got = read(call, label, "damaged", (CacheError, FastFIDWarning))
    require(got is None or got == want, f"{label}: another value")


ENTRIES = [
    Entry("files/statistics npz", statistics_file),
    Entry("files/images npz", npz_file),
    Entry("files/images npy", npy_file),
    *(Entry(f"files/zip {method}", zip_file(method)) for method in METHODS),
    *(Entry(f"files/{kind}", image_file(kind)) for kind in KINDS),
    Entry("files/weights pth", weights_file),
    Entry("files/TorchScript", torchscript_file),
    Entry("files/cache entry", cache_file),
    Entry("files/checkpoint", checkpoint_file),
]
