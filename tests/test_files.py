"""The border between users' files and their readers: special files, errors of the system, claims, and what is said."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import encoded, photo, photos, png, write_folder, write_zip
from PIL import Image, ImageFile

import fastfid
from fastfid.errors import BadImageError, CacheError, WeightsCorruptError, WeightsNotFoundError, WorkerError
from fastfid.extractors import as_extractor, load_weights
from fastfid.extractors.weights import read_state
from fastfid.passes.store.tensorfile import TensorFile
from fastfid.runtime import files as _files
from fastfid.sources import Decode, base, is_statistics, members, open_source
from fastfid.sources.decode import decode_image

EINVAL_TIFF = b"II" + struct.pack("<HHHQ", 43, 8, 0, 2**62) + bytes(16)


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_file_whose_offsets_fail_in_seek_is_a_bad_image(tmp_path: Path, kind: str, num_workers: int) -> None:
    path = write_folder(tmp_path / "set", photos(3)) if kind == "folder" else write_zip(tmp_path / "s.zip", photos(3))
    if kind == "folder":
        (path / "x.tiff").write_bytes(EINVAL_TIFF)
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("x.tiff", EINVAL_TIFF)
    source = open_source(path)
    (batch,) = source.batches(9, skip_bad=True, num_workers=num_workers)
    assert [(bad.name, len(bad.reason) > 5) for bad in batch.bad] == [("x.tiff", True)]
    np.testing.assert_array_equal(batch.images.numpy(), photos(3))
    with pytest.raises(BadImageError, match=r"cannot read image 'x\.tiff'"):
        list(source.batches(9, num_workers=num_workers))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ESTALE, errno.EOVERFLOW, errno.ENXIO, errno.ENODEV])
def test_any_errno_is_the_files_but_those_of_the_process(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(BadImageError) as error:
        decode_image(io.BytesIO(png(photo(0))), "x.png", "set")
    assert error.value.reason == os.strerror(number).lower()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE])
def test_errnos_of_the_process_pass_with_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", fails)
    (tmp_path / "x.png").write_bytes(png(photo(0)))
    with pytest.raises(OSError, match=r"x\.png in set") as error:
        decode_image(tmp_path / "x.png", "x.png", "set")
    assert (error.value.errno, isinstance(error.value, ValueError)) == (number, False)
    with pytest.raises(OSError, match=r"x\.npz") as error, _files.reading("x.npz"):
        fails()
    assert (error.value.errno, error.value.filename) == (number, "x.npz")


def test_a_length_of_petabytes_is_the_files_a_lack_of_megabytes_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(size: int) -> Callable[..., None]:
        return lambda *_: bytearray(size) and None

    monkeypatch.setattr(Image, "open", asks(2**60))
    with pytest.raises(BadImageError, match="asks for more memory than there is"):
        decode_image(io.BytesIO(png(photo(0))), "x.png", "set")
    monkeypatch.setattr(_files, "_PROBE_BYTES", 2**60)  # nor is there any for others
    with pytest.raises(OSError, match=r"x\.png in set") as error:
        decode_image(io.BytesIO(png(photo(0))), "x.png", "set")
    assert error.value.errno == errno.ENOMEM


@pytest.fixture(params=["pipe", "socket", "device", "folder"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Makes what is no regular file under a name; opening some of these for reading would wait for ever."""

    def make(name: str) -> Path:
        path = tmp_path / name
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "folder":
            path.mkdir()
        elif request.param == "device":
            path.symlink_to("/dev/null")
        else:
            here = Path.cwd()
            os.chdir(tmp_path)  # the path of a socket has 108 bytes at most
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(name)
            os.chdir(here)
        return path

    return make


READERS: dict[str, Callable[[Path], Any]] = {
    "x.png": lambda path: decode_image(path, "x.png", str(path.parent)),
    "x.npz": lambda path: fastfid.Moments.load(path),
    "y.npz": lambda path: open_source(path),
    "y.npy": lambda path: open_source(path),
    "y.zip": lambda path: open_source(path),
    "c.safetensors": TensorFile,
    "w.pth": read_state,
    "v.pth": lambda path: load_weights(path),
    "n.pt": as_extractor,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_what_is_no_file(special: Callable[[str], Path], name: str) -> None:
    path = special(name)
    with pytest.raises((ValueError, IsADirectoryError, WeightsNotFoundError, OSError)) as error:
        READERS[name](path)
    assert name.split(".", maxsplit=1)[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_globals_of_pillow_do_not_matter_and_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = png(photo(4, 64, 64))[:-900]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.asarray(Image.new("RGB", (2, 2)))
    with pytest.raises(BadImageError, match="truncated"):  # Pillow alone would fill it up with black
        decode_image(io.BytesIO(cut), "cut.png", "")
    np.testing.assert_array_equal(decode_image(io.BytesIO(png(photo(0))), "x.png", "")[0], photo(0))
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, 10)


def test_globals_of_pillow_are_put_back_by_the_last_of_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    whole, cut = png(photo(0)), png(photo(4, 64, 64))[:-900]
    wrong: list[str] = []

    def work() -> None:
        for _ in range(40):
            try:
                decode_image(io.BytesIO(cut), "cut.png", "")
                wrong.append("cut")
            except BadImageError:
                pass
            if not np.array_equal(decode_image(io.BytesIO(whole), "x.png", "")[0], photo(0)):
                wrong.append("pixels")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, 10)


def test_what_somebody_sets_meanwhile_stays() -> None:
    from fastfid.sources._pillow import opened

    before = Image.MAX_IMAGE_PIXELS
    try:
        with opened(io.BytesIO(png(photo(0)))):
            Image.MAX_IMAGE_PIXELS = 12345
        assert Image.MAX_IMAGE_PIXELS == 12345
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_the_limit_holds_for_plugins_that_decode_while_they_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """An icon of 32×32 whose PNG says 60000×60000: Pillow's ICO plugin decodes as it opens."""
    icon = bytearray(encoded(Image.fromarray(photo(0, 32, 32)), "ICO", sizes=[(32, 32)]))
    at = icon.index(b"IHDR")
    icon[at + 4 : at + 12] = struct.pack(">II", 60_000, 60_000)
    icon[at + 17 : at + 21] = struct.pack(">I", zlib.crc32(icon[at : at + 17]))
    loaded: list[object] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: (loaded.append(self.size), load(self))[1])
    with pytest.raises(BadImageError, match=r"\(3600000000 pixels\) exceeds limit of 1073741824"):
        decode_image(io.BytesIO(bytes(icon)), "x.png", "")
    assert (60_000, 60_000) not in loaded


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16", "F", "1"])
def test_large_images_are_taken_over_strip_by_strip(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    from fastfid.sources import _pillow

    image = Image.fromarray(photo(1, 50, 37))
    if mode in ("I;16", "F"):
        image = Image.fromarray((np.asarray(image)[..., 0].astype(np.float32) * 3).astype({"F": "f4"}.get(mode, "u2")))
    image = image if image.mode == mode else image.convert(mode)
    content = encoded(image, "TIFF")
    want, _ = decode_image(io.BytesIO(content), "x.tiff", "")
    monkeypatch.setattr(_pillow, "STRIPS_FROM", 600)  # 4 rows at a time
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    got, _ = decode_image(io.BytesIO(content), "x.tiff", "")
    np.testing.assert_array_equal(got, want)


def test_claims_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """Headers that promise terabytes in a kilobyte, under a limit that a promise kept would break."""

    def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
        stream = io.BytesIO()
        np.lib.format.write_array_header_2_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
        return stream.getvalue() + bytes(500)

    def lying(name: str, method: int = zipfile.ZIP_DEFLATED, **arrays: bytes) -> Path:
        """An archive whose directory and local headers claim 10^12 bytes for each member."""
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", method) as archive:
            for member, content in arrays.items():
                archive.writestr(member, content)
        content, size = path.read_bytes(), struct.pack("<I", 2**32 - 2)
        for info in zipfile.ZipFile(path).infolist():
            content = content[: info.header_offset + 22] + size + content[info.header_offset + 26 :]
        at = -1
        while (at := content.find(b"PK\1\2", at + 1)) >= 0:
            content = content[: at + 24] + size + content[at + 28 :]
        path.write_bytes(content)
        return path

    (tmp_path / "a.npy").write_bytes(header((10**12, 32, 32, 3)))
    lying("b.npz", **{"arr_0.npy": header((10**6, 32, 32, 3))})
    lying("c.npz", **{"mu.npy": header((20_000,), "<f8"), "sigma.npy": header((20_000, 20_000), "<f8")})
    lying("d.zip", **{"x.npy": header((30_000, 30_000, 3)), "y.png": png(photo(0))})
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("mu.npy", header((10**11,), "<f8"))
        archive.writestr("sigma.npy", header((10**11, 10**11), "<f8"))
    for name in ("a.npy", "b.npz", "c.npz", "d.zip", "e.npz"):
        path = tmp_path / name

        def read(path: Path) -> None:
            if path.name in ("c.npz", "e.npz"):
                fastfid.Moments.load(path)
            else:
                list(open_source(path, decode=Decode(npy_files=True)).batches(4))

        with peak_below(8 << 20), pytest.raises(ValueError, match=r"promises|claims") as error:
            read(path)
        assert name in str(error.value)


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    """What Python and NumPy allocate in the block stays below ``limit`` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_a_member_of_zeros_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros, and pictures with zeros behind them: nobody unpacks these at once. Bounds and sizes are a 16th."""
    monkeypatch.setattr(members, "WHOLE_BYTES", members.WHOLE_BYTES >> 4)
    monkeypatch.setattr(members, "AT_ONCE_BYTES", members.AT_ONCE_BYTES >> 4)
    heads = {"0.png": b"", "1.png": png(photo(1)), "2.webp": encoded(Image.fromarray(photo(2)), "WEBP")}
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, head in heads.items():
            with archive.open(name, "w") as member:
                member.write(head)
                for _ in range(8):
                    member.write(bytes(1 << 22))
    with peak_below(12 << 20):
        (batch,) = open_source(tmp_path / "bomb.zip").batches(5, skip_bad=True)
    assert batch.names == ("1.png",)
    np.testing.assert_array_equal(batch.images[0].numpy(), photo(1))
    assert [bad.name for bad in batch.bad] == ["0.png", "2.webp"]
    assert batch.bad[0].reason.startswith("not an image")
    assert "at most 16777216 are unpacked at once" in batch.bad[1].reason


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_large_members_are_streamed_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int) -> None:
    monkeypatch.setattr(members, "WHOLE_BYTES", 100)
    contents = {"0.png": png(photo(0)), "1.tiff": encoded(Image.fromarray(photo(1)), "TIFF", compression="tiff_lzw")}
    contents["2.npy"] = io.BytesIO().getvalue()
    stream = io.BytesIO()
    np.save(stream, photo(2))
    contents["2.npy"] = stream.getvalue()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    source = open_source(tmp_path / "a.zip", decode=Decode(npy_files=True))
    (batch,) = source.batches(5)
    np.testing.assert_array_equal(batch.images.numpy(), photos(3))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        info = archive.getinfo("0.png")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    at = content.index(b"PK\1\2")
    content[at + 16] ^= 1  # the CRC in the directory: the pixels are whole, their sum is not
    assert info.filename == "0.png"
    (tmp_path / "a.zip").write_bytes(content)
    (batch,) = open_source(tmp_path / "a.zip", decode=Decode(npy_files=True)).batches(5, skip_bad=True)
    assert [(bad.name, "CRC" in bad.reason) for bad in batch.bad] == [("0.png", True)]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("skip", [False, True])
def test_batches_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int, skip: bool
) -> None:
    """Where a batch ends depends on the sizes alone, and a pass that goes on at such a place makes the same batches."""
    heights = [10, 10, 30, 10, 100, 10, 10, 10, 1, 1, 1, 60]
    path = write_folder(tmp_path / "set", [photo(i, height, 10) for i, height in enumerate(heights)])
    if skip:
        (path / "001.png").write_bytes(b"")
        (path / "005.png").write_bytes(b"")
    monkeypatch.setattr(base, "BATCH_BYTES", 10 * 3 * 50)  # 50 rows
    source = open_source(path)
    batches = [
        (batch.names, [bad.name for bad in batch.bad])
        for batch in source.batches(5, num_workers=num_workers, skip_bad=skip)
    ]
    sizes = [[heights[int(name[:3])] for name in names] for names, _ in batches]
    if skip:
        assert sizes == [[10, 30, 10], [100], [10, 10, 1, 1], [1], [60]]
        assert [bad for _, bad in batches] == [["001.png"], [], ["005.png"], [], []]
    else:
        assert sizes == [[10, 10, 30], [10], [100], [10, 10, 10, 1, 1], [1], [60]]
    done = 0
    for number, (names, bad) in enumerate(batches):
        rest = list(source.batches(5, num_workers=num_workers, skip_bad=skip, start=done))
        assert [batch.names for batch in rest] == [names for names, _ in batches[number:]]
        done += len(names) + len(bad)
    assert done == len(heights)


@pytest.mark.parametrize("kind", ["npz", "packed npz", "npy", "array", "tensor"])
def test_batches_of_arrays_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    images = photos(12, 4, 5)
    monkeypatch.setattr(base, "BATCH_BYTES", 3 * images[0].nbytes + 1)
    given: Any = images
    if kind == "tensor":
        given = torch.from_numpy(images).permute(0, 3, 1, 2)
    elif kind != "array":
        given = tmp_path / f"set.{kind[-3:]}"
        {"npz": np.savez, "packed npz": np.savez_compressed, "npy": np.save}[kind](given, images)
    source = open_source(given)
    batches = list(source.batches(5))
    assert [len(batch) for batch in batches] == [3, 2, 3, 2, 2]
    np.testing.assert_array_equal(np.concatenate([batch.images.numpy() for batch in batches]), images)
    assert [len(batch) for batch in source.batches(5, start=3)] == [2, 3, 2, 2]


def test_batches_of_streams_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one or in lists: a batch is given as soon as the next image has no room in it."""
    heights = [10, 10, 30, 10, 100, 10, 10, 10, 1, 1, 1, 60]
    images = [photo(i, height, 10) for i, height in enumerate(heights)]
    monkeypatch.setattr(base, "BATCH_BYTES", 10 * 3 * 50)
    given = 0

    def stream(step: int) -> Iterator[list[np.ndarray]]:
        nonlocal given
        for at in range(0, len(images), step):
            given += 1
            yield images[at : at + step]

    want = [[10, 10, 30], [10], [100], [10, 10, 10, 1, 1], [1], [60]]
    for step in (1, 2, 7, 12):
        batches = [[heights[int(name)] for name in batch.names] for batch in open_source(stream(step)).batches(5)]
        assert batches == want, step
    done = 0
    for number, batch in enumerate(want):
        rest = open_source(stream(1)).batches(5, start=done)
        assert [[heights[int(name)] for name in names.names] for names in rest] == want[number:]
        done += len(batch)
    given, batches = 0, open_source(stream(1)).batches(5)
    assert (len(next(batches)), given) == (3, 4)


class Deadly(torch.utils.data.Dataset):
    """Its 14th image kills whoever reads it."""

    def __init__(self, die: Callable[[], None]) -> None:
        self.die = die

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> np.ndarray:
        if index == 13:
            self.die()
        return np.full((2, 2, 3), index, np.uint8)


@pytest.mark.parametrize(
    ("die", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"),
        (lambda: os._exit(7), "ended with code 7"),
    ],
    ids=["killed", "exit"],
)
def test_a_dead_worker_is_named_with_what_it_was_reading(die: Callable[[], None], said: str) -> None:
    seen: list[str] = []
    batches = open_source(Deadly(die)).batches(2, num_workers=2)
    with pytest.raises(WorkerError, match=rf"decoding process \d+ {said} while reading '13'.*--num-workers 0"):
        seen.extend(name for batch in batches for name in batch.names)
    assert seen == [str(index) for index in range(len(seen))]
    assert len(seen) <= 12
    assert not multiprocessing.active_children()


def test_workers_pass_errors_of_every_kind_on(tmp_path: Path) -> None:
    class Unpicklable(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    class Wrong(torch.utils.data.Dataset):
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> np.ndarray:
            raise self.error

    with pytest.raises(KeyError, match="missing"):
        list(open_source(Wrong(KeyError("missing"))).batches(2, num_workers=1))
    with pytest.raises(RuntimeError, match="Unpicklable in a decoding process: 1 and 2"):
        list(open_source(Wrong(Unpicklable(1, 2))).batches(2, num_workers=1))
    assert pickle.loads(pickle.dumps(_files.NotRegularError("x"))).args == ("x",)


ASTRAY: list[tuple[str, Callable[[Path], Any], str]] = [
    (
        "a.npz",
        lambda p: np.savez(p, mean=np.zeros(4), cov=np.eye(4)),
        r"look like statistics.*mu=f\['mean'\], sigma=f\['cov'\]",
    ),
    ("b.npy", lambda p: np.save(p, np.array({"mu": 1}, dtype=object)), "pickled Python objects .a dict"),
    ("c.npy", lambda p: np.save(p, np.zeros((5, 2048), np.float32)), r"features \[n, d\].*Moments\.from_features"),
    ("d.npz", lambda p: np.savez(p, np.arange(5)), "look like labels"),
    ("e.npz", lambda p: np.savez(p, np.zeros((5, 64))), r"features \[n, d\]"),
    ("f.npy", lambda p: p.write_bytes(save_npz(p.with_name("z.npz"), arr_0=photos(2)).read_bytes()), "name it so"),
    ("g.npz", lambda p: (np.save(p.with_name("z.npy"), photos(2)), p.with_name("z.npy").rename(p)), "name it .npy"),
    ("h.npy", lambda p: np.save(p, np.zeros((2, 4, 4, 3))), "Rounding is a choice"),
]


@pytest.mark.parametrize(("name", "make", "said"), ASTRAY, ids=lambda value: value if isinstance(value, str) else "")
def test_messages_lead_somewhere(tmp_path: Path, name: str, make: Callable[[Path], Any], said: str) -> None:
    make(tmp_path / name)
    with pytest.raises((ValueError, TypeError), match=said) as error:
        open_source(tmp_path / name)
    assert name in str(error.value)


def test_images_beside_labels_are_found(tmp_path: Path) -> None:
    source = open_source(save_npz(tmp_path / "a.npz", arr_0=np.arange(3), arr_1=photos(3)))
    assert (source.count, source.notes) == (3, ("images read from member 'arr_1'",))
    assert not is_statistics(tmp_path / "a.npz")


STATISTICS: dict[str, Any] = {
    "mu": np.array([1.0, 2.0]), "sigma": np.diag([2.0, 3.0]), "n": np.array(9), "ddof": np.array(1),
    "metadata": np.array("{}"), "format": np.array(1),
}  # fmt: skip


def rows_and_all(**changes: Any) -> dict[str, Any]:
    rows = np.array([[1.0, 2.0, 0.0], [3.0, 5.0, 1.0]])
    whole = {"mu": rows.mean(0), "sigma": np.cov(rows.T), "n": np.array(2), "rows": rows}
    return {**STATISTICS, **whole, **changes}


LABELLED = {"fingerprint": "f", "protocol": "p"}
FIELDS: list[tuple[str, dict[str, Any], str]] = [
    *[("ddof", {"ddof": np.array(v)}, "ddof.*accepted: a whole number from 0 to 1") for v in (2, -1, 10**9, 0.5, "1")],
    ("ddof", {"ddof": np.array([1])}, r"ddof.*shape \[1\]"),
    *[("n", {"n": np.array(v)}, "n\\].*accepted: a whole number from 1 on") for v in (0, -5, 2.5, True, "9")],
    ("format", {"format": np.array(2)}, "format.*accepted"),
    ("mu", {"mu": np.zeros((1, 2))}, r"mu\].*shape \[1, 2\]; accepted: \[d\]"),
    ("mu", {"mu": np.zeros(2, complex)}, "mu.*complex128"),
    ("mu", {"mu": np.array(["a", "b"])}, "mu.*<U1"),
    ("mu", {"mu": np.zeros(0)}, r"mu.*shape \[0\]"),
    ("mu", {"mu": np.array([1.0, np.nan])}, "mu.*NaN or infinity"),
    ("mu", {"mu": np.zeros(3)}, r"sigma\].*shape \[2, 2\]; accepted: \[3, 3\]"),
    ("mu", {"mu": np.array([{}, 1], dtype=object)}, "mu.*pickled"),
    ("sigma", {"sigma": np.array([[1.0, np.inf], [np.inf, 1.0]])}, "sigma.*NaN or infinity"),
    ("sigma", {"sigma": np.array([[1.0, 0.5], [0.4, 1.0]])}, "not symmetric"),
    ("sigma", {"sigma": np.zeros(4)}, r"sigma.*shape \[4\]"),
    ("metadata", {"metadata": np.array("no JSON")}, "metadata.*no JSON"),
    ("metadata", {"metadata": np.array("[1]")}, "metadata.*JSON of a list"),
    ("metadata", {"metadata": np.array(3)}, "metadata.*a text"),
    *[
        ("metadata", {"metadata": np.array(json.dumps({**LABELLED, key: value}))}, f"metadata.*{key}")
        for key, value in {
            "fingerprint": 5, "protocol": None, "weights_sha256": [], "extractor": {}, "n": -1, "source": 3,
            "shards": [["a", 2, 2]], "skipped": "x", "tap": 1, "metric": False,
        }.items()
    ],
    ("metadata", {"metadata": np.array('{"fingerprint": "f"}')}, "fingerprint without a protocol"),
    ("rows", rows_and_all(rows=np.zeros((2, 3))), "rows.*mean and scatter are not those"),
    ("rows", rows_and_all(rows=np.zeros((3, 3))), r"rows.*shape \[3, 3\]; accepted: \[2, 3\]"),
    ("rows", rows_and_all(sigma=rows_and_all()["sigma"] + np.eye(3)[::-1] * 1e-6), "their scatter"),
    ("rows", rows_and_all(mu=np.array([2.0, 3.5, 0.5 + 1e-7])), "their mean"),
    ("rows", {key: value for key, value in rows_and_all().items() if key != "n"}, "has no n"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "changes", "said"), FIELDS)
def test_every_field_of_statistics_is_checked(tmp_path: Path, field: str, changes: dict[str, Any], said: str) -> None:
    whole = {"n", "rows"} <= changes.keys() or "rows" in changes
    given = changes if whole else {**STATISTICS, **changes}
    path = save_npz(tmp_path / "s.npz", **given)
    with pytest.raises(ValueError, match=said) as error:
        fastfid.Moments.load(path)
    assert "s.npz" in str(error.value)
    assert field


@pytest.mark.parametrize("given", [STATISTICS, rows_and_all(), {**STATISTICS, "ddof": np.array(0)}])
def test_statistics_that_are_right_are_read(tmp_path: Path, given: dict[str, Any]) -> None:
    got = fastfid.Moments.load(save_npz(tmp_path / "s.npz", **given))
    assert got.n == int(given["n"])
    np.testing.assert_allclose(got.mean, given["mu"], rtol=1e-14)
    np.testing.assert_allclose(got.cov(int(given["ddof"])), given["sigma"], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e100])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_rows_of_any_scale_agree_with_what_is_saved(tmp_path: Path, n: int, scale: float) -> None:
    x = (np.random.default_rng(n).standard_normal((n, 8)) + 1e3) * scale
    fastfid.Moments.from_features(x).save(tmp_path / "s.npz")
    np.testing.assert_array_equal(fastfid.Moments.load(tmp_path / "s.npz").rows, x)


def test_an_encrypted_or_unknown_member_is_named(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "s.npz", mu=np.zeros(2), sigma=np.eye(2))
    whole = path.read_bytes()
    for offset, value, said in ((8, 1, "encrypted"), (10, 99, "compression")):
        content, at = bytearray(whole), -1
        while (at := content.find(b"PK\1\2", at + 1)) >= 0:
            content[at + offset] = value
        path.write_bytes(content)
        for read in (fastfid.Moments.load, open_source):
            with pytest.raises(ValueError, match=rf"s\.npz.*{said}|s\.npz.*holds statistics"):
                read(path)


def test_weights_with_one_flipped_byte_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 500.0))] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["a"].shape == (1000,)  # torch itself does not mind
    with pytest.raises(WeightsCorruptError, match=r"w\.pth: Bad CRC-32"):
        read_state(path)


def test_weights_saved_without_sums_are_let_through(tmp_path: Path) -> None:
    options = torch.serialization
    before = options.get_crc32_options() if hasattr(options, "get_crc32_options") else True
    if hasattr(options, "set_crc32_options"):
        options.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(10.0)}, tmp_path / "w.pth")
    finally:
        if hasattr(options, "set_crc32_options"):
            options.set_crc32_options(before)
    _files.check_sums(tmp_path / "w.pth")
    with pytest.raises(WeightsCorruptError, match="not a state dict of the FID Inception network"):
        read_state(tmp_path / "w.pth")


def test_a_cache_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    for name, content in {"a": b"", "b": b"[" * 100_000, "c": (10).to_bytes(8, "little") + b"[[[[[[[[[["}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CacheError, match="is damaged or not a file of fastfid's cache"):
            TensorFile(tmp_path / name)
