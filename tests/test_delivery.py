"""A number that was reached is shown, whatever fails afterwards; exit codes tell data, disk, pipe and defect apart."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from images import photos, write_folder

import fastfid
from fastfid.cli import main
from fastfid.demo.disturbances import DISTURBANCES
from fastfid.demo.run import Demo, Series
from fastfid.distributed import World
from fastfid.errors import IncomparableError, OutputError, RankError
from fastfid.runtime import output as _output
from fastfid.runtime import progress as _progress
from fastfid.runtime.shown import shown
from fastfid.sources.base import Source
from fastfid.speed.quick import Line, Quick

pytestmark = pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")


class Colours(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two image sets, a network, their statistics, and nothing else; the current one."""
    here = tmp_path / "sets"
    here.mkdir()
    write_folder(here / "ref", photos(9, 8, 8))
    write_folder(here / "gen", photos(9, 8, 8)[::-1] // 2)
    torch.jit.script(Colours()).save(here / "net.pt")
    for name in ("ref", "gen"):
        fastfid.stats(here / name, here / f"{name}.npz", extractor=str(here / "net.pt"), device="cpu")
    monkeypatch.chdir(here)
    return here


COMPARE = ("compare", "ref", "gen", "--extractor", "net.pt", "--device", "cpu", "--quiet")
STATS = ("stats", "ref", "-o", "new.npz", "--extractor", "net.pt", "--device", "cpu", "--quiet")
FILES = {"ref", "gen", "net.pt", "ref.npz", "gen.npz"}


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="fastfid")


def left(sets: Path) -> set[str]:
    return {file.name for file in sets.iterdir()} - FILES


def number(sets: Path) -> str:
    value = fastfid.fid(sets / "ref", sets / "gen", extractor=str(sets / "net.pt"), device="cpu").value
    return f"{value:.6f}"


def full_at(monkeypatch: pytest.MonkeyPatch, moment: str, name: str, *, before: bool = False) -> None:
    """From the work on, or from before it, the disk is full where this file shall be."""
    kept = getattr(os, moment)

    def fail(given: Any, *arguments: Any, **more: Any) -> Any:
        where = os.fspath(Path(f"/proc/self/fd/{given}").readlink() if isinstance(given, int) else given)
        if name in os.path.basename(where):  # noqa: PTH119
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return kept(given, *arguments, **more)

    monkeypatch.setattr(os, moment, fail)
    if not before:
        monkeypatch.setattr(_output.Target, "prove", lambda self, size=0: None)


@pytest.mark.parametrize("moment", ["open", "fsync"])
def test_the_number_comes_where_the_json_fails(sets: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want = number(sets)
    (sets / "r.json").write_text("old")
    full_at(monkeypatch, moment, "r.json")
    done = call(*COMPARE, "--json", "r.json")
    assert done.exit_code == 7
    assert want in done.stdout
    assert done.stderr == "fastfid: cannot write 'r.json': No space left on device\n"
    assert left(sets) == {"r.json"}
    assert (sets / "r.json").read_text() == "old"


@pytest.mark.parametrize("words", [(*COMPARE, "--json", "no/r.json"), ("bench", "--json", "no/r"), STATS])
def test_targets_are_tried_before_the_work(words: tuple[str, ...], sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sets / "new.npz").mkdir()
    monkeypatch.setattr(Source, "batches", lambda *_args, **_options: pytest.fail("an image was read"))
    monkeypatch.setattr("fastfid.speed.quick.run_quick", lambda *_args, **_options: pytest.fail("it was timed"))
    done = call(*words)
    assert (done.exit_code, done.stdout) == (7, ""), done.output
    assert "cannot write" in done.stderr


@pytest.mark.parametrize("role", ["ref", "gen"])
@pytest.mark.parametrize("trouble", ["a folder", "of another run", "damaged", "no folder", "a long name"])
def test_checkpoints_are_tried_before_the_work(
    role: str, trouble: str, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, code = {"no folder": ("no/c", 7), "a long name": ("c" * 252, 7)}.get(trouble, ("c", 3))
    if trouble == "a folder":
        (sets / f"c.{role}").mkdir()
        code = 7
    elif trouble == "damaged":
        (sets / f"c.{role}").write_bytes(b"?")
    elif trouble == "of another run":
        with monkeypatch.context() as patch:
            patch.setattr("fastfid.passes.store.recording.Recording.discard", lambda self: None)
            call(*COMPARE, "--checkpoint", "c", "--batch-size", "4")
        (sets / ("c.gen" if role == "ref" else "c.ref")).unlink()
    before = left(sets)
    monkeypatch.setattr(Source, "batches", lambda *_args, **_options: pytest.fail("an image was read"))
    done = call(*COMPARE, "--checkpoint", path)
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert left(sets) == before


def line_of(result: fastfid.FIDResult) -> str:
    return f"FD ({result.run.weights}) {result.value!r} (exact value between {result.lower!r} and {result.upper!r})"


def test_what_a_table_could_not_say(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = fastfid.fid("ref", "gen", extractor="net.pt", device="cpu")

    def broken(_result: object) -> None:
        raise KeyError("column")

    monkeypatch.setattr("fastfid.report.table.report_table", broken)
    done = call(*COMPARE, "--json", "r.json")
    assert done.exit_code == 1
    assert done.stdout == line_of(result) + "\n"
    assert "a defect in fastfid" in done.stderr
    assert "KeyError: 'column'" in done.stderr
    assert "FASTFID_DEBUG=1" in done.stderr
    assert json.loads((sets / "r.json").read_text())["results"]["fid"]["value"] == result.value
    monkeypatch.setattr("fastfid.evaluation.report.Report.to_dict", broken)
    for words in ((), ("--json", "-"), ("--json", "s.json")):
        done = call(*COMPARE, *words)
        assert repr(result.value) in done.stdout
        assert done.exit_code == 1


def test_an_interrupt_while_the_table_is_drawn(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_result: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastfid.report.table.report_table", interrupted)
    done = call(*COMPARE)
    assert done.exit_code == 130
    assert done.stdout.startswith("FD (net.pt ")
    assert done.stderr == "interrupted\n"


@pytest.mark.parametrize("words", [STATS, ("merge", "ref.npz", "gen.npz", "-o", "new.npz")])
def test_statistics_are_kept_somewhere(words: tuple[str, ...], sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = fastfid.Moments.load("ref.npz")
    if words[0] == "merge":
        want.merge(fastfid.Moments.load("gen.npz"))
    full_at(monkeypatch, "fsync", "new.npz")
    done = call(*words)
    assert done.exit_code == 7
    assert f"{want.n} samples, 12 dimensions" in done.stdout
    (kept,) = left(sets)
    assert f"No space left on device; the statistics are in '{sets / kept}'" in done.stderr
    got = fastfid.Moments.load(kept)
    assert got.cov().numpy().tobytes() == want.cov().numpy().tobytes()


def test_statistics_that_fit_nowhere_are_in_the_error(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_at(monkeypatch, "fsync", ".npz")
    with pytest.raises(OutputError, match=r"cannot write 'new.npz': No space left on device$") as failed:
        fastfid.stats("ref", "new.npz", extractor="net.pt", device="cpu")
    assert failed.value.moments.n == 9
    assert left(sets) == set()


def test_a_process_that_is_lost_after_the_distance_takes_it_not_along(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, lost = number(sets), RankError(1, "killed")

    @contextmanager
    def joined(_several: object, **_settings: object) -> Iterator[World]:
        yield World()
        raise lost

    monkeypatch.setattr("fastfid.evaluation.session.joined", joined)
    done = call(*COMPARE, "--json", "r.json")
    assert (done.exit_code, want in done.stdout) == (6, True), done.output
    assert done.stderr == "fastfid: rank 1 failed: killed\n"
    assert f"{json.loads((sets / 'r.json').read_text())['results']['fid']['value']:.6f}" == want
    with pytest.raises(RankError) as failed:
        fastfid.fid("ref", "gen", extractor="net.pt", device="cpu")
    assert f"{failed.value.result:.6f}" == want
    lost.result = None
    monkeypatch.setattr("fastfid.api.measure", lambda *_: (_ for _ in ()).throw(lost))
    done = call(*COMPARE)
    assert (done.exit_code, done.stdout) == (6, "")


def figures() -> tuple[Quick, Demo]:
    result = fastfid.fid(photos(4, 8, 8), photos(4, 8, 8) // 2, extractor=lambda x: x.mean((2, 3)), device="cpu")
    series = Series(DISTURBANCES[0], (result,) * 4)
    line = Line("distance", "fastfid", "calls", 1, 1.0, 2.5, 3.0, 400.0, 0.0, 1.0)
    folder = Path("demo")
    return Quick("cpu", {}, (line,), {}), Demo(folder, folder / "a", folder / "b", None, (series,))


def test_bench_and_demo(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, demo = figures()
    monkeypatch.setattr("fastfid.speed.quick.run_quick", lambda *_args, **_options: quick)
    monkeypatch.setattr("fastfid.demo.run.run_demo", lambda *_args, **_options: demo)
    assert json.loads(call("bench", "--json", "-").stdout)["lines"][0]["p50"] == 2.5
    full_at(monkeypatch, "fsync", "r.json")
    done = call("bench", "--json", "r.json")
    assert (done.exit_code, "2.500" in done.stdout) == (7, True)
    value = demo.series[0].values[0]
    done = call("demo")  # its folder was removed meanwhile
    assert (done.exit_code, f"{value:.3f}" in done.stdout) == (7, True)
    assert "distances.png" in done.stderr

    def broken(_given: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fastfid.speed.table.bench_table", broken)
    monkeypatch.setattr("fastfid.demo.table.demo_table", broken)
    assert call("bench").stdout == "distance, fastfid: 2.500 ms\n"
    assert repr(value) in call("demo").stdout


FORKS = """
import os, sys
import torch, fastfid.api, rich.console, fastfid.report.table
from fastfid.cli import main
for case in ("closed", "pipe", "full"):
    child = os.fork()
    if child == 0:
        sys.argv = ["fastfid", "compare", "ref.npz", "gen.npz", "--quiet", "--json", case + ".json"]
        os.dup2(os.open(case + ".err", os.O_CREAT | os.O_WRONLY), 2)
        if case == "closed":
            os.close(1)
            sys.stdout = None  # as Python starts then
        else:
            reading, writing = os.pipe()
            os.close(reading)
            os.dup2(writing if case == "pipe" else os.open("/dev/full", os.O_WRONLY), 1)
        main()
    print(case, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_stdout_that_takes_nothing(sets: Path) -> None:
    result = fastfid.fid("ref.npz", "gen.npz", device="cpu")
    done = subprocess.run([sys.executable, "-c", FORKS], check=False, capture_output=True, text=True)
    assert done.stdout == "closed 141\npipe 141\nfull 7\n", done.stderr
    for case, said in (("closed", "stdout is closed"), ("pipe", "nobody reads"), ("full", "No space left on device")):
        number, trouble = Path(f"{case}.err").read_text().splitlines()
        assert number == line_of(result)
        assert said in trouble
        assert (
            json.loads(Path(f"{case}.json").read_text())["results"]["fid"]["value"] == result.value
        )  # written all the same


def test_a_limit_on_the_size_of_files(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full disk: what the system itself says, before the work and after it."""
    words, limit = ("compare", "ref.npz", "gen.npz", "--json", "r.json"), resource.getrlimit(resource.RLIMIT_FSIZE)
    results = []
    for _ in range(2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
        try:
            results.append(call(*words))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert left(sets) == set()
        monkeypatch.setattr(_output.Target, "prove", lambda self, size=0: None)
    assert [done.exit_code for done in results] == [7, 7]
    assert ["FD (net.pt" in done.stdout for done in results] == [False, True]
    assert {done.stderr for done in results} == {"fastfid: cannot write 'r.json': File too large\n"}


def test_streams_of_ascii(sets: Path) -> None:
    odd = os.fsencode(sets) + b"/g\xff\n\x1b[31m[red]\xc3\xa9.npz"
    os.rename(b"gen.npz", odd)  # noqa: PTH104
    command = [sys.executable, "-m", "fastfid", "compare", "ref.npz", odd, "--json", b"r\xfe.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    table = subprocess.run(command, check=False, capture_output=True, env=environment)
    assert table.returncode == 0, table.stderr
    assert b"FD (net.pt (sha256 " in table.stdout
    assert rb"g\udcff\n\x1b[31m[red]e.npz (statistics, 9 samples" in table.stdout
    assert max(table.stdout) < 128
    assert b"\x1b" not in table.stdout
    with open(b"r\xfe.json", encoding="utf-8") as file:  # noqa: PTH123
        report = json.load(file)
    assert report["sets"]["gen"]["description"] == os.fsdecode(odd)
    plain = call("compare", "ref.npz", os.fsdecode(odd), "--json", "-")
    assert json.loads(plain.stdout) == report
    assert plain.stdout.isascii()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.EIO, "Input/output error", "a.png"), 3, "fastfid: [Errno 5] Input/output error: 'a.png'"),
        (ValueError("not \x1b[2Jthis\nfastfid: 0.000"), 3, "fastfid: not \\x1b[2Jthis\n  fastfid: 0.000"),
        (OutputError("r", "full"), 7, "fastfid: cannot write 'r': full"),
        (MemoryError(), 5, "fastfid: out of memory: "),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 5, "fastfid: out of memory: [Errno 12]"),
        (RuntimeError("CUDA out of memory. 1 GiB"), 5, "fastfid: out of memory: CUDA out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: x"), 5, "fastfid: out of memory: Default"),
        (
            RuntimeError("odd"),
            1,
            f"fastfid: a defect in fastfid {fastfid.__version__}: RuntimeError: odd (test_delivery.py",
        ),
        (AssertionError(), 1, "fastfid: a defect in fastfid"),
        (ZeroDivisionError("division"), 1, "fastfid: a defect in fastfid"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_codes(error: BaseException, code: int, said: str, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fastfid.api.evaluate", fail)
    done = call(*COMPARE)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith(said)
    if code not in (130,):
        monkeypatch.setenv("FASTFID_DEBUG", "1")
        assert call(*COMPARE).exception is error


REFUSED: list[tuple[Callable[[], tuple[Any, Any]], str]] = [
    (lambda: (wide(64), photos(3)), r"the network .* has 12 features, ref='.*' has 64"),
    (lambda: (photos(3), wide(64)), r"the network .* has 12 features, gen='.*' has 64"),
    (lambda: (wide(64), wide(12)), r"gen='.*' has 12 features, ref='.*' has 64"),
    (lambda: (photos(3), photos(1)), "gen='.*' holds 1 image; a covariance needs at least 2"),
    (lambda: (photos(1), photos(3)), "ref='.*' holds 1 image; a covariance needs at least 2"),
    (lambda: (photos(3), indefinite()), "gen"),
]


def wide(d: int) -> fastfid.Moments:
    return fastfid.Moments.from_statistics(np.zeros(d), np.eye(d))


def indefinite() -> fastfid.Moments:
    return fastfid.Moments.from_statistics(np.zeros(12), np.diag([1.0] * 11 + [-0.5]))


@pytest.mark.parametrize("given", range(len(REFUSED)))
def test_what_cannot_belong_together_is_refused_before_the_work(given: int) -> None:
    make, said = REFUSED[given]
    calls = []

    def network(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return Colours()(x)

    with pytest.raises(ValueError, match=said):
        fastfid.fid(*make(), extractor=network, batch_size=1, device="cpu")
    assert len(calls) <= 1  # how many features a callable gives is known from its first batch on


def test_an_evaluator_refuses_in_the_first_update() -> None:
    evaluator = fastfid.Evaluator(wide(64), extractor=Colours(), batch_size=1, device="cpu")
    with pytest.raises(IncomparableError, match="the network Colours has 12 features"):
        evaluator.update(torch.from_numpy(photos(3)).permute(0, 3, 1, 2))
    assert evaluator.n == 0


def test_a_cache_that_cannot_be_used_does_not_end_the_run(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = number(sets)
    (sets / "file").write_text("")
    done = call(*COMPARE, "--cache", "file/below")
    assert (done.exit_code, want in done.stdout) == (0, True), done.output
    assert "the cache 'file/below' is not used" in done.stdout
    for moment, name in (("open", ".partial"), ("open", ".checkpoint"), ("fsync", ".partial")):
        with monkeypatch.context() as patch:
            full_at(patch, moment, name, before=True)
            done = call(*COMPARE, "--cache", f"{moment}{name}")
        assert (done.exit_code, want in done.stdout) == (0, True), done.output
        assert "No space left on device" in done.stdout
        assert not [file for file in Path(f"{moment}{name}").rglob("*") if file.suffix not in ("", ".safetensors")]
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "mkdir", lambda *_args, **_options: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only"))
        )
        done = call(*COMPARE, "--cache", "new")
    assert (done.exit_code, want in done.stdout, "read-only" in done.stdout) == (0, True, True)
    assert call(*COMPARE, "--cache", "file").exit_code == 2


def test_a_checkpoint_that_fails_later_does_not_end_the_run(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = number(sets)
    full_at(monkeypatch, "fsync", "c.gen")
    done = call(*COMPARE, "--checkpoint", "c")
    assert (done.exit_code, want in done.stdout) == (0, True), done.output
    assert "from here on this run is not recorded" in done.stdout
    assert left(sets) == set()


def test_a_checkpoint_stays_until_the_result_is_safe(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*STATS, "--checkpoint", "c")
    with monkeypatch.context() as patch:
        full_at(patch, "fsync", ".npz")
        assert call(*words).exit_code == 7
    assert left(sets) == {"c.images"}
    monkeypatch.setattr(
        "fastfid.extractors.adapters.Extractor.__call__", lambda *_: pytest.fail("it went through again")
    )
    assert call(*words).exit_code == 0
    assert left(sets) == {"new.npz"}
    got, want = fastfid.Moments.load("new.npz"), fastfid.Moments.load("ref.npz")
    assert got.cov().numpy().tobytes() == want.cov().numpy().tobytes()


def test_progress_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return True

    for stream in (Broken(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        with _progress.bar("ref", 3, True) as show:
            show(3)
        assert _progress.wanted(None) is (stream is not None)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain [red]ä−é×²日本", "plain [red]ä−é×²日本"),
        ("a\nb\tc\x00\x7f\x9b1m\x1b[31m", r"a\nb\tc\x00\x7f\x9b1m\x1b[31m"),
        ("\u202egnp.exe\u2066\u2028\u200f", r"\u202egnp.exe\u2066\u2028\u200f"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_shown(text: str, want: str) -> None:
    assert shown(text) == want
    assert shown(shown(text)) == want


def test_nothing_shown_acts_on_a_terminal() -> None:
    from unicodedata import category

    for code in range(0x3000):
        text = shown(chr(code))
        assert category(chr(code)) not in ("Cc", "Zl", "Zp", "Cs") or text.isascii()
        assert len(text) == 1 or category(chr(code)) in ("Cc", "Zl", "Zp", "Cf")


def test_warnings_have_names_that_cannot_act_on_a_terminal(sets: Path) -> None:
    odd = sets / "gen" / "x\x1b[2J\n.png"
    odd.write_bytes(b"no image")
    with pytest.warns(fastfid.errors.BadImageWarning) as told:
        result = fastfid.fid("ref", "gen", extractor="net.pt", device="cpu", skip_bad=True)
    (text,) = [str(one.message) for one in told if one.category is fastfid.errors.BadImageWarning]
    assert text.isprintable()
    assert r"x\x1b[2J\n.png" in text
    assert result.run.gen.skipped == ("x\x1b[2J\n.png",)
    done = call(*COMPARE, "--skip-bad")
    assert "\x1b" not in done.stdout
    assert r"x\x1b[2J\n.png" in done.stdout


def test_where_the_fault_lies_is_named() -> None:
    def below() -> None:
        raise LookupError("deep")

    from fastfid.cli import _judged

    try:
        below()
    except LookupError as error:
        code, words = _judged(error)
    assert code == 1
    assert f"LookupError: deep (test_delivery.py, line {below.__code__.co_firstlineno + 1})" in words


def test_several_troubles(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All are named, and the gravest gives the code: a defect before a disk, a disk before a pipe."""
    from fastfid.cli import _fail
    from fastfid.report.delivery import PipeClosedError

    monkeypatch.delenv("FASTFID_DEBUG", raising=False)
    pipe, disk, defect = PipeClosedError("stdout is closed"), OutputError("r", "full"), KeyError("x")
    for troubles, code in (([pipe, disk], 7), ([disk, defect, pipe], 1), ([pipe], 141)):
        with pytest.raises(SystemExit) as ended:
            _fail(troubles)
        assert ended.value.code == code
        assert len(capsys.readouterr().err.splitlines()) == len(troubles)
