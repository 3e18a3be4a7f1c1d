"""What stands in folders and where results go but is no ordinary file: pipes, sockets, dangling and circular links,
names that are no text, folders of thousands. Never a device."""

from __future__ import annotations

import json
import os
import socket
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

import fastfid
from campaign.child import command, ended, forked, text
from campaign.fuzz_calls import SETTINGS, features_of, pictures
from campaign.kills import outcome, sets, words
from campaign.trial import Entry, Fault, close, pick, require, said, unchanged

Generator = np.random.Generator
STRANGE = (
    "new\nline.png", "tab\t.png", "\x1b[31mred.png", "[red]markup[-red].png", b"latin\xe9.png", "ü.png", "-.png",
    "--json.png", " .png", "a" * 240 + ".png", ".hidden.png", "quo'te\".png", "back\\slash.png", "💥.png", "%s{0}.png",
    "\r.png", "\x7f.png", "\u202egnp.x.png",
)  # fmt: skip
"""File names that have led printers, shells and encoders astray; all of them good images."""


def _fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path, Path], None]] = {
    "pipe": _fifo,
    "socket": _socket,
    "dangling link": lambda path, _: path.symlink_to("nowhere"),
    "circular link": lambda path, _: path.symlink_to(path.name),
    "link to the folder": lambda path, folder: path.symlink_to(folder),
    "folder": lambda path, _: path.mkdir(),
    "empty file": lambda path, _: path.write_bytes(b""),
    "link to a pipe": lambda path, folder: (os.mkfifo(folder / "pipe"), path.symlink_to("pipe"))[1],
}
"""Members of a folder that are no images though their names say so."""
_NO_FILES = {"folder", "link to the folder"}
_COUNTED = {"pipe", "socket", "link to a pipe"}
"""These are no files: they are counted as unread, whatever their names, and stop nothing."""


def members(rng: Generator, folder: Path) -> None:
    """A folder with special members among good images: each good one is read, each special one is named."""
    images = pictures(rng, int(rng.integers(2, 5)))
    at = folder / "set"
    at.mkdir()
    names = [os.fsdecode(pick(rng, STRANGE)) if rng.integers(2) else f"{i}.png" for i in range(len(images))]
    names = list(dict.fromkeys(names))
    for name, one in zip(names, images, strict=False):
        with (at / name).open("wb") as file:
            Image.fromarray(one).save(file, "PNG")
    kind = pick(rng, SPECIAL)
    SPECIAL[kind](at / "special.png", at)
    workers = int(rng.integers(40) == 0)
    label = f"folder with a {kind}"
    protocol = SETTINGS["protocol"]
    with unchanged(label), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            got = fastfid.stats(at, skip_bad=True, num_workers=workers, **SETTINGS)
        except Exception as error:
            raise Fault(f"{label}: {type(error).__name__}", said(error)) from error
    want = np.array([images[names.index(name)] for name in sorted(names)])
    require(got.n == len(want), f"{label}: {got.n} images, not {len(want)}", repr(got.metadata))
    close(got.mean, features_of(want).mean(0), 1e-5, f"{label}: mean")
    listed = [str(one) for one in got.metadata.get("skipped", ())]
    if kind in _COUNTED:
        counted = [one[1:] for one in got.metadata.get("unread", ())]
        require(["special files", 1 + (kind == "link to a pipe")] in counted, f"{label}: not counted", repr(counted))
    elif kind not in _NO_FILES:
        require(any("special.png" in one for one in listed), f"{label}: not listed", repr(got.metadata)[:300])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fastfid.stats(at, **SETTINGS)
            except ValueError as error:
                require("special.png" in str(error), f"{label}: not named", said(error))
            except Exception as error:
                raise Fault(f"{label}, without skip_bad: {type(error).__name__}", said(error)) from error
            else:
                raise Fault(f"{label}: taken without a word", protocol.name)
    json.dumps(got.metadata)


def bad_names(rng: Generator, folder: Path) -> None:
    """A broken image of a strange name, by the command line: one line, no escape sequence, and its exit code."""
    (folder / "set").mkdir()
    (folder / "out").mkdir()
    name = os.fsdecode(pick(rng, STRANGE))
    (folder / "set" / name).write_bytes(b"no image")
    code = ended(forked(command("stats", folder / "set", *words("stats", folder, "")[2:]), folder / "log"))
    content = text(folder / "log")
    label = f"a broken image named {name[:20]!r}"
    require(code == 3, f"{label}: exit {code}, not 3", content)
    require("Traceback" not in content and "\x1b" not in content, f"{label}: escapes or a traceback", content)
    require("\r" not in content and "\u202e" not in content, f"{label}: control characters", repr(content))


def crowd(rng: Generator, folder: Path) -> None:
    """A folder of hundreds of other files and a few images."""
    images = pictures(rng, 4)
    for index in range(int(rng.integers(200, 600))):
        (folder / f"{index}.txt").touch()
    for index, one in enumerate(images):
        Image.fromarray(one).save(folder / f"{index}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = fastfid.stats(folder, **SETTINGS)
    require(got.n == 4, "a crowd of other files: wrong n", repr(got))


def outputs(rng: Generator, folder: Path) -> None:
    """--json and -o at a pipe, a link, a linked folder: written through or replaced behind the link, never instead."""
    kind = pick(rng, ("compare", "stats"))
    (folder / "out").mkdir()
    given = words(kind, folder, "")
    if kind == "compare":
        given[1:3] = [sets() / "x.npz", sets() / "y.npz"]
    else:
        given[1] = sets() / "x.npz"
    path = folder / "out" / ("o.json" if kind == "compare" else "o.npz")
    how = pick(rng, ("pipe", "link", "dangling link", "circular link", "linked folder", "folder", "socket", "present"))
    label = f"{kind} to a {how}"
    real = folder / f"real{path.suffix}"
    got: list[bytes] = []
    reader = None
    if how == "pipe":
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
        reader.start()
    elif how in ("link", "dangling link"):
        if how == "link":
            real.write_bytes(b"old")
            real.chmod(0o640)
        path.symlink_to(real)
    elif how == "circular link":
        path.symlink_to(path.name)
    elif how == "linked folder":
        path.parent.rmdir()
        (folder / "elsewhere").mkdir()
        path.parent.symlink_to(folder / "elsewhere")
    elif how == "folder":
        path.mkdir()
    elif how == "socket":
        _socket(path, path.parent)
    else:
        path.write_bytes(b"old")
        path.chmod(0o640)
    code = ended(forked(command(*given), folder / "log"))
    content = text(folder / "log")
    if reader is not None:
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # lets a reader go that nobody wrote to
        reader.join(10)
    require("Traceback" not in content, f"{label}: traceback", content)
    if how in ("folder", "socket", "circular link"):
        require(code in (2, 7), f"{label}: exit {code}, not 7", content)
        require(not path.is_file(), f"{label}: replaced", content)
        return
    require(code == 0, f"{label}: exit {code}", content)
    if how == "pipe":
        require(path.is_fifo(), f"{label}: replaced")
        real.write_bytes(got[0] if got else b"")
        outcome(real)
    else:
        require(how in ("present", "linked folder") or path.is_symlink(), f"{label}: the link is gone")
        require(how != "linked folder" or path.parent.is_symlink(), f"{label}: the link is gone")
        outcome(path)
        if how in ("present", "link"):
            require(path.stat().st_mode & 0o777 == 0o640, f"{label}: another mode", oct(path.stat().st_mode))
    left = sorted(one.name for one in path.parent.iterdir())
    require(left == [path.name], f"{label}: strays", repr(left))


ENTRIES = [
    Entry("special/members", members),
    Entry("special/names", bad_names),
    Entry("special/crowd", crowd),
    Entry("special/outputs", outputs),
]
