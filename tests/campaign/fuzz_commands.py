"""Fuzz of the command line, in this process."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from rich.console import Console

import fastfid
from campaign.fuzz_calls import pictures, written
from campaign.fuzz_images import Pooled
from campaign.trial import Entry, Fault, close, pick, require, unchanged
from fastfid.cli import main

Generator = np.random.Generator
assert Console  # imported before the first command: rich draws from random, once, as it is imported


@functools.cache
def sets() -> Path:
    """Folders "x" and "y", a network and two files of statistics, made once in a process."""
    root = Path(tempfile.mkdtemp(prefix="sets-"))
    for seed, name in enumerate(("x", "y")):
        written(root, pictures(np.random.default_rng(seed), 5), name)
    torch.jit.script(Pooled()).save(str(root / "net.pt"))
    for name in ("x", "y"):
        fastfid.stats(root / name, root / f"{name}.npz", extractor=str(root / "net.pt"), progress=False, device="cpu")
    (root / "noise.npz").write_bytes(b"noise" * 20)
    return root


def command(*words: Any, label: str, codes: tuple[int, ...], says: str = "") -> Any:
    """One command in this process; its exit code is one of ``codes`` and nothing is raised."""
    with unchanged(label):
        done = CliRunner().invoke(main, [str(word) for word in words], prog_name="fastfid")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise Fault(f"{label}: {type(done.exception).__name__}", str(done.exception)[:300])
    text = done.output + (done.stderr if done.stderr_bytes is not None else "")
    require(done.exit_code in codes, f"{label}: exit {done.exit_code}, not {codes}", text[-300:])
    require("Traceback" not in text, f"{label}: traceback", text[-300:])
    require(says in text, f"{label}: does not name {says}", text[-300:])
    return done


def wrong_option(rng: Generator, options: dict[str, tuple[Any, ...]]) -> tuple[str, Any]:
    name = pick(rng, options)
    return name, pick(rng, options[name])


COMMON: dict[str, tuple[Any, ...]] = {
    "--protocol": ("nonsense", "", "\udcff", "CLEAN "),
    "--tap": ("3", "", "pool"),
    "--device": ("tpu", "", "cuda:x", "cuda:99", "cpu:0"),
    "--batch-size": ("0", "-1", "x", "1e3", "", "9" * 40),
    "--num-workers": ("-1", "x", "0.5"),
    "--limit": ("0", "-3", "x", "9" * 40),
    "--seed": ("-1", "x", "nan"),
    "--precision": ("fp8", "", "FP32 "),
    "--extractor": ("none.pt", "", "."),
    "--shard": ("x", "2/2", "-1/2", "0/0"),
    "--unknown": ("1",),
}


def compare(rng: Generator, folder: Path) -> None:
    root, net = sets(), ("--extractor", sets() / "net.pt", "--quiet", "--device", "cpu")
    kind = int(rng.integers(5))
    if kind == 0:
        out = folder / "r.json"
        given = [pick(rng, (root / name, root / f"{name}.npz")) for name in ("x", "y")]
        command("compare", *given, *net, "--json", out, label="compare", codes=(0,))
        report = json.loads(out.read_text())
        want = _between()
        got = float(report["results"]["fid"]["value"])
        close(got, want, 1e-9 * (1 + want), "compare: value in JSON")
        require([one.name for one in folder.iterdir()] == ["r.json"], "compare: stray files")
    elif kind < 3:
        name, value = wrong_option(rng, COMMON)
        label = f"compare {name} {value[:9]!r}"
        command("compare", root / "x", root / "y", "--quiet", name, value, label=label, codes=(2, 3, 4, 5))
    elif kind == 3:
        bad = pick(rng, (root / "none", root / "noise.npz", root / "net.pt", "", folder, "a\0b", "-", "\udcff"))
        label = f"compare with {Path(str(bad)).name!r}"
        command("compare", root / "x", bad, *net, label=label, codes=(2, 3))
    else:
        bad = pick(rng, (folder / "none" / "r.json", folder, "a\0b", folder / ("n" * 300)))
        label = f"compare --json {str(bad)[-9:]!r}"
        command(
            "compare",
            root / "x.npz",
            root / "y.npz",
            *net,
            "--json",
            bad,
            label="compare --json wrong",
            codes=(2, 3, 7),
        )
        require(not list(folder.iterdir()), f"{label}: left a file")


@functools.cache
def _between() -> float:
    root = sets()
    return float(fastfid.fid(root / "x.npz", root / "y.npz", device="cpu"))


def stats_command(rng: Generator, folder: Path) -> None:
    root, out = sets(), folder / "o.npz"
    kind = int(rng.integers(4))
    if kind == 0:
        command("stats", root / "x", "-o", out, "--extractor", root / "net.pt", "--quiet", label="stats", codes=(0,))
        with np.load(out) as ours, np.load(root / "x.npz") as want:
            require(all(np.array_equal(ours[key], want[key]) for key in ("mu", "sigma", "n")), "stats: other bits")
    elif kind < 3:
        name, value = wrong_option(rng, COMMON)
        label = f"stats {name} {value[:9]!r}"
        command("stats", root / "x", "-o", out, "--quiet", name, value, label=label, codes=(2, 3, 4, 5))
        require(not out.exists(), f"{label}: left a file")
    else:
        bad = pick(rng, ("x", "", folder / "none" / "o.npz", "a\0b.npz", folder / ("n" * 300 + ".npz")))
        net = ("--extractor", root / "net.pt", "--quiet")
        command("stats", root / "x", "-o", bad, *net, label="stats -o wrong", codes=(2, 3, 7))


def merge(rng: Generator, folder: Path) -> None:
    root, out = sets(), folder / "m.npz"
    if rng.integers(2):
        files = [root / "x.npz", root / "y.npz"][:: 1 if rng.integers(2) else -1]
        command("merge", *files, "-o", out, label="merge", codes=(0,))
        require(fastfid.Moments.load(out).n == 10, "merge: n")
    else:
        bad = pick(rng, (root / "noise.npz", root / "net.pt", root / "none.npz", root, root / "x" / "000.png"))
        command("merge", root / "x.npz", bad, "-o", out, label=f"merge with {bad.name}", codes=(2, 3), says=bad.name)
        require(not out.exists(), "merge: left a file")


def plain(name: str) -> Any:
    """Commands that take nothing, or whose work is too long for a campaign: their words are tried."""

    def run(rng: Generator, folder: Path) -> None:
        if name in ("protocols", "metrics", "info") and rng.integers(8) == 0:
            done = command(name, label=name, codes=(0,))
            require("pytorch-fid" in done.output or "torch" in done.output or "prdc" in done.output, f"{name}: output")
            return
        if rng.integers(4) == 0:
            command(name, pick(rng, ("-h", "--help")), label=f"{name} --help", codes=(0,))
            return
        options: dict[str, tuple[Any, ...]] = {
            "--unknown": ("1",),
            "--count": ("1", "-3", "x"),
            "extra": ("word", "\udcff"),
        }
        if name == "bench":
            options = {"--unknown": ("1",), "--device": ("tpu", "", "cuda:99"), "--json": (folder, folder / "a" / "b")}
        word, value = wrong_option(rng, options)
        command(name, word, value, label=f"{name} {word}", codes=(2, 3, 5, 7))
        require(not list(folder.iterdir()), f"{name} {word}: left a file")

    return run


_PLAIN = ("protocols", "metrics", "info", "demo", "bench")
ENTRIES = [
    Entry("fuzz/command compare", compare, ("command compare",)),
    Entry("fuzz/command stats", stats_command, ("command stats",)),
    Entry("fuzz/command merge", merge, ("command merge",)),
    *(Entry(f"fuzz/command {name}", plain(name), (f"command {name}",)) for name in _PLAIN),
]
