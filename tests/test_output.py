"""Targets of every kind × everything that fastfid writes: proved before, whole or through, nothing destroyed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import stat
import threading
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_pass import key_of
from PIL import Image

import fastfid
from fastfid.api import merge
from fastfid.errors import OutputError
from fastfid.passes.store import PassState, tensorfile
from fastfid.passes.store.checkpoint import Checkpoint
from fastfid.report.json_file import write_json
from fastfid.report.plot import Curve, plot_disturbances
from fastfid.runtime import output as _output
from fastfid.runtime.output import Target, sweep, temporary

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
MOMENTS = fastfid.Moments.from_features(np.random.default_rng(1).standard_normal((5, 3)))
NAN = float("nan")


def means(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def joined(path: Path) -> None:
    MOMENTS.save("part.npz")
    merge(["part.npz"], path)


def state_of(path: Path) -> Any:
    found = Checkpoint(path, key_of("x")).load()
    assert found is not None
    return found[0].read


def image_of(path: Path) -> str | None:
    with Image.open(path) as image:
        image.load()
        return image.format


# name → (write to a path, read what that wrote, what that must be)
WRITERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], Any]] = {
    "json": (lambda path: write_json(path, {"a": [1, NAN]}), lambda p: json.loads(p.read_text()), {"a": [1, None]}),
    "save": (MOMENTS.save, lambda path: fastfid.Moments.load(path).mean.tolist(), MOMENTS.mean.tolist()),
    "stats": (lambda p: fastfid.stats(IMAGES, p, extractor=means), lambda path: fastfid.Moments.load(path).n, 6),
    "merge": (joined, lambda path: fastfid.Moments.load(path).n, 5),
    "plot": (lambda p: plot_disturbances([Curve("x", "p", (0.0, 1.0), (1.0, 2.0))], p, "a $_$ b"), image_of, "PNG"),
    "checkpoint": (lambda p: Checkpoint(p, key_of("x")).save(PassState({}, 7, 1.5)), state_of, 7),
    "tensors": (
        lambda path: tensorfile.write(path, {"x": np.arange(3.0)}, {}),
        lambda path: tensorfile.TensorFile(path).array("x").tolist(),
        [0.0, 1.0, 2.0],
    ),
}
every_writer = pytest.mark.parametrize("writer", [name for name in WRITERS if name != "plot"])  # it takes a second


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    warnings.simplefilter("ignore", fastfid.errors.FastFIDWarning)


def here(tmp_path: Path) -> list[str]:
    return sorted(os.fsdecode(name) for name in os.listdir(os.fsencode(tmp_path / "here")))  # noqa: PTH208


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # its whole name has at most 107 bytes


def a_loop(path: Path) -> None:
    path.symlink_to(path)


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no folder": ("no/r.npz", lambda path: None, "the folder '.*no' does not exist"),
    "a folder": ("r.npz", lambda path: path.mkdir(), "it is a folder"),
    "a socket": ("r.npz", a_socket, "it is a socket"),
    "below a file": ("file/r.npz", lambda path: path.parent.write_text("mine"), "Not a directory"),
    "a long name": ("r" * 252 + ".npz", lambda path: None, "name too long"),
    "a long path": ("/".join(["d" * 200] * 21) + "/r.npz", lambda path: None, "name too long"),
    "a loop": ("r.npz", a_loop, "levels of symbolic links"),
    "a link to nowhere": ("r.npz", lambda path: path.symlink_to("no/r.npz"), "the folder '.*no' does not exist"),
    "a NUL": ("r\0.npz", lambda path: None, "NUL"),
}


@every_writer
@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_written_is_refused(writer: str, kind: str, tmp_path: Path) -> None:
    name, make, said = REFUSED[kind]
    path = tmp_path / "here" / name
    make(path)
    before = here(tmp_path)
    with pytest.raises(OutputError, match=said) as refused:
        WRITERS[writer][0](path)
    assert refused.value.path == str(path)
    assert refused.value.moments is None or writer == "save"
    with pytest.raises(OutputError, match=said):
        Target(path).prove()
    assert here(tmp_path) == before
    assert [file.name for file in (tmp_path / "cwd").iterdir()] in ([], ["part.npz"])


@every_writer
@pytest.mark.parametrize(
    "name", ["r.npz", "r" * 251 + ".npz", "ä" * 125 + ".npz", "r\udcff\udc80.npz", "r\n\x1b[31m.npz"]
)
def test_names(writer: str, name: str, tmp_path: Path) -> None:
    write, read, want = WRITERS[writer]
    path = tmp_path / "here" / name
    write(path)
    assert here(tmp_path) == [name]
    assert read(path) == want
    write(path)  # over itself
    assert here(tmp_path) == [name]
    assert read(path) == want


@pytest.mark.parametrize("writer", list(WRITERS))
def test_a_link_is_followed_and_stays(writer: str, tmp_path: Path) -> None:
    write, read, want = WRITERS[writer]
    (tmp_path / "far").mkdir()
    real, link, second = tmp_path / "far" / "real.npz", tmp_path / "here" / "a.npz", tmp_path / "here" / "b.npz"
    second.symlink_to("../far/real.npz")
    link.symlink_to(second)
    for _ in range(2):  # dangling, then not
        write(link)
        assert read(real) == want
        assert (os.readlink(link), os.readlink(second)) == (str(second), "../far/real.npz")  # noqa: PTH115
        assert here(tmp_path) == ["a.npz", "b.npz"]
        assert [file.name for file in (tmp_path / "far").iterdir()] == ["real.npz"]


@every_writer
def test_modes_owners_and_attributes_stay_and_new_files_follow_the_umask(writer: str, tmp_path: Path) -> None:
    write, read, want = WRITERS[writer]
    new, old, other = (tmp_path / "here" / name for name in ("new.npz", "old.npz", "other.npz"))
    write(new)
    mask = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "Umask" in line)[6:], 8)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~mask
    write(old)
    old.chmod(0o604)
    other.hardlink_to(old)
    content = other.read_bytes()
    if os.geteuid() == 0:
        os.chown(old, 1234, 4321)
    owner = old.stat().st_uid, old.stat().st_gid
    os.setxattr(old, "user.note", b"mine")
    inode = old.stat().st_ino
    write(old)
    assert read(old) == want
    assert (stat.S_IMODE(old.stat().st_mode), old.stat().st_uid, old.stat().st_gid) == (0o604, *owner)
    assert os.getxattr(old, "user.note") == b"mine"
    assert old.stat().st_ino != inode
    assert other.stat().st_ino == inode  # the other name keeps the old content
    assert other.read_bytes() == content


def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread could make a file in the moment in which it is another one."""
    monkeypatch.setattr(os, "umask", lambda _mask: pytest.fail("the umask was changed"))
    for write, _, _ in WRITERS.values():
        write(tmp_path / "here" / "r.npz")


@every_writer
def test_a_pipe_is_written_to(writer: str, tmp_path: Path) -> None:
    if writer == "checkpoint":
        return  # is read back from its file
    write, read, want = WRITERS[writer]
    pipe, got = tmp_path / "here" / "pipe.npz", BytesIO()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.write(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(60)
    assert not reader.is_alive()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    copy = tmp_path / "copy.npz"
    copy.write_bytes(got.getvalue())
    assert read(copy) == want
    assert here(tmp_path) == ["pipe.npz"]


def test_a_pipe_that_nobody_reads_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "READER_S", 0.2)
    os.mkfifo(tmp_path / "pipe")
    Target(tmp_path / "pipe").prove()  # a reader may come later
    with pytest.raises(OutputError, match=r"nobody has opened this pipe for reading in 0.2 s"):
        write_json(tmp_path / "pipe", {})


def test_a_pipe_whose_reader_goes_away(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: os.close(os.open(pipe, os.O_RDONLY)), daemon=True)
    reader.start()
    with pytest.raises(OutputError, match="Broken pipe"):
        write_json(pipe, {"long": "x" * 10_000_000})
    reader.join(60)


def test_descriptors_of_this_process_are_written_through(tmp_path: Path) -> None:
    """As /dev/stdout and the shell's >(command) are; a file that is open for writing keeps what was written before."""
    with (tmp_path / "log").open("wb") as log:
        log.write(b"before\n")
        log.flush()
        inode = os.fstat(log.fileno()).st_ino
        link = tmp_path / "here" / "r.json"
        link.symlink_to(f"/proc/self/fd/{log.fileno()}")
        for path in (Path(f"/dev/fd/{log.fileno()}"), link):
            Target(path).prove()
            with Target(path).writing() as file:
                file.write(b"written\n")
        log.write(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before\nwritten\nwritten\nafter\n"
    assert (tmp_path / "log").stat().st_ino == inode
    assert link.is_symlink()
    with pytest.raises(OutputError, match="Bad file descriptor"):
        Target("/dev/fd/987").prove()


def test_the_file_that_stdout_goes_to_is_written_through(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved = os.dup(1)
    with (tmp_path / "here" / "out").open("wb") as out:
        os.dup2(out.fileno(), 1)
        try:
            os.write(1, b"table\n")
            Target(tmp_path / "here" / "out").prove()
            write_json(tmp_path / "here" / "out", {"a": 1})
            os.write(1, b"more\n")
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    assert (tmp_path / "here" / "out").read_text() == 'table\n{\n  "a": 1\n}\nmore\n'


def test_what_was_said_before_comes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr("sys.stdout", log)
        log.write("table\n")  # still in its buffer
        write_json(f"/dev/fd/{log.fileno()}", {})
    assert (tmp_path / "log").read_text() == "table\n{}\n"


def test_the_group_stays_where_the_owner_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, path = [], tmp_path / "r"
    path.write_text("old")

    def refuse(_handle: int, user: int, group: int) -> None:
        asked.append((user, group))
        if user >= 0:
            raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    write_json(path, {})
    about = path.stat()
    assert asked == [(about.st_uid, about.st_gid), (-1, about.st_gid)]


def test_a_mount_point_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _output._is_mount_point(Path("/proc"))
    assert not _output._is_mount_point(tmp_path)
    path = tmp_path / "here" / "r.json"
    path.write_text("x" * 10_000)
    inode = path.stat().st_ino
    monkeypatch.setattr(_output, "_is_mount_point", lambda asked: asked == path)
    write_json(path, {})
    assert path.read_text() == "{}\n"
    assert path.stat().st_ino == inode
    assert here(tmp_path) == ["r.json"]


def test_names_of_mount_points_are_unescaped(monkeypatch: pytest.MonkeyPatch) -> None:
    line = rb"36 35 98:0 /mnt1 /a\040b\134c\303\244 rw,noatime - ext3 /dev/root rw" + b"\n"
    monkeypatch.setattr(Path, "read_bytes", lambda _self: line)
    assert _output._is_mount_point(Path("/a b\\cä"))
    assert not _output._is_mount_point(Path("/a"))


def test_what_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "here" / "r.json"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda asked, mode: not (Path(asked) == path and mode == os.W_OK))
    for attempt in (Target(path).prove, lambda: write_json(path, {})):
        with pytest.raises(OutputError, match="may not be written to"):
            attempt()
    monkeypatch.undo()
    path.parent.chmod(0o1777)
    Target(path).prove()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # as another user in a folder like /tmp
    with pytest.raises(OutputError, match="lets only them replace it"):
        Target(path).prove()
    path.parent.chmod(0o777)
    Target(path).prove()
    assert path.read_text() == "old"


def test_a_target_that_another_process_removes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"of another run")

    def removed(given: Path, _mode: int) -> bool:
        given.unlink()
        return False

    monkeypatch.setattr("os.access", removed)
    Target(path).prove()
    assert not path.exists()
    path.write_bytes(b"of another run")
    with Target(path).writing() as file:
        file.write(b"ours")
    assert path.read_bytes() == b"ours"


FAULTS: dict[str, tuple[str, int]] = {
    "open": ("open", errno.EACCES),
    "read-only": ("open", errno.EROFS),
    "fsync": ("fsync", errno.ENOSPC),
    "disk": ("fsync", errno.EIO),
}


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, below: Path) -> None:
    """Have the system say no to what concerns a folder."""
    kept = getattr(os, name)

    def fail(given: Any, *arguments: Any, **more: Any) -> Any:
        where = Path(f"/proc/self/fd/{given}").readlink() if isinstance(given, int) else Path(os.fsdecode(given))
        if below in where.parents:
            raise OSError(code, os.strerror(code), str(where))
        return kept(given, *arguments, **more)

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize(
    ("writer", "fault"), [("plot", "fsync"), *((name, fault) for name in WRITERS if name != "plot" for fault in FAULTS)]
)
def test_a_failure_leaves_the_old_file(
    writer: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read, want = WRITERS[writer]
    path = tmp_path / "here" / "r.npz"
    write(path)
    before = path.read_bytes()
    failing(monkeypatch, *FAULTS[fault], tmp_path / "here")
    with pytest.raises(OutputError, match=os.strerror(FAULTS[fault][1])):
        write(path)
    monkeypatch.undo()
    assert here(tmp_path) == ["r.npz"]
    assert path.read_bytes() == before
    assert read(path) == want


def test_room_is_asked_for_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(handle: int, offset: int, size: int) -> None:
        asked.append((offset, size))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left"):
        Target(tmp_path / "here" / "r").prove(12345)
    assert asked == [(0, 12345)]
    for code in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that can't say
        monkeypatch.setattr(os, "posix_fallocate", lambda *_, code=code: (_ for _ in ()).throw(OSError(code, "no")))
        Target(tmp_path / "here" / "r").prove()
    assert here(tmp_path) == []


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "here" / "r"
    path.write_text("old")

    def write() -> None:
        with Target(path).writing() as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (here(tmp_path), path.read_text()) == (["r"], "old")


def test_a_full_disk_does_not_hide_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def close(self) -> None:
            self.file.close()
            raise OSError(errno.ENOSPC, "full")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    made = _output.temporary
    monkeypatch.setattr(_output, "temporary", lambda final: (Full(made(final)[0]), final.with_name("x")))
    with pytest.raises(KeyboardInterrupt), Target(tmp_path / "here" / "r").writing():
        raise KeyboardInterrupt


def test_only_abandoned_temporaries_of_the_target_are_swept(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    target = folder / "r.json"
    others = [".q.json.01234567.fastfid", ".r.json.0123456z.fastfid", ".r.json.01234567.fastfid.bak", "r.json.old"]
    for name in others:
        (folder / name).write_text("mine")
    (folder / ".r.json.aaaaaaaa.fastfid").mkdir()
    (folder / ".r.json.bbbbbbbb.fastfid").symlink_to("r.json.old")
    live, path = temporary(target)
    (folder / ".r.json.01234567.fastfid").write_text("abandoned")
    kept = sorted([*others, ".r.json.aaaaaaaa.fastfid", ".r.json.bbbbbbbb.fastfid", path.name])
    assert sweep(folder, "r.json") == len("abandoned")
    assert here(tmp_path) == kept
    live.write(b"12345")
    live.close()
    Target(target).prove()
    assert here(tmp_path) == [name for name in kept if name != path.name]
    assert sweep(folder) == len("mine")  # of the other target
    assert sweep(tmp_path / "nowhere") == 0
    assert (folder / "r.json.old").read_text() == "mine"


def test_a_temporary_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, taken = _output.lock, []

    def late(file: Any) -> bool | None:
        if len(taken) < 2:
            (path,) = (tmp_path / "here").iterdir()
            taken.append(path.name)
            path.unlink()
            return False if len(taken) == 1 else kept(file)  # the other run still holds it; or has let go of it
        return kept(file)

    monkeypatch.setattr(_output, "lock", late)
    file, path = temporary(tmp_path / "here" / "r")
    assert here(tmp_path) == [path.name]
    assert path.name not in taken
    file.close()


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "fcntl", None)
    write_json(tmp_path / "here" / "r", {})
    (tmp_path / "here" / ".r.01234567.fastfid").write_text("who knows whose")
    write_json(tmp_path / "here" / "r", {})
    Target(tmp_path / "here" / "r").prove()
    assert here(tmp_path) == [".r.01234567.fastfid", "r"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NAN, "null"),
        (-float("inf"), "null"),
        (np.float32(0.5), "0.5"),
        (np.float64("nan"), "null"),
        (np.int64(3), "3"),
        (np.array([1.5, np.inf]), "[1.5,null]"),
        (torch.tensor([1, 2]), "[1,2]"),
        (True, "true"),
        ((1, "ä", None), '[1,"ä",null]'),
        ({1: {2: NAN}}, '{"1":{"2":null}}'),
        (Path("x"), '"x"'),
        ("\udcff\x9b\x1b", '"\\udcff\x9b\\u001b"'),
    ],
)
def test_json(value: Any, text: str, tmp_path: Path) -> None:
    write_json(tmp_path / "r", {"x": value})
    found = (tmp_path / "r").read_text(encoding="utf-8")
    assert "".join(found.split()) == f'{{"x":{text}}}'
    assert json.loads(found) == json.loads(found.encode())


def test_errors_pickle() -> None:
    error = OutputError("a\udcff", "why", MOMENTS.n)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.reason, again.moments) == (str(error), "a\udcff", "why", 5)
    assert isinstance(again, OSError)
    assert str(error) == "cannot write 'a\\udcff': why"
