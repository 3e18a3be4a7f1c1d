"""What identifies a set: its content, told apart from every near miss, and read once only."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_pass import settle
from images import photo, photos, png, write_folder, write_zip

from fastfid.errors import CacheWarning
from fastfid.extractors import WeightsInfo, as_extractor
from fastfid.passes.store import content, identify, refusal
from fastfid.sources import Decode, open_source

DEEP = Decode(recursive=True)


def digest(given: object, hashes: Path | None = None, **options: Any) -> str:
    identity = identify(open_source(given, **options), hashes=hashes)
    assert identity is not None
    return identity.digest


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose contents were hashed."""
    seen: list[str] = []
    hashed = content._file_digest

    def noting(path: str, *rest: Any) -> bytes:
        seen.append(Path(path).name)
        return hashed(path, *rest)

    monkeypatch.setattr(content, "_file_digest", noting)
    return seen


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "a", photos(5))
    seen = {digest(first)}
    assert digest(write_folder(tmp_path / "copy", photos(5))) in seen  # elsewhere, at another time: the same set

    def differs() -> None:
        found = digest(first, decode=DEEP)
        assert found not in seen
        seen.add(found)

    (first / "note.txt").write_text("not an image")
    (first / "more").mkdir()
    assert digest(first) in seen
    (first / "005.png").write_bytes(png(photo(5)))
    differs()
    (first / "005.png").rename(first / "more" / "005.png")
    differs()
    (first / "more" / "005.png").rename(first / "0045.png")
    differs()
    (first / "0045.png").unlink()
    assert digest(first, decode=DEEP) in seen
    swapped = (first / "000.png").read_bytes()
    (first / "000.png").write_bytes((first / "001.png").read_bytes())
    (first / "001.png").write_bytes(swapped)  # the same contents under exchanged names: another order
    differs()
    flipped = bytearray(swapped)
    flipped[-1] ^= 1
    (first / "001.png").write_bytes(flipped)
    differs()


def test_unreadable_files_belong_to_the_set(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", photos(2))
    before = digest(folder)
    (folder / "002.png").symlink_to(tmp_path / "later.png")
    broken = digest(folder)
    assert broken != before
    (tmp_path / "later.png").write_bytes(b"")
    assert digest(folder) not in (broken, before)


def test_archives_and_array_files_are_their_bytes(tmp_path: Path) -> None:
    pixels = photos(6)
    seen = [digest(write_zip(tmp_path / "a.zip", pixels)), digest(write_zip(tmp_path / "b.zip", pixels[:5]))]
    deep = write_zip(tmp_path / "c.zip", pixels[:2], "x/.{}.png")
    seen += [digest(deep), digest(write_zip(tmp_path / "d.zip", pixels, "é{}.png"))]
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", arr_0=pixels)
    np.savez_compressed(tmp_path / "b.npz", arr_0=pixels)
    np.savez(tmp_path / "c.npz", other=pixels)
    seen += [digest(tmp_path / name) for name in ("a.npy", "a.npz", "b.npz", "c.npz")]
    assert len(set(seen)) == len(seen)
    (tmp_path / "moved").mkdir()
    for name in ("a.zip", "a.npy", "a.npz"):
        before = digest(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "moved" / f"x{Path(name).suffix}")
        assert digest(tmp_path / "moved" / f"x{Path(name).suffix}") == before


def test_an_array_is_its_pixels_and_axes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 3, 3), dtype=np.uint8)
    want = digest(pixels)
    assert digest(np.asfortranarray(pixels)) == want
    assert digest(np.repeat(pixels, 2, axis=0)[::2]) == want
    assert digest(torch.from_numpy(pixels), layout="NHWC") == want
    others = [
        digest(pixels, layout="NCHW"),
        digest(pixels[::-1]),
        digest(pixels[:6]),
        digest(pixels.reshape(7, 1, 9, 3)),
    ]
    changed = pixels.copy()
    changed[6, 2, 2, 2] ^= 1
    assert len({want, *others, digest(changed)}) == 6


def test_large_files_and_arrays_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_LEAF_BYTES", 4096)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 20, 50, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    want = digest(tmp_path / "a.npy"), digest(pixels)
    assert content._file_digest(str(tmp_path / "a.npy")) == content._file_digest(str(tmp_path / "a.npy"), map)
    for at in (0, 4, 8):
        changed = pixels.copy()
        changed[at, -1, -1, -1] ^= 1
        np.save(tmp_path / "b.npy", changed)
        assert digest(tmp_path / "b.npy") != want[0]
        assert digest(changed) != want[1]


def test_what_comes_out_of_python_is_not_identified() -> None:
    pixels = torch.from_numpy(photos(4)).permute(0, 3, 1, 2)
    dataset = torch.utils.data.TensorDataset(pixels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    known = WeightsInfo(None, "0" * 64, "random", False, "random")
    for given in (dataset, loader, [pixels], iter([pixels])):
        source = open_source(given)
        assert identify(source) is None
        said = refusal(source, "inception-v3", known)
        assert said is not None
        assert source.kind in said
    assert refusal(open_source(pixels), "inception-v3", known) is None


def test_networks_of_unknown_code_are_refused() -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    source = open_source(photos(3))
    for unknown in (Mean(), module, lambda x: x.mean((2, 3))):
        made = as_extractor(unknown)
        assert "its own code only" in str(refusal(source, made.name, made.weights))
    for origin in ("argument", "torch hub cache", "random"):  # a TorchScript file is an "argument"
        assert refusal(source, "net", WeightsInfo(None, "0" * 64, origin, False, "")) is None


def test_a_second_look_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]) -> None:
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))  # as if the files had been there for a while
    folder = write_folder(tmp_path / "a", photos(3))
    first = digest(folder, tmp_path / "hashes")
    assert sorted(opened) == ["000.png", "001.png", "002.png"]
    opened.clear()
    assert digest(folder, tmp_path / "hashes") == first
    assert opened == []
    (folder / "003.png").write_bytes(png(photo(3)))
    more = digest(folder, tmp_path / "hashes")
    assert opened == ["003.png"]
    assert more == digest(folder)


def test_a_file_changed_just_now_is_not_trusted(tmp_path: Path, opened: list[str]) -> None:
    folder = write_folder(tmp_path / "a", photos(2))
    settle(folder)  # old by its modification time, new by the time of its last change
    first = digest(folder, tmp_path / "hashes")
    opened.clear()
    assert digest(folder, tmp_path / "hashes") == first
    assert sorted(opened) == ["000.png", "001.png"]


def test_same_size_and_restored_time_do_not_hide_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))
    folder = write_folder(tmp_path / "a", photos(3))
    first = digest(folder, tmp_path / "hashes")
    target = folder / "001.png"
    about, data = target.stat(), bytearray(target.read_bytes())
    data[-1] ^= 1
    with target.open("r+b") as file:  # in place: the inode stays, too
        file.write(data)
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))
    now = target.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (about.st_size, about.st_mtime_ns, about.st_ino)
    opened.clear()
    assert digest(folder, tmp_path / "hashes") != first
    assert opened == ["001.png"]


def test_kept_digests_that_are_damaged_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))
    folder = write_folder(tmp_path / "a", photos(3))
    first = digest(folder, tmp_path / "hashes")
    (kept,) = (tmp_path / "hashes").iterdir()
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    with pytest.warns(CacheWarning, match="files are read again"):
        assert digest(folder, tmp_path / "hashes") == first
    assert digest(folder, tmp_path / "hashes") == first  # written anew: no warning now


def test_changes_while_a_set_is_read_are_noticed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", photos(3))
    identity = identify(open_source(folder))
    assert identity is not None
    assert identity.changed() is None
    (folder / "002.png").write_bytes(b"other")
    assert identity.changed() == str(folder / "002.png")
    (folder / "001.png").unlink()
    assert identity.changed() == str(folder / "001.png")


def test_stamps_alone_for_checkpoints(tmp_path: Path, opened: list[str]) -> None:
    folder = write_folder(tmp_path / "a", photos(3))

    def stamped() -> str:
        identity = identify(open_source(folder), read=False)
        assert identity is not None
        return identity.digest

    first = stamped()
    assert stamped() == first
    settle(folder)
    assert stamped() != first
    assert opened == []


def test_failing_disks_are_no_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "a", photos(2))

    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(5, "Input/output error")

        def fileno(self) -> int:
            return os.open(folder / "000.png", os.O_RDONLY)

    monkeypatch.setattr(content, "open_regular", lambda _path: Failing())
    with pytest.raises(OSError, match="Input/output"):
        digest(folder)
