"""Folders and zip archives: what is found, in which order, what is said when nothing is."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from images import photo, photos, png, write_folder, write_zip

from fastfid.errors import BadImageError, EmptySourceError
from fastfid.sources import Decode, Source, open_source

DEEP = Decode(recursive=True)


def names(source: Source, **options: object) -> list[str]:
    return [name for batch in source.batches(4, **options) for name in batch.names]


def pixels(source: Source, **options: object) -> np.ndarray:
    return np.concatenate([batch.images.numpy() for batch in source.batches(3, **options)])


def touch(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(photo(len(file))))
    return folder


def test_folder_is_sorted_and_whole(tmp_path: Path) -> None:
    images = photos(11)
    for order in (10, 3, 7, 0, 1, 2, 4, 5, 6, 8, 9):
        (tmp_path / f"{order:02d}.png").write_bytes(png(images[order]))
    source = open_source(tmp_path)
    assert (source.kind, source.count, source.description) == ("folder", 11, str(tmp_path))
    batches = list(source.batches(4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert [name for batch in batches for name in batch.names] == [f"{i:02d}.png" for i in range(11)]
    np.testing.assert_array_equal(pixels(source), images)
    assert repr(source) == f"<FolderSource {tmp_path}, 11 images>"


def test_order_is_that_of_strings(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/z.png", "a-b.png", "a.png", "A.png", "10.png", "9.png")
    want = sorted(["b.png", "a/z.png", "a-b.png", "a.png", "A.png", "10.png", "9.png"])
    assert want.index("a-b.png") < want.index("a/z.png")  # "-" < "/": paths compare as strings, not part by part
    assert names(open_source(tmp_path, decode=DEEP)) == want


def test_extensions_in_any_case_and_no_others(tmp_path: Path) -> None:
    touch(tmp_path, "a.PNG", "b.JpEG", "c.webp", "d.gif", "e.txt", "f", "g.npy", "h.png.bak", "i.TIF")
    assert names(open_source(tmp_path)) == ["a.PNG", "b.JpEG", "c.webp", "i.TIF"]
    assert names(open_source(tmp_path, decode=Decode(extensions=frozenset({"gif"})))) == ["d.gif"]


def test_npy_images_beside_others(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    np.save(tmp_path / "b.npy", photo(9))
    assert names(open_source(tmp_path)) == ["a.png"]
    source = open_source(tmp_path, decode=Decode(npy_files=True))
    np.testing.assert_array_equal(pixels(source), [photo(5), photo(9)])


def test_hidden_files_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".b.png", ".c/d.png", "e/.f.png")
    assert names(open_source(tmp_path)) == [".b.png", "a.png"]
    assert names(open_source(tmp_path, decode=DEEP)) == [".b.png", ".c/d.png", "a.png", "e/.f.png"]
    assert names(open_source(tmp_path, decode=Decode(recursive=True, hidden=False))) == ["a.png"]


def test_folders_that_look_like_images_are_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png/c.png")
    assert names(open_source(tmp_path)) == ["a.png"]
    assert names(open_source(tmp_path, decode=DEEP)) == ["a.png", "b.png/c.png"]


def test_links(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "x.png", "deep/y.png")
    folder = touch(tmp_path / "set", "a.png")
    (folder / "b.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert names(open_source(folder)) == ["a.png", "b.png"]
    assert names(open_source(folder, decode=DEEP)) == ["a.png", "b.png"]
    followed = Decode(recursive=True, follow_links=True)
    assert names(open_source(folder, decode=followed)) == ["a.png", "b.png", "linked/deep/y.png", "linked/x.png"]
    (tmp_path / "as-link").symlink_to(folder)
    assert names(open_source(tmp_path / "as-link")) == ["a.png", "b.png"]


def test_a_broken_link_is_a_bad_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone")
    with pytest.raises(BadImageError, match=r"'b\.png'.*a symbolic link to a file that does not exist"):
        names(open_source(tmp_path))


def test_unicode_and_blanks_in_names(tmp_path: Path) -> None:
    files = ["ä ö.png", "日本.png", "new\nline.png"]
    assert names(open_source(touch(tmp_path / "a b", *files))) == sorted(files)
    assert open_source(os.fsencode(tmp_path / "a b")).count == 3  # bytes are paths, too


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(EmptySourceError, match=r"no images in folder '.*': looked for \.bmp, .*\.webp \(in any case\)"):
        open_source(tmp_path)
    with pytest.raises(EmptySourceError, match=r"not in subfolders\. It is empty\."):
        open_source(tmp_path)
    with pytest.raises(EmptySourceError, match=r"in it and its subfolders\. It is empty\."):
        open_source(tmp_path, decode=DEEP)


def test_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "b.TXT", "README", "c.gif")
    with pytest.raises(EmptySourceError, match=r"holds 4 other files: \.txt \(2\), \.gif \(1\), no extension \(1\)\."):
        open_source(tmp_path)


def test_folder_of_folders_says_where_the_images_are(tmp_path: Path) -> None:
    touch(tmp_path, *(f"class{c}/{i}.png" for c in range(5) for i in range(2)), "class0/notes.txt")
    with pytest.raises(EmptySourceError) as error:
        open_source(tmp_path)
    message = str(error.value)
    assert "subfolders hold 10 images" in message
    assert "class0, class1, class2 and 2 more" in message
    assert "Decode(recursive=True)" in message
    assert names(open_source(tmp_path, decode=DEEP))[:2] == ["class0/0.png", "class0/1.png"]


def test_zip_equals_folder(tmp_path: Path) -> None:
    images = photos(7)
    source = open_source(write_zip(tmp_path / "set.ZIP", images, "sub/{:02d}.PNG"))
    assert (source.kind, source.count) == ("zip", 7)
    np.testing.assert_array_equal(pixels(source), images)
    assert names(source) == [f"sub/{i:02d}.PNG" for i in range(7)]


def test_zip_members_are_filtered_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("b.png") if hasattr(archive, "mkdir") else archive.writestr("b.png/", "")
        for name in ("z.png", "b.png/a.png", "__MACOSX/._z.png", "notes.txt", ".hidden.png"):
            archive.writestr(name, png(photo(1)))
    source = open_source(path)
    assert names(source) == [".hidden.png", "b.png/a.png", "z.png"]
    assert source.unread == {"macOS forks": 1, ".txt": 1}
    assert source.remarks == ()  # nothing that was meant
    plain = open_source(path, decode=Decode(hidden=False))
    assert names(plain) == ["b.png/a.png", "z.png"]
    assert plain.unread == {"macOS forks": 1, "hidden": 1, ".txt": 1}
    assert names(open_source(path, decode=Decode(hidden=False, open_archives=True))) == names(source)


def test_zip_without_images(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(EmptySourceError, match=r"no images in archive .*among its 1 members"):
        open_source(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_no_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable zip archive"):
        open_source(tmp_path / "set.zip")


def test_a_damaged_member_is_a_bad_image(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", photos(3))
    content = bytearray(path.read_bytes())
    middle = content.index(png(photo(1))[:60]) + 100
    content[middle] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(BadImageError, match=r"'001\.png' in .*set\.zip: Bad CRC-32"):
        names(open_source(path))
    batches = list(open_source(path).batches(8, skip_bad=True))
    assert batches[0].names == ("000.png", "002.png")
    assert [error.name for error in batches[0].bad] == ["001.png"]


def test_a_zip_cut_short(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", photos(3))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="was it copied whole"):
        open_source(path)


def test_limit_takes_the_published_subset(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, photos(10, 4, 4)))
    # np.random.RandomState(0).shuffle(arange(10)) gives 2 8 4 9 1 6 7 3 0 5; the first four, sorted:
    assert names(source, limit=4) == [f"{i:03d}.png" for i in (2, 4, 8, 9)]
    # RandomState(1): 2 9 6 4 0 3 1 7 8 5
    assert names(source, limit=4, seed=1) == [f"{i:03d}.png" for i in (2, 4, 6, 9)]
    assert names(source, limit=4, seed=2**31 + 1) == names(source, limit=4, seed=1)  # EDM takes the seed modulo 2^31
    assert names(source, limit=10) == [f"{i:03d}.png" for i in range(10)]


def test_limit_above_the_number_of_images(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, photos(3, 4, 4)))
    with pytest.raises(ValueError, match=r"limit=4, but .* holds only 3 images"):
        source.batches(2, limit=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got float"),
        ({"batch_size": True}, "batch_size must be a whole number, got bool"),
        ({"batch_size": 1, "num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"batch_size": 1, "limit": 0}, "limit must be at least 1, got 0"),
    ],
)
def test_arguments_are_checked_at_the_call(tmp_path: Path, options: dict[str, object], message: str) -> None:
    source = open_source(write_folder(tmp_path, photos(1)))
    with pytest.raises((TypeError, ValueError), match=message):
        source.batches(**options)


def test_paths_that_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: '.*missing'; accepted: a folder"):
        open_source(tmp_path / "missing")
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(
        ValueError, match=r"cannot read images from .*list\.txt' \(\.txt\); accepted: a folder of images"
    ):
        open_source(tmp_path / "list.txt")
    (tmp_path / "set.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"repack it as \.zip"):
        open_source(tmp_path / "set.tar")
    (tmp_path / "ref.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match="Pickled statistics"):
        open_source(tmp_path / "ref.pkl")
    (tmp_path / "noext").write_bytes(b"x")
    with pytest.raises(ValueError, match="no extension"):
        open_source(tmp_path / "noext")
    touch(tmp_path, "one.png")
    with pytest.raises(ValueError, match="a single image; a distance needs a set"):
        open_source(tmp_path / "one.png")


def test_relative_paths_are_described_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/a.png")
    monkeypatch.chdir(tmp_path)
    assert open_source("set").description == "set"
    assert open_source(Path("./set")).description == "set"
    assert open_source("set/").count == 1
