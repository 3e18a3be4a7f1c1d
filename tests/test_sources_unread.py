"""What a listing reads, and that it counts the rest: random trees against rules that are written down apart."""

from __future__ import annotations

import json
import os
import random
import socket
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import photo, png
from PIL import Image

import fastfid
from fastfid.errors import BadImageError, BadImageWarning, EmptySourceError, SetWarning
from fastfid.protocols import PROTOCOLS
from fastfid.report.table import protocols_table, report_table
from fastfid.sources import Decode, open_source

STEMS = ["a", "b.c", "IMG_1", "", ".", ".hid", "..", "x.png", "z z", "ä"]
NINE = [".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
SUFFIXES = [".png", ".PNG", ".Png", ".jpg", ".JPG", ".jpeg", ".tiff", ".gif", ".avif", ".txt", ".npy", ".png~", "", "."]
FOLDERS = ["s", ".t", "u.png", "v"]


def grow(root: Path, seed: int, depth: int = 3) -> list[str]:
    """A random tree of empty files; the relative paths of its files."""
    draw, made = random.Random(seed), []

    def fill(folder: Path, prefix: str, left: int) -> None:
        folder.mkdir(exist_ok=True)
        names = {draw.choice(STEMS) + draw.choice(SUFFIXES) for _ in range(draw.randint(2, 9))}
        for name in sorted(names - {"", ".", "..", "..."}):
            (folder / name).touch()
            made.append(prefix + name)
        for name in FOLDERS:
            if left and draw.random() < 0.5:
                fill(folder / name, f"{prefix}{name}/", left - 1)

    fill(root, "", depth)
    return made


def extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  # as the packages take it


def wanted(name: str, protocol: str) -> bool:
    """Whether a package reads a file of its folder, restated from its source, one package at a time."""
    *folders, last = name.split("/")
    ending = last[last.rindex(".") :] if "." in last else ""  # of a glob "*.png"
    kind = extension(last)
    if protocol == "pytorch-fid":
        return not folders and ending in NINE
    if protocol == "ttur":
        return not folders and ending in (".png", ".jpg")
    if protocol == "torch-fidelity":
        return not folders and kind in (".png", ".jpg", ".jpeg")
    if protocol == "clean":
        seen = not any(part.startswith(".") for part in name.split("/"))
        return seen and ending in [*NINE, ".npy", ".JPEG", ".JPG", ".PNG"]
    if protocol == "edm":
        Image.init()
        return kind in Image.EXTENSION
    assert protocol in ("adm", "torchmetrics")
    return (protocol == "adm" or not folders) and kind in NINE


def listing(path: Path, decode: Decode) -> tuple[list[str], dict[str, int], tuple[str, ...]]:
    try:
        source: Any = open_source(path, decode=decode)
    except EmptySourceError:
        return [], {}, ()
    return source.names, dict(source.unread), source.remarks


@pytest.mark.parametrize("protocol", ["pytorch-fid", "ttur", "torch-fidelity", "clean", "edm", "adm", "torchmetrics"])
def test_random_trees_are_listed_as_the_packages_list_them(protocol: str, tmp_path: Path) -> None:
    decode, found = PROTOCOLS[protocol].decode, 0
    for seed in range(25):
        files = grow(tmp_path / str(seed), seed)
        names, unread, remarks = listing(tmp_path / str(seed), decode)
        assert names == sorted(name for name in files if wanted(name, protocol)), seed
        found += len(names)
        if names and decode.recursive and decode.hidden:  # every file is read or counted
            assert len(names) + sum(unread.values()) == len(files), seed
        left = [name for name in files if name not in names and "/" not in name]
        looks = [name for name in left if extension(name) in (*NINE, ".gif", ".avif")]
        if names and looks:
            assert len(remarks) == 1
            assert "left unread" in remarks[0]
    assert found > 20


@pytest.mark.parametrize("protocol", ["pytorch-fid", "torch-fidelity", "clean", "edm", "adm"])
def test_random_zips(protocol: str, tmp_path: Path) -> None:
    """By the rules of the package's zips, or else of its folders, at every depth; forks and duplicates counted."""
    for seed in range(25):
        files = grow(tmp_path / str(seed), seed)
        path = tmp_path / f"{seed}.zip"
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # of duplicates
            for name in [*files, *files[:3]]:
                archive.writestr(name, b"")
            archive.writestr("__MACOSX/._a.png", b"")
        if protocol == "clean":
            want = [name for name in files if extension(name) in (*NINE, ".npy")]
        else:
            want = [name for name in files if wanted(name.rpartition("/")[2], protocol)]
        names, unread, _ = listing(path, PROTOCOLS[protocol].decode)
        assert names == sorted(want), seed
        if names:
            assert unread["macOS forks"] == 1
            assert unread.get("duplicates", 0) == sum(name in want for name in files[:3])
            assert len(names) + sum(unread.values()) == len(files) + 4, seed


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(photo(len(name), 8, 8)))
    return folder


def test_what_a_flat_protocol_leaves_below(tmp_path: Path) -> None:
    folder = touch(
        tmp_path, *(f"{i}.png" for i in range(14)), *(f"c{i % 4}/d/{i}.png" for i in range(56)), "c0/notes.txt"
    )
    source = open_source(folder)
    assert (source.count, source.unread) == (14, {"subfolders": 56})
    assert source.remarks[0].endswith("in it, not in subfolders")
    assert "left unread: subfolders (56)" in source.remarks[0]
    assert open_source(folder, decode=Decode(recursive=True)).unread == {".txt": 1}


def test_hidden_folders_and_links(tmp_path: Path) -> None:
    folder = touch(tmp_path / "set", "a.png", ".b.png", ".c/d.png", ".c/e/f.png", "g/h.png")
    (folder / "loop").symlink_to(folder)
    (folder / "g" / "up").symlink_to(folder)
    assert open_source(folder).unread == {"subfolders": 3, "links to folders": 1}
    assert open_source(folder, decode=Decode(recursive=True)).unread == {"links to folders": 2}
    clean = open_source(folder, decode=Decode(recursive=True, hidden=False, follow_links=True))
    assert (clean.count, clean.unread) == (2, {"hidden": 3})


def test_special_files_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = touch(tmp_path, "a.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("pipe.png")
    (folder / "null.png").symlink_to("/dev/null")
    monkeypatch.chdir(folder)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        source = open_source(folder)
    assert (source.names, source.unread, source.remarks) == (["a.png"], {"special files": 4}, ())
    assert [name for batch in source.batches(4) for name in batch.names] == ["a.png"]


class Entry:
    """A directory entry of which the operating system says what a test wants."""

    def __init__(self, entry: os.DirEntry[str], error: OSError) -> None:
        self.name, self.path, self.error = entry.name, entry.path, error

    def is_dir(self) -> bool:
        raise self.error

    is_file = stat = is_symlink = is_dir


class Scan:
    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries

    def __enter__(self) -> Iterator[Any]:
        return iter(self.entries)

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("number", [5, 13, 40, 116, 36])  # EIO, EACCES, ELOOP, ESTALE, ENAMETOOLONG
def test_errors_of_entries_belong_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    folder = touch(tmp_path, "a.png", "b.png", "sub/c.png", "sub/closed/d.png", "e.txt")
    error, scandir = OSError(number, os.strerror(number)), os.scandir

    def scan(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise error
        with scandir(path) as entries:
            return Scan([Entry(one, error) if one.name in ("b.png", "e.txt") else one for one in entries])

    monkeypatch.setattr(os, "scandir", scan)
    flat = open_source(folder)
    assert flat.names == ["a.png", "b.png"]
    assert flat.unread == {".txt": 1, "folders that can't be opened": 1, "subfolders": 1}
    deep = open_source(folder, decode=Decode(recursive=True))
    assert deep.names == ["a.png", "b.png", "sub/c.png", "sub/closed/"]
    why = f"a folder that can't be opened: {os.strerror(number).lower()}"
    with pytest.raises(BadImageError, match=f"'sub/closed/'.* {why}"):
        list(deep.batches(4))
    (batch,) = deep.batches(4, skip_bad=True)
    assert (batch.names, [bad.name for bad in batch.bad]) == (("a.png", "b.png", "sub/c.png"), ["sub/closed/"])
    error.errno = 24  # EMFILE: the process's own trouble
    with pytest.raises(OSError, match="24"):
        open_source(folder)


def test_a_folder_deeper_than_python_recurses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = ["/".join("d" * (i + 1)) for i in range(1200)]
    for folder in folders:
        os.mkdir(folder)  # noqa: PTH102  # Path normalises 2,400 characters each time
    Path("d/a.png").touch()
    last = Path(f"{folders[-1]}/b.png")
    last.touch()
    try:
        assert open_source("d", decode=Decode(recursive=True)).count == 2
        assert open_source("d").unread == {"subfolders": 1}
    finally:  # rmtree recurses, too
        last.unlink()
        for folder in folders[:0:-1]:
            os.rmdir(folder)  # noqa: PTH106


def test_counting_below_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfid.sources.folder._LOOKED_BELOW", 10)
    folder = touch(tmp_path, "a.png", *(f"s/{i:02}.png" for i in range(15)))
    source = open_source(folder)
    assert source.unread == {"subfolders": 10}
    assert "left unread, at least: subfolders (10)" in source.remarks[0]


def test_many_extensions_are_not_a_long_list(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a.png", *(f"b.{i:04}" for i in range(100)))
    unread = open_source(folder).unread
    assert len(unread) == 31
    assert sum(unread.values()) == 100


class Means(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


MEANS = Means()


@pytest.fixture
def partly(tmp_path: Path) -> Path:
    """35 png, 35 avif that are none, three files below, one that can't be read."""
    folder = touch(tmp_path / "set", *(f"{i:02}.png" for i in range(35)), *(f"{i}.avif" for i in range(35)))
    touch(folder, "x/1.png", "x/2.png", "x/3.jpg")
    (folder / "07.png").write_bytes(b"none")
    return folder


def test_unread_is_in_result_json_table_statistics_and_warning(partly: Path, tmp_path: Path) -> None:
    other = np.stack([photo(i, 8, 8) for i in range(30)])
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        result = fastfid.fid(partly, other, extractor=MEANS, device="cpu", skip_bad=True)
    (said,) = [str(one.message) for one in raised if one.category is SetWarning]
    assert "left unread: .avif (35), subfolders (3). Read are .bmp" in said
    assert (result.run.ref.n, dict(result.run.ref.unread)) == (34, {".avif": 35, "subfolders": 3})
    report = json.loads(json.dumps(result.to_dict()))
    assert report["ref"]["unread"] == {".avif": 35, "subfolders": 3}
    assert report["gen"]["unread"] == {}
    (skipped,) = report["ref"]["skipped_reasons"]
    assert skipped["name"] == report["ref"]["skipped"][0] == "07.png"
    assert "not an image" in skipped["reason"]
    assert any("left unread" in text for text in report["warnings"])
    assert "palette" not in str(report["protocol_details"]["deviations"])
    from rich.console import Console

    console = Console(width=300, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with pytest.warns(SetWarning), pytest.warns(BadImageWarning):
        told = fastfid.evaluate(partly, other, extractor=MEANS, device="cpu", skip_bad=True)
    assert told.to_dict()["sets"]["ref"]["unread"] == {".avif": 35, "subfolders": 3}
    assert told.to_dict()["sets"]["ref"]["skipped"] == [skipped]
    console.print(report_table(told))
    assert f"{partly}: .avif (35), subfolders (3)" in console.export_text()

    with pytest.warns(SetWarning), pytest.warns(BadImageWarning):
        moments = fastfid.stats(partly, tmp_path / "a.npz", extractor=MEANS, device="cpu", skip_bad=True)
    assert moments.metadata["unread"] == [[str(partly), ".avif", 35], [str(partly), "subfolders", 3]]
    assert moments.metadata["skipped_reasons"] == [skipped]


def test_what_is_left_unread_is_told_before_the_work(partly: Path) -> None:
    def never(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the network ran")

    with warnings.catch_warnings():
        warnings.simplefilter("error", SetWarning)
        with pytest.raises(SetWarning, match="left unread"):
            fastfid.stats(partly, extractor=never, device="cpu", skip_bad=True)


def test_merged_statistics_keep_what_was_left_out(partly: Path) -> None:
    """The shards of one set say the same of what is unread, and it is kept once; reasons are kept of all."""
    with pytest.warns(SetWarning), pytest.warns(BadImageWarning):
        parts = [fastfid.stats(partly, shard=(i, 2), extractor=MEANS, device="cpu", skip_bad=True) for i in range(2)]
    whole = fastfid.Moments()
    for part in parts:
        whole.merge(part)
    assert whole.metadata["unread"] == [[str(partly), ".avif", 35], [str(partly), "subfolders", 3]]
    assert [one["name"] for one in whole.metadata["skipped_reasons"]] == ["07.png"]


@pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")
def test_evaluator_says_it_too(partly: Path) -> None:
    mine = fastfid.Evaluator(np.stack([photo(i, 8, 8) for i in range(30)]), extractor=MEANS, device="cpu")
    (partly / "07.png").unlink()
    mine.update(partly)
    mine.update(partly)
    got = mine.compute()
    assert dict(got.run.gen.unread) == {".avif": 70, "subfolders": 6}
    assert sum("left unread" in text for text in got.run.warnings) == 1
    mine.reset()
    mine.update(np.stack([photo(i, 8, 8) for i in range(30)]))
    assert mine.compute().run.gen.unread == ()


def test_case_matters_where_it_does_to_the_package(tmp_path: Path) -> None:
    folder = touch(tmp_path, "A.PNG", "b.JPG", "c.JPG")
    decode = PROTOCOLS["pytorch-fid"].decode
    with pytest.raises(EmptySourceError, match=r"\(exactly so\).* \.JPG \(2\), \.PNG \(1\)\. Case matters here"):
        open_source(folder, decode=decode)
    touch(folder, "d.jpg")
    source = open_source(folder, decode=decode)
    assert (source.names, source.unread) == (["d.jpg"], {".JPG": 2, ".PNG": 1})
    assert len(source.remarks) == 1
    with pytest.raises(ValueError, match="without a dot"):
        Decode(extensions=frozenset({"PNG"}))


def test_deviations_are_shown() -> None:
    from rich.console import Console

    console = Console(width=250, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(protocols_table(PROTOCOLS.values()))
    text = " ".join(console.export_text().split())
    for entry in PROTOCOLS.values():
        for deviation in entry.deviations:
            assert deviation in text, deviation
    assert "edm, stylegan3 palettes are looked up" in text
    assert Counter(entry.decode.describe() for entry in PROTOCOLS.values())["flat, jpg png, exactly so"] == 1
