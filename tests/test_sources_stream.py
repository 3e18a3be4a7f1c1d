"""Datasets, DataLoaders, generators: which items are images, how they are cut into batches, what is refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from images import photo, photos, write_folder
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fastfid.errors import BadImageError
from fastfid.resample import RaggedImages
from fastfid.sources import Source, open_source

IMAGES = photos(10)
NCHW = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous()


def read(source: Source, size: int = 4, **options: object) -> np.ndarray:
    batches = list(source.batches(size, **options))
    assert all(batch.images.dtype == torch.uint8 and batch.images.is_contiguous() for batch in batches)
    return np.concatenate([batch.images.numpy() for batch in batches])


class Pairs(Dataset):
    """(image, label) pairs, as torchvision's datasets give them."""

    def __init__(self, images: object = NCHW) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[object, int]:
        return self.images[index], index % 3


class Streamed(IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from NCHW


ITEMS = {
    "tensors": [NCHW[:3], NCHW[3:4], NCHW[4:]],
    "arrays": [IMAGES[:7], IMAGES[7:]],
    "tensors and labels": [(NCHW[:5], torch.arange(5)), (NCHW[5:], torch.arange(5))],
    "lists of a batch and labels": [[NCHW[:5], torch.arange(5)], [NCHW[5:], torch.arange(5)]],
    "single tensors": list(NCHW),
    "single arrays": list(IMAGES),
    "single arrays and labels": [(image, 1) for image in IMAGES],
    "PIL images": [Image.fromarray(image) for image in IMAGES],
    "PIL images and labels": [(Image.fromarray(image), "cat") for image in IMAGES],
    "lists of PIL images": [[Image.fromarray(image) for image in IMAGES[:6]], [Image.fromarray(i) for i in IMAGES[6:]]],
    "lists of arrays": [list(IMAGES[:2]), list(IMAGES[2:])],
    "a DataLoader of tensors": DataLoader(TensorDataset(NCHW), batch_size=3),
    "a DataLoader of pairs": DataLoader(Pairs(), batch_size=7),
    "an IterableDataset": Streamed(),
    "a Dataset of pairs": Pairs(),
    "a Dataset of PIL images": Pairs([Image.fromarray(image) for image in IMAGES]),
    "a Dataset of arrays": Pairs(IMAGES),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_every_kind_gives_the_same_pixels(kind: str) -> None:
    source = open_source(ITEMS[kind])
    batches = list(source.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 2]  # whatever size the items had
    assert [name for batch in batches for name in batch.names] == [str(i) for i in range(10)]
    np.testing.assert_array_equal(np.concatenate([batch.images.numpy() for batch in batches]), IMAGES)
    assert source.count == (10 if source.kind == "dataset" else None)
    np.testing.assert_array_equal(read(source, 64), IMAGES)  # and once more, in one batch


def test_generators_are_read_once() -> None:
    source = open_source(NCHW[begin : begin + 3] for begin in range(0, 10, 3))
    np.testing.assert_array_equal(read(source), IMAGES)
    with pytest.raises(ValueError, match="generator of batches is an iterator that has been read already"):
        source.batches(4)


def test_generators_are_read_no_further_than_needed() -> None:
    asked = []

    def make() -> Iterator[torch.Tensor]:
        for begin in range(0, 10, 2):
            asked.append(begin)
            yield NCHW[begin : begin + 2]

    np.testing.assert_array_equal(read(open_source(make()), 2, limit=5), IMAGES[:5])
    assert asked == [0, 2, 4]
    asked.clear()
    batches = open_source(make()).batches(2)
    assert asked == []
    next(batches)
    assert asked == [0]


@pytest.mark.parametrize("limit", [1, 3, 4, 8, 9, 10])
@pytest.mark.parametrize("size", [1, 3, 4, 64])
def test_limit_takes_the_first_of_a_stream(limit: int, size: int) -> None:
    np.testing.assert_array_equal(read(open_source([NCHW[:7], NCHW[7:]]), size, limit=limit), IMAGES[:limit])


def test_limit_above_what_a_stream_holds() -> None:
    with pytest.raises(ValueError, match="limit=11, but list of batches held only 10 images"):
        read(open_source([NCHW[:7], NCHW[7:]]), limit=11)


def test_limit_of_a_dataset_is_the_published_subset() -> None:
    np.testing.assert_array_equal(read(open_source(Pairs()), limit=4), IMAGES[[2, 4, 8, 9]])


def test_an_empty_stream_gives_nothing() -> None:
    assert list(open_source([]).batches(4)) == []
    assert list(open_source(iter(())).batches(4)) == []


def test_mixed_sizes_come_packed() -> None:
    items = [photo(0, 5, 6), photo(1, 5, 6), photo(2, 7, 3), photo(3, 5, 6)]
    same, mixed = open_source(items).batches(2)
    assert isinstance(same.images, torch.Tensor)
    assert isinstance(mixed.images, RaggedImages)
    assert mixed.images.sizes == ((7, 3), (5, 6))
    for index, image in enumerate(items[2:]):
        np.testing.assert_array_equal(mixed.images[index].numpy(), image)


def test_one_channel_is_repeated_and_noted() -> None:
    source = open_source([NCHW[:, :1]])
    np.testing.assert_array_equal(read(source), np.repeat(IMAGES[..., :1], 3, axis=3))
    assert source.notes == ("one channel, repeated to three",)


def test_layout_overrides_the_rule() -> None:
    np.testing.assert_array_equal(read(open_source([torch.from_numpy(IMAGES)], layout="NHWC")), IMAGES)
    np.testing.assert_array_equal(read(open_source([NCHW.numpy()], layout="NCHW")), IMAGES)
    np.testing.assert_array_equal(read(open_source(Pairs(NCHW.numpy()), layout="NCHW")), IMAGES)


def test_batches_do_not_share_memory_with_the_items() -> None:
    items = [NCHW.clone()]
    for batch in open_source(items).batches(4):
        batch.images.zero_()
    assert torch.equal(items[0], NCHW)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_datasets_are_decoded_by_workers(num_workers: int) -> None:
    np.testing.assert_array_equal(read(open_source(Pairs()), num_workers=num_workers), IMAGES)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (NCHW.float() / 255, TypeError, r"item 1 of list of batches: images must be uint8, got float32\. Rounding"),
        (torch.from_numpy(IMAGES), ValueError, r"item 1 of list of batches: .*x\.permute\(0, 3, 1, 2\)"),
        ("a.png", TypeError, r"item 1 of list of batches is str; accepted: a uint8 tensor"),
        ({"image": NCHW}, TypeError, r"item 1 .* is dict \{'image': uint8 tensor .*: key='image'\."),
        ([], TypeError, r"is list of 0; accepted"),
        (NCHW[0, 0], ValueError, r"got shape \[24, 32\]"),
        (None, TypeError, "is NoneType"),
    ],
)
def test_items_that_are_no_images(item: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(open_source([NCHW[:2], item]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_dataset_gives_is_checked(num_workers: int) -> None:
    with pytest.raises(TypeError, match=r"item 0 of Pairs dataset: images must be uint8, got float32"):
        read(open_source(Pairs(NCHW / 255)), num_workers=num_workers)
    with pytest.raises(ValueError, match="item 0 of Pairs dataset holds several images"):
        read(open_source(Pairs([NCHW])), num_workers=num_workers)


class Files(Dataset):
    """A Dataset that opens files itself."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.open(self.paths[index])


class Full:
    """A path that can't be opened for want of descriptors."""

    def __fspath__(self) -> str:
        raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_images_of_a_dataset(tmp_path: Path, num_workers: int) -> None:
    write_folder(tmp_path, IMAGES[:5])
    (tmp_path / "001.png").write_bytes(b"no image")  # fails when it is opened
    cut = (tmp_path / "003.png").read_bytes()[:300]
    (tmp_path / "003.png").write_bytes(cut)  # opens, and fails when it is converted
    with pytest.raises(BadImageError, match="cannot read image '1' in Files dataset"):
        read(open_source(Files(tmp_path)), num_workers=num_workers)
    (batch,) = open_source(Files(tmp_path)).batches(8, num_workers=num_workers, skip_bad=True)
    assert [error.name for error in batch.bad] == ["1", "3"]
    np.testing.assert_array_equal(batch.images.numpy(), IMAGES[[0, 2, 4]])
    dataset = Files(tmp_path)
    (tmp_path / "004.png").unlink()
    (batch,) = open_source(dataset).batches(8, num_workers=num_workers, skip_bad=True)
    assert [error.name for error in batch.bad] == ["1", "3", "4"]
    assert "004.png" in batch.bad[2].reason
    dataset.paths[0] = Full()
    with pytest.raises(OSError, match="Too many open files"):  # the process's own trouble: not skipped
        read(open_source(dataset), skip_bad=True, num_workers=num_workers)
