"""Arrays, tensors and array files: axes, kinds, streaming with flat memory, and what is refused."""

from __future__ import annotations

import gc
import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from images import photos

from fastfid.errors import EmptySourceError
from fastfid.sources import Source, is_statistics, open_source
from fastfid.sources.npz import npz_headers


def pixels(source: Source, size: int = 3, **options: object) -> np.ndarray:
    batches = list(source.batches(size, **options))
    assert all(b.images.dtype == torch.uint8 and b.images.is_contiguous() and b.images.shape[3] == 3 for b in batches)
    return np.concatenate([batch.images.numpy() for batch in batches])


def save_npz(path: Path, *, compressed: bool = False, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.fixture(params=["stored", "deflated", "npy", "array", "tensor", "dlpack"])
def opened(request: pytest.FixtureRequest, tmp_path: Path):
    """From uint8 [n, H, W, C] to a Source, in every way."""

    def make(images: np.ndarray) -> Source:
        kind = request.param
        if kind in ("stored", "deflated"):
            return open_source(save_npz(tmp_path / "set.npz", compressed=kind == "deflated", arr_0=images))
        if kind == "npy":
            np.save(tmp_path / "set.npy", images)
            return open_source(tmp_path / "set.npy")
        if kind == "array":
            return open_source(images)
        if kind == "tensor":
            return open_source(torch.from_numpy(images).permute(0, 3, 1, 2))
        return open_source(OnlyDLPack(images))

    return make


class OnlyDLPack:
    """What a CuPy or JAX array looks like from outside."""

    def __init__(self, array: np.ndarray) -> None:
        self.tensor = torch.from_numpy(array.copy())

    def __dlpack__(self, **options: object) -> object:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()


def test_every_way_gives_the_same_pixels(opened) -> None:
    images = photos(11)
    source = opened(images)
    assert source.count == 11
    assert source.notes == ()
    for size in (1, 3, 11, 64):
        np.testing.assert_array_equal(pixels(source, size), images)
    batches = list(source.batches(4, num_workers=2))  # ignored, not refused
    assert [batch.names for batch in batches] == [("0", "1", "2", "3"), ("4", "5", "6", "7"), ("8", "9", "10")]


def test_limit_takes_the_published_subset(opened) -> None:
    images = photos(10, 5, 4)
    source = opened(images)
    # RandomState(0).shuffle(arange(10)) begins 2 8 4 9
    np.testing.assert_array_equal(pixels(source, limit=4), images[[2, 4, 8, 9]])
    assert [name for batch in source.batches(3, limit=4) for name in batch.names] == ["2", "4", "8", "9"]
    with pytest.raises(ValueError, match=r"limit=11, but .* holds only 10 images"):
        source.batches(3, limit=11)


def test_one_channel_is_repeated_and_noted(opened) -> None:
    grey = photos(4)[..., :1]
    source = opened(grey)
    assert source.notes == ("one channel, repeated to three",)
    np.testing.assert_array_equal(pixels(source), np.repeat(grey, 3, axis=3))


def test_batches_do_not_share_memory_with_the_input() -> None:
    for images in (photos(3), torch.from_numpy(photos(3)).permute(0, 3, 1, 2).contiguous()):
        before = images.copy() if isinstance(images, np.ndarray) else images.clone()
        for batch in open_source(images).batches(2):
            batch.images.zero_()
        assert (images == before).all()


def test_awkward_memory_layouts() -> None:
    images = photos(6)
    for array in (images[::-1], np.asfortranarray(images), images[:, ::2, ::-1]):
        np.testing.assert_array_equal(pixels(open_source(array)), array)
    images.flags.writeable = False
    np.testing.assert_array_equal(pixels(open_source(images)), images)
    tensor = torch.from_numpy(photos(6)).permute(0, 3, 1, 2)
    for strided in (tensor.flip(0), tensor[:, :, ::2], tensor.to(memory_format=torch.channels_last)):
        np.testing.assert_array_equal(pixels(open_source(strided)), strided.permute(0, 2, 3, 1).numpy())
    tracked = torch.nn.Parameter(tensor.contiguous(), requires_grad=False)
    np.testing.assert_array_equal(pixels(open_source(tracked)), photos(6))


def test_axes_are_a_rule_not_a_guess() -> None:
    """[4, 3, 5, 3] fits both orders: tensors are NCHW, arrays NHWC, and layout says otherwise."""
    array = np.arange(4 * 3 * 5 * 3, dtype=np.uint8).reshape(4, 3, 5, 3)
    turned = array.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels(open_source(array)), array)
    np.testing.assert_array_equal(pixels(open_source(array, layout="NCHW")), turned)
    np.testing.assert_array_equal(pixels(open_source(torch.from_numpy(array))), turned)
    np.testing.assert_array_equal(pixels(open_source(torch.from_numpy(array), layout="NHWC")), array)


def test_layout_holds_for_files(tmp_path: Path) -> None:
    images = photos(5)
    np.save(tmp_path / "set.npy", images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(pixels(open_source(tmp_path / "set.npy", layout="NCHW")), images)
    path = save_npz(tmp_path / "set.npz", arr_0=images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(pixels(open_source(path, layout="NCHW")), images)
    with pytest.raises(ValueError, match=r"set\.npz \[arr_0\]: expected .* turn them: x\.transpose\(0, 2, 3, 1\)"):
        open_source(path)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), TypeError, r"must be uint8, got float32\. Rounding is a choice.*x \* 255"),
        (torch.zeros(2, 3, 4, 4), TypeError, r"got float32\. Rounding is a choice that moves FID.*127\.5 \+ 128"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), TypeError, "got bfloat16. Rounding"),
        (np.zeros((2, 4, 4, 3), bool), TypeError, r"got bool\. Convert first"),
        (np.zeros((2, 4, 4, 3), np.int64), TypeError, r"got int64\. If the values lie in 0–255"),
        (np.zeros((2, 4, 4, 3), np.uint16), TypeError, r"got uint16.*x // 257"),
        (np.zeros((2, 4, 4, 3), object), TypeError, "got object"),
        (np.zeros((4, 4, 3), np.uint8), ValueError, r"got shape \[4, 4, 3\]\. One image needs a leading axis"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), ValueError, r"\[number, height, width, channels\], got shape"),
        (np.zeros((2, 3, 4, 4), np.uint8), ValueError, r"axis 1, turn them: x\.transpose\(0, 2, 3, 1\)"),
        (torch.zeros(2, 4, 5, 3, dtype=torch.uint8), ValueError, r"axis 3, turn them: x\.permute\(0, 3, 1, 2\)"),
        (np.zeros((2, 4, 4, 4), np.uint8), ValueError, "Alpha is not dropped silently"),
        (np.zeros((2, 4, 4, 2), np.uint8), ValueError, "1 or 3 channels"),
        (np.zeros((2, 0, 4, 3), np.uint8), ValueError, r"got shape \[2, 0, 4, 3\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), EmptySourceError, "holds no images"),
        (np.zeros((), np.uint8), ValueError, r"got shape \[\]"),
    ],
)
def test_what_arrays_are_refused(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(images)


def test_bad_layout() -> None:
    with pytest.raises(ValueError, match="layout must be 'NHWC' or 'NCHW', got 'HWC'"):
        open_source(photos(2), layout="HWC")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [3, None, b"\x00", {"images": 1}, object(), 2.5], ids=repr)
def test_what_is_no_image_set(bad: object) -> None:
    with pytest.raises((TypeError, FileNotFoundError, ValueError), match=r"accepted: a folder|embedded null"):
        open_source(bad)


def test_fortran_order_files_are_refused(tmp_path: Path) -> None:
    images = np.asfortranarray(photos(3))
    np.save(tmp_path / "set.npy", images)
    for path in (tmp_path / "set.npy", save_npz(tmp_path / "set.npz", arr_0=images)):
        with pytest.raises(ValueError, match=r"Fortran order.*ascontiguousarray"):
            open_source(path)


def test_npz_members(tmp_path: Path) -> None:
    images = photos(3)
    source = open_source(save_npz(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(3)))
    assert (source.kind, source.notes) == ("npz", ())
    source = open_source(save_npz(tmp_path / "b.npz", samples=images, labels=np.arange(3)))
    assert source.notes == ("images read from member 'samples'",)
    np.testing.assert_array_equal(pixels(source), images)
    with pytest.raises(ValueError, match=r"looked for a member 'arr_0'.*found a: uint8 \[3, 24, 32, 3\], b: uint8"):
        open_source(save_npz(tmp_path / "c.npz", a=images, b=images))
    with pytest.raises(ValueError, match="found nothing"):
        open_source(save_npz(tmp_path / "d.npz"))
    with pytest.raises(TypeError, match=r"e\.npz \[arr_0\]: images must be uint8, got float32"):
        open_source(save_npz(tmp_path / "e.npz", arr_0=images.astype(np.float32)))
    with pytest.raises(ValueError, match="holds statistics, not images"):
        open_source(save_npz(tmp_path / "f.npz", mu=np.zeros(4), sigma=np.eye(4)))


def test_objects_in_files_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match=r"set\.npz \[arr_0\]: holds pickled Python objects"):
        open_source(save_npz(tmp_path / "set.npz", arr_0=objects))
    np.save(tmp_path / "set.npy", objects)
    with pytest.raises(ValueError, match=r"not a readable \.npy"):
        open_source(tmp_path / "set.npy")


def test_statistics_are_recognised(tmp_path: Path) -> None:
    stats = {"mu": np.zeros(4), "sigma": np.eye(4)}
    assert is_statistics(save_npz(tmp_path / "stats.npz", **stats))
    assert is_statistics(str(save_npz(tmp_path / "STATS2.npz", **stats)))
    adm = save_npz(tmp_path / "VIRTUAL.npz", **stats, mu_s=np.zeros(3), arr_0=photos(2))
    assert is_statistics(adm)
    assert open_source(adm).count == 2  # its images stay reachable
    assert not is_statistics(save_npz(tmp_path / "images.npz", arr_0=photos(2)))
    assert not is_statistics(save_npz(tmp_path / "half.npz", mu=np.zeros(4)))
    for other in (tmp_path, tmp_path / "missing.npz", photos(2), [photos(2)], 3):
        assert not is_statistics(other)
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        is_statistics(tmp_path / "broken.npz")


def test_peeking_reads_headers_alone(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "big.npz", arr_0=np.zeros((64, 256, 256, 3), np.uint8), mu=np.zeros(4))
    tracemalloc.start()
    headers = npz_headers(str(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert headers["arr_0"].shape == (64, 256, 256, 3)
    assert peak < 1 << 20  # the array itself has 12 MiB


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("limit", [None, 50])
def test_npz_memory_is_flat(tmp_path: Path, compressed: bool, limit: int | None) -> None:
    """Reading 256 images 4 at a time takes the memory of a few batches, not that of the archive."""
    images = np.zeros((256, 128, 128, 3), np.uint8)
    images[:, ::2] = np.arange(256, dtype=np.uint8)[:, None, None, None]
    path = save_npz(tmp_path / "set.npz", compressed=compressed, arr_0=images)
    size = images.nbytes
    del images
    gc.collect()
    batch_bytes = 4 * 128 * 128 * 3
    tracemalloc.start()
    seen = 0
    for batch in open_source(path).batches(4, limit=limit):
        seen += len(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == (limit or 256)
    # two batches wait, one is in hand, one in the making, each read through a copy of itself; skipping takes 4 MiB more
    assert peak < 10 * batch_bytes + (9 << 20 if limit else 0) + (1 << 20), peak
    assert size > 6 * batch_bytes * 10


def test_npy_is_memory_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", np.zeros((256, 64, 64, 3), np.uint8))
    tracemalloc.start()
    total = sum(len(batch) for batch in open_source(tmp_path / "set.npy").batches(4))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 256
    assert peak < 1 << 20  # of 3 MiB


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_damaged_npz(tmp_path: Path, compressed: bool) -> None:
    path = save_npz(tmp_path / "set.npz", compressed=compressed, arr_0=photos(8))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 0x10
    path.write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match=r"set\.npz \[arr_0\] is damaged"):
        list(open_source(path).batches(3))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="was it copied whole"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="was it copied whole"):
        open_source(path)


@pytest.mark.parametrize("change", [-1, 1], ids=["short", "long"])
def test_npz_whose_data_do_not_fit_its_header(tmp_path: Path, change: int) -> None:
    stream = io.BytesIO()
    np.save(stream, photos(4))
    content = stream.getvalue()
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("arr_0.npy", content[:change] if change < 0 else content + b"x" * change)
    with pytest.raises(ValueError, match="only 9215 bytes follow" if change < 0 else "more data than the header"):
        list(open_source(tmp_path / "set.npz").batches(3))


def test_damaged_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", photos(4))
    content = (tmp_path / "set.npy").read_bytes()
    for wrong in (content[:-1], b"", b"no array"):
        (tmp_path / "set.npy").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"is not a readable \.npy array of images"):
            open_source(tmp_path / "set.npy")


def test_npz_header_versions(tmp_path: Path) -> None:
    """Version 2 headers (longer than 64 KiB allows, or forced) are read as well."""
    images = photos(3)
    for version in ((1, 0), (2, 0)):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, images, version=version)
        with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
            archive.writestr("arr_0.npy", stream.getvalue())
        np.testing.assert_array_equal(pixels(open_source(tmp_path / "set.npz")), images)


def test_descriptions() -> None:
    assert open_source(photos(2)).description == "uint8 array [2, 24, 32, 3]"
    assert open_source(torch.zeros(2, 3, 4, 5, dtype=torch.uint8)).description == "uint8 tensor [2, 3, 4, 5]"


@pytest.mark.gpu
def test_tensors_stay_on_their_device() -> None:
    (batch,) = open_source(torch.zeros(2, 3, 4, 5, dtype=torch.uint8, device="cuda")).batches(2)
    assert batch.images.device.type == "cuda"
    assert batch.images.shape == (2, 4, 5, 3)
