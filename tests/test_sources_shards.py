"""Pieces of a set for several readers, and resuming within one: every image exactly once, in every kind of set."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import photos, write_folder
from torch.utils.data import TensorDataset

from fastfid.sources import Shard, Source, open_source

IMAGES = photos(11)
NCHW = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous()
INDEXED = ("folder", "zip", "npz stored", "npz deflated", "npy", "array", "tensor", "dataset")
KINDS = (*INDEXED, "batches", "list of images")


def make(kind: str, folder: Path) -> Source:
    if kind in ("folder", "zip"):
        write_folder(folder / "images", IMAGES)
        if kind == "folder":
            return open_source(folder / "images")
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            for path in sorted((folder / "images").iterdir()):
                archive.write(path, path.name)
        return open_source(folder / "set.zip")
    if kind.startswith("npz"):
        save = np.savez if kind.endswith("stored") else np.savez_compressed
        save(folder / "set.npz", other=np.eye(3), arr_0=IMAGES)
        return open_source(folder / "set.npz")
    if kind == "npy":
        np.save(folder / "set.npy", IMAGES)
        return open_source(folder / "set.npy")
    given: Any = {
        "array": IMAGES,
        "tensor": NCHW,
        "dataset": TensorDataset(NCHW),
        "batches": [NCHW[:4], NCHW[4:5], NCHW[5:]],
        "list of images": list(IMAGES),
    }[kind]
    return open_source(given)


def read(source: Source, size: int = 3, **options: Any) -> list[bytes]:
    batches = list(source.batches(size, **options))
    begin = -options.get("start", 0) % size  # the rest of the batch it falls into
    assert all(len(batch) == size for batch in batches[1 if begin else 0 : -1])
    assert not begin or not batches or len(batches) == 1 or len(batches[0]) == begin
    return [image.numpy().tobytes() for batch in batches for image in batch.images]


@pytest.mark.parametrize("kind", KINDS)
def test_shards_together_are_the_set(kind: str, tmp_path: Path) -> None:
    source = make(kind, tmp_path)
    whole = read(source)
    assert len(whole) == len(IMAGES)
    for of in (1, 2, 3, 11, 13):
        pieces = [read(source, shard=Shard(index, of)) for index in range(of)]
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
        together = [image for piece in pieces for image in piece]
        if kind in INDEXED:
            assert together == whole, of
        assert sorted(together) == sorted(whole), of


@pytest.mark.parametrize("kind", KINDS)
def test_start_leaves_out_the_beginning(kind: str, tmp_path: Path) -> None:
    source = make(kind, tmp_path)
    for shard in (Shard(), Shard(1, 2)):
        whole = read(source, shard=shard)
        for start in (0, 1, 3, len(whole), len(whole) + 5):
            assert read(source, shard=shard, start=start) == whole[start:], (shard, start)


@pytest.mark.parametrize("kind", INDEXED)
def test_limit_comes_before_the_shards(kind: str, tmp_path: Path) -> None:
    source = make(kind, tmp_path)
    wanted = read(source, limit=7, seed=3)
    assert wanted != read(source)[:7]
    assert [i for index in range(3) for i in read(source, limit=7, seed=3, shard=Shard(index, 3))] == wanted
    names = [name for batch in source.batches(2, limit=7, seed=3, shard=Shard(2, 3)) for name in batch.names]
    assert names == [name for batch in source.batches(2, limit=7, seed=3) for name in batch.names][-len(names) :]


@pytest.mark.parametrize("kind", ["batches", "list of images"])
def test_limit_of_a_stream_comes_before_the_shards(kind: str, tmp_path: Path) -> None:
    source, whole = make(kind, tmp_path), [image.tobytes() for image in IMAGES]
    pieces = [read(source, limit=7, shard=Shard(index, 3)) for index in range(3)]
    assert pieces == [whole[index:7:3] for index in range(3)]
    with pytest.raises(ValueError, match=r"limit=12, but .* held only 11 images"):
        read(source, limit=12, shard=Shard(1, 3))


def test_block_is_of_the_set_not_of_the_shard(tmp_path: Path) -> None:
    source = make("array", tmp_path)
    assert [len(read(source, block=4, shard=Shard(index, 3))) for index in range(3)] == [2, 3, 3]  # 8 of 11
    assert len(read(source, block=12)) == 11  # a set smaller than one block is all there is
    with pytest.raises(ValueError, match=r"block=4: how many images .* is not known"):
        make("batches", tmp_path).batches(2, block=4)


def test_what_is_refused() -> None:
    for index, of in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"shard {index}/{of}: accepted: INDEX/OF"):
            Shard(index, of)
    with pytest.raises(ValueError, match="start must be at least 0"):
        open_source(IMAGES).batches(2, start=-1)


def test_part_of_a_stored_npz_that_holds_less_than_it_says(tmp_path: Path) -> None:
    """What is read around the archive's CRC check must not run into the next member."""
    path = tmp_path / "set.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": IMAGES.shape}
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("arr_0.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header)
            member.write(IMAGES[:10].tobytes())
        archive.writestr("other.bin", bytes(IMAGES[0].size))
    with pytest.raises(ValueError, match=r"arr_0\]: .* only 23040 bytes follow"):
        read(open_source(path), shard=Shard(1, 2))


def test_a_stored_npz_is_sought_not_read_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "set.npz", arr_0=IMAGES)
    source, taken = open_source(tmp_path / "set.npz"), []
    kept = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: taken.append(n) or kept(self, n))
    assert read(source, shard=Shard(1, 2)) == [image.tobytes() for image in IMAGES[5:]]
    assert sum(n for n in taken if n > 0) < IMAGES[0].size  # the header, not the images before the shard
