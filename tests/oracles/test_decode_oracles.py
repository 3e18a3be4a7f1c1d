"""The same files, the same order and the same pixels as the real packages, for every kind of file."""

from __future__ import annotations

import os
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from images import KINDS, photo, photos, png, write_folder, write_kinds, write_zip

from fastfid.protocols import PROTOCOLS
from fastfid.sources import Decode, open_source
from fastfid.sources.decode import decode_image

pytestmark = pytest.mark.oracle

Reference = Callable[[str], ModuleType]
CLEAN = PROTOCOLS["clean"].decode
FIDELITY = PROTOCOLS["torch-fidelity"].decode


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_kinds(tmp_path_factory.mktemp("kinds"), photo(11, 45, 61))


@pytest.fixture(autouse=True)
def _silent_pillow() -> object:
    """The packages let Pillow warn of palettes with transparency; fastfid does not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Palette images with Transparency")
        yield


def ours(path: Path) -> np.ndarray:
    return decode_image(path, path.name, str(path.parent))[0]


@pytest.mark.parametrize("name", KINDS)
def test_pixels_of_pytorch_fid(reference: Reference, kinds: dict[str, Path], name: str) -> None:
    fid_score = reference("pytorch_fid.fid_score")
    (theirs,) = fid_score.ImagePathDataset([kinds[name]], transforms=np.asarray)
    np.testing.assert_array_equal(ours(kinds[name]), theirs)
    tensor = fid_score.ImagePathDataset([kinds[name]], transforms=fid_score.TF.ToTensor())[0]  # what its network sees
    np.testing.assert_array_equal(ours(kinds[name]), (tensor * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", KINDS)
def test_pixels_of_torch_fidelity(reference: Reference, kinds: dict[str, Path], name: str) -> None:
    theirs = reference("torch_fidelity.datasets").ImagesPathDataset([kinds[name]])[0]
    np.testing.assert_array_equal(ours(kinds[name]), theirs.permute(1, 2, 0).numpy())


def clean_reader(reference: Reference, files: list[str], folder: str | None = None) -> list[np.ndarray]:
    """What clean-fid reads, before it resizes."""
    dataset = reference("cleanfid.utils").ResizeDataset(files, "clean", fdir=folder)
    dataset.fn_resize = lambda pixels: pixels.astype(np.float32)
    return [dataset[i].permute(1, 2, 0).numpy() for i in range(len(files))]


@pytest.mark.parametrize("name", KINDS)
def test_pixels_of_clean_fid(reference: Reference, kinds: dict[str, Path], name: str) -> None:
    (theirs,) = clean_reader(reference, [str(kinds[name])])
    np.testing.assert_array_equal(ours(kinds[name]), theirs)


def test_zip_of_clean_fid(reference: Reference, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", photos(5), "sub/{}.png")
    source = open_source(path, decode=CLEAN)
    theirs = clean_reader(reference, source.names, str(path))
    (batch,) = source.batches(8)
    np.testing.assert_array_equal(batch.images.numpy(), np.stack(theirs))
    with zipfile.ZipFile(path) as archive:
        assert sorted(set(archive.namelist())) == list(batch.names)


def test_npy_images_of_clean_fid(reference: Reference, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", photo(3))
    (theirs,) = clean_reader(reference, [str(tmp_path / "a.npy")])
    (batch,) = open_source(tmp_path, decode=CLEAN).batches(8)
    np.testing.assert_array_equal(batch.images[0].numpy(), theirs)


def deep_set(folder: Path) -> Path:
    """Files that the packages' listings treat differently; lower-case extensions, which all find."""
    images = photos(9, 6, 6)
    names = ["b.png", "a.jpg", "a-b.png", "sub/z.png", "sub/deep/y.png", "sub.png", "10.png", "9.png", ".hidden.png"]
    for name, image in zip(names, images, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (folder / "notes.txt").write_text("no image")
    (folder / "linked").symlink_to(folder / "sub" / "deep")
    return folder


def listed(folder: Path, decode: Decode) -> list[str]:
    return [name for batch in open_source(folder, decode=decode).batches(64) for name in batch.names]


def relative(files: list[object], folder: Path) -> list[str]:
    return [Path(str(file)).relative_to(folder).as_posix() for file in files]


def test_listing_of_pytorch_fid(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fid_score = reference("pytorch_fid.fid_score")
    seen: list[object] = []
    monkeypatch.setattr(fid_score, "calculate_activation_statistics", lambda files, *_: (seen.extend(files), None))
    fid_score.compute_statistics_of_path(str(deep_set(tmp_path)), None, 1, 2048, "cpu")
    assert relative(seen, tmp_path) == listed(tmp_path, PROTOCOLS["pytorch-fid"].decode)


def test_listing_of_clean_fid(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fid = reference("cleanfid.fid")
    seen: list[str] = []
    monkeypatch.setattr(fid, "get_files_features", lambda files, *_, **__: seen.extend(files))
    fid.get_folder_features(str(deep_set(tmp_path)), verbose=False)
    assert sorted(relative(seen, tmp_path)) == listed(tmp_path, CLEAN)


@pytest.mark.parametrize("deep", [False, True])
def test_listing_of_torch_fidelity(reference: Reference, tmp_path: Path, deep: bool) -> None:
    utils = reference("torch_fidelity.utils")
    folder = Path(os.path.realpath(deep_set(tmp_path)))
    theirs = utils.glob_samples_paths(str(folder), deep, "png,jpg,jpeg", verbose=False)
    assert relative(theirs, folder) == listed(folder, replace(FIDELITY, recursive=deep))


def test_upper_case_extensions_of_torch_fidelity(reference: Reference, tmp_path: Path) -> None:
    """pytorch-fid passes over these on a case-sensitive file system; torch-fidelity reads them."""
    for name in ("A.PNG", "b.Jpg", "c.png"):
        (tmp_path / name).write_bytes(png(photo(1)))
    theirs = reference("torch_fidelity.utils").glob_samples_paths(str(tmp_path), False, "png,jpg,jpeg", verbose=False)
    assert relative(theirs, Path(os.path.realpath(tmp_path))) == listed(tmp_path, FIDELITY)


def odd_set(folder: Path, seed: int) -> Path:
    """Names in mixed case, hidden, odd, nested; links to files, to folders and to nothing; nothing that is opened."""
    draw = random.Random(seed)
    stems = ["a", "B", "c.d", "", ".", ".hid", "e f", "x.png", "ü", "["]
    endings = [
        ".png",
        ".PNG",
        ".Png",
        ".jpg",
        ".JPG",
        ".Jpeg",
        ".JPEG",
        ".jpeg",
        ".TIF",
        ".tiff",
        ".webp",
        ".bmp",
        ".gif",
    ]
    endings += [".bmp", ".gif", ".npy", ".NPY", ".txt", "png", ".png~", ".ppm", ".pgm", ""]

    def fill(place: Path, depth: int) -> None:
        place.mkdir(parents=True)
        for _ in range(draw.randint(3, 14)):
            name = draw.choice(stems) + draw.choice(endings)
            if name not in ("", ".", "..") and not (place / name).exists():
                (place / name).touch()
        (place / f"link{depth}.png").symlink_to(folder.parent / f"target{seed}.bin")
        (place / f"nowhere{depth}.jpg").symlink_to("nothing")
        for name in ("s", ".t", "u.d"):
            if depth and draw.random() < 0.6:
                fill(place / name, depth - 1)

    (folder.parent / f"target{seed}.bin").touch()
    elsewhere = folder.parent / f"elsewhere{seed}"
    (elsewhere / "f").mkdir(parents=True)
    (elsewhere / "f" / "g.png").touch()
    fill(folder, 3)
    (folder / "linked").symlink_to(elsewhere)
    return folder


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_odd_listings_of_pytorch_fid(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    fid_score = reference("pytorch_fid.fid_score")
    folder, seen = odd_set(tmp_path / "set", seed), []
    monkeypatch.setattr(fid_score, "calculate_activation_statistics", lambda files, *_: (seen.extend(files), None))
    fid_score.compute_statistics_of_path(str(folder), None, 1, 2048, "cpu")
    assert relative(seen, folder) == names_of(folder, "pytorch-fid")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("archive", [False, True])
def test_odd_listings_of_clean_fid(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, archive: bool
) -> None:
    fid = reference("cleanfid.fid")
    folder, seen = odd_set(tmp_path / "set", seed), []
    monkeypatch.setattr(fid, "get_files_features", lambda files, *_, **__: seen.extend(files))
    if archive:
        path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", without_broken_links(folder)))
        fid.get_folder_features(str(path), verbose=False)
        assert sorted(seen) == names_of(path, "clean")
    else:
        fid.get_folder_features(str(folder), verbose=False)
        assert sorted(relative(seen, folder)) == names_of(folder, "clean")


@pytest.mark.parametrize("seed", SEEDS)
def test_odd_listings_of_torch_fidelity(reference: Reference, tmp_path: Path, seed: int) -> None:
    """It names files by where links point to."""
    folder = odd_set(Path(os.path.realpath(tmp_path)) / "set", seed)
    theirs = reference("torch_fidelity.utils").glob_samples_paths(str(folder), False, "png,jpg,jpeg", verbose=False)
    ours = [os.path.realpath(folder / name) for name in names_of(folder, "torch-fidelity")]
    assert theirs == sorted(ours)


def without_broken_links(folder: Path) -> Path:
    for path in list(folder.rglob("nowhere*")):
        path.unlink()
    return folder


def names_of(path: Path, protocol: str) -> list[str]:
    found = open_source(path, decode=PROTOCOLS[protocol].decode)
    assert found.count
    return found.names


def test_damaged_files_stop_every_package(reference: Reference, tmp_path: Path) -> None:
    """None of them skips a file; fastfid says which it was."""
    content = png(photo(2))
    path = tmp_path / "cut.png"
    path.write_bytes(content[: len(content) // 2])
    for load in (
        lambda: reference("pytorch_fid.fid_score").ImagePathDataset([path])[0],
        lambda: reference("torch_fidelity.datasets").ImagesPathDataset([path])[0],
        lambda: clean_reader(reference, [str(path)]),
    ):
        with pytest.raises(OSError, match="truncated"):
            load()
    with pytest.raises(ValueError, match=r"'cut\.png'.*truncated"):
        ours(path)


def test_whole_set_through_pytorch_fids_loader(reference: Reference, tmp_path: Path) -> None:
    fid_score = reference("pytorch_fid.fid_score")
    write_folder(tmp_path, photos(12), "{}.png")
    source = open_source(tmp_path)
    dataset = fid_score.ImagePathDataset([tmp_path / name for name in source.names], transforms=fid_score.TF.ToTensor())
    loader = torch.utils.data.DataLoader(dataset, batch_size=5)
    for theirs, batch in zip(loader, source.batches(5, num_workers=1), strict=True):
        assert torch.equal(theirs, batch.images.permute(0, 3, 1, 2).float().div(255))
