"""Damaged files of every format: what is read is right, or one line names the file; nothing else comes out.

A few hundred mutations by default, twenty times as many where slow tests run. Pixels of a damaged image can't be told
from those of a whole one unless the format has a checksum; archives and our own files have one.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_pass import key_of
from damage import damaged
from images import KINDS, encoded, photo, photos, png
from PIL import Image

import fastfid
from fastfid.errors import BadImageError, WeightsCorruptError
from fastfid.extractors import as_extractor, weights
from fastfid.passes.store import PassState
from fastfid.passes.store.checkpoint import Checkpoint
from fastfid.passes.store.tensorfile import TensorFile, write
from fastfid.sources import is_statistics, open_source
from fastfid.sources.decode import decode_image

IMAGES = photos(4, 9, 7)
FEW, MANY = 40, 800

Check = Callable[[Path], None]


def saved(save: Callable[..., Any], *given: Any, **named: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, *given, **named)
    return stream.getvalue()


def zipped(method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for index, pixels in enumerate(IMAGES):
            archive.writestr(f"{index}.png", png(pixels))
    return stream.getvalue()


def try_all(path: Path, content: bytes, check: Check, count: int, seed: int) -> tuple[int, int]:
    """(right, refused) of ``count`` damaged copies; anything else fails, with the mutation's name."""
    right = 0
    path.write_bytes(content)
    check(path)  # the whole file is right
    for name, changed in damaged(content, count, seed):
        path.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of Pillow, about odd files
                check(path)
            right += 1
            continue
        except (ValueError, TypeError) as error:
            said = str(error)
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        assert path.name in said, (name, said)
        assert "\n" not in said, (name, said)
    return right, count - right


def images_are(wanted: np.ndarray | None) -> Check:
    """Read as a set, told to go on and told not to; every image that comes is one of ``wanted``."""

    def check(path: Path) -> None:
        is_statistics(path)
        for skip in (False, True):
            try:
                batches = list(open_source(path).batches(3, skip_bad=skip))
            except BadImageError:
                assert not skip
                continue
            for image in (np.asarray(image) for batch in batches for image in batch.images):
                assert wanted is None or any(np.array_equal(image, one) for one in wanted)

    return check


def statistics_are(moments: fastfid.Moments) -> Check:
    def check(path: Path) -> None:
        got = fastfid.Moments.load(path)
        assert got.n in (None, moments.n)
        np.testing.assert_allclose(got.mean, moments.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got.cov(), moments.cov(), rtol=1e-9, atol=1e-12)

    return check


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["rows kept", "n above d", "foreign"])
def test_statistics(tmp_path: Path, kind: str, count: int) -> None:
    x = np.random.default_rng(3).standard_normal((4 if kind == "rows kept" else 30, 6))
    moments, path = fastfid.Moments.from_features(x), tmp_path / "stats.npz"
    moments.save(path, metadata={"fingerprint": "f", "protocol": "p", "n": len(x), "skipped": ["a.png"]})
    content = path.read_bytes()
    if kind == "foreign":
        content = saved(np.savez, mu=np.mean(x, 0), sigma=np.cov(x.T))
    right, refused = try_all(path, content, statistics_are(moments), count, seed=count)
    assert right + refused == count
    assert refused > 0.6 * count  # a CRC over all the data


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("set.npz", saved(np.savez, arr_0=IMAGES), IMAGES),
        ("packed.npz", saved(np.savez_compressed, arr_0=IMAGES, arr_1=np.arange(4)), IMAGES),
        ("set.npy", saved(np.save, IMAGES), None),
        ("stored.zip", zipped(zipfile.ZIP_STORED), IMAGES),
        ("deflated.zip", zipped(zipfile.ZIP_DEFLATED), IMAGES),
        ("bzip2.zip", zipped(zipfile.ZIP_BZIP2), IMAGES),
        ("lzma.zip", zipped(zipfile.ZIP_LZMA), IMAGES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sets_in_one_file(tmp_path: Path, name: str, content: bytes, wanted: np.ndarray | None, count: int) -> None:
    right, refused = try_all(tmp_path / name, content, images_are(wanted), count, seed=count)
    assert min(right, refused) > 0  # some damage is harmless, some is not


MORE_KINDS: dict[str, Callable[[np.ndarray], bytes]] = {
    "ico.png": lambda p: encoded(Image.fromarray(p), "ICO"),
    "jpeg2000.png": lambda p: encoded(Image.fromarray(p), "JPEG2000"),
    "image.npy": lambda p: saved(np.save, p),
    "tga.bmp": lambda p: encoded(Image.fromarray(p), "TGA"),
}


@pytest.mark.parametrize("count", [FEW // 4, pytest.param(MANY // 4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*KINDS, *MORE_KINDS])
def test_images(tmp_path: Path, name: str, count: int) -> None:
    make = MORE_KINDS[name] if name in MORE_KINDS else KINDS[name][1]

    def check(path: Path) -> None:
        pixels, _ = decode_image(path, path.name, "set")
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3

    try_all(tmp_path / name, make(photo(1, 16, 16)), check, count, seed=count + len(name))


@pytest.mark.parametrize("count", [2 * FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_files_of_the_cache(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {"features": np.random.default_rng(0).standard_normal((5, 3)), "flags": np.array([True, False])}
    write(path, arrays, {"about": "µ"})

    def check(path: Path) -> None:
        file = TensorFile(path)
        for name in file.extents:
            np.testing.assert_array_equal(file.array(name), arrays[name])

    content = path.read_bytes()
    content = content[:600] + content[-300:]  # most of a file is the header's padding
    length = len(content) - 8 - sum(array.nbytes for array in arrays.values())
    content = length.to_bytes(8, "little") + content[8:]
    right, refused = try_all(path, content, check, count, seed=count)
    assert right + refused == count
    assert refused > 0.6 * count


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_checkpoints(tmp_path: Path, count: int) -> None:
    path = tmp_path / "run.checkpoint"
    keeper = Checkpoint(path, key_of("x"), every_s=0)
    keeper.offer(lambda: PassState({"n": 3, "mean": torch.ones(4)}, 7, 1.5, torch.zeros(1, 4), (), ("a note",)))

    def check(path: Path) -> None:
        found = Checkpoint(path, key_of("x")).load()
        assert found is not None
        state, more = found
        assert (state.read, state.seconds, state.notes, state.moments["n"], more) == (7, 1.5, ("a note",), 3, {})
        assert torch.equal(state.moments["mean"], torch.ones(4))

    try_all(path, path.read_bytes(), check, count, seed=count)


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, zip_format: bool) -> None:
    """Torch looks at no CRC; the file of before 2020 has none, so there only the kind of error is held."""
    monkeypatch.setattr(weights, "parameter_shapes", lambda: {"a.weight": (4, 3), "b.bias": (5,)})
    state = {"a.weight": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), "b.bias": torch.arange(5.0)}

    def check(path: Path) -> None:
        try:
            got = weights.read_state(path)
        except WeightsCorruptError:
            raise
        except ValueError as error:
            raise AssertionError(f"not a WeightsCorruptError: {error}") from error
        for name, value in state.items():
            assert not zip_format or torch.equal(got[name], value)

    content = saved(lambda stream: torch.save(state, stream, _use_new_zipfile_serialization=zip_format))
    right, refused = try_all(tmp_path / "weights.pth", content, check, count, seed=count)
    assert right + refused == count
    assert refused > count / 8


class Mean(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.arange(1.0, 4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3)) * self.scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("count", [FEW // 2, pytest.param(MANY // 4, marks=pytest.mark.slow)])
def test_torchscript(tmp_path: Path, count: int) -> None:
    x = torch.ones(2, 3, 4, 4)

    def check(path: Path) -> None:
        assert torch.equal(as_extractor(path)(x), torch.tensor([[1.0, 2.0, 3.0]] * 2))

    content = saved(lambda stream: torch.jit.save(torch.jit.script(Mean()), stream))
    _, refused = try_all(tmp_path / "network.pt", content, check, count, seed=count)
    assert refused > count / 8


def test_every_byte_of_our_statistics_changes_nothing_unnoticed(tmp_path: Path) -> None:
    """One bit of every 17th byte of a small file, header, data and directory alike."""
    moments, path = fastfid.Moments.from_features(np.array([[1.0, 2.0], [3.0, 5.0]])), tmp_path / "s.npz"
    moments.save(path)
    content, check = path.read_bytes(), statistics_are(moments)
    refused = 0
    for at in range(0, len(content), 17):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with suppress(ValueError):
            check(path)
            continue
        refused += 1
    assert refused > len(content) / 34
