"""Ranks that were not given the same are told so, all of them; ranks that were get the number of one process.

Every case is one call of ``fid`` on two (or three) ranks; they run one after the other in one pair of processes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from distributed_worker import run, run_and_signal, values
from images import photos, write_folder
from tolerances import MERGED_ACROSS, check
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import fastfid

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the processes are made by a fork server"),
    pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning"),
]

REAL = photos(70, 20, 24)
MADE = (REAL // 2 + 40).astype(np.uint8)
TENSOR = torch.from_numpy(MADE).permute(0, 3, 1, 2).contiguous()


class Means(torch.nn.Module):
    """12 features; as a module its weights are hashed."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * self.scale


class Place(NamedTuple):
    """Where a case runs."""

    rank: int
    size: int
    folder: Path

    def other(self, usual: Any, deviant: Any) -> Any:
        """The deviant on the last rank."""
        return deviant if self.rank == self.size - 1 else usual

    def part(self, n: int = 70) -> slice:
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)


class Images(Dataset[Any]):
    """MADE; ``after`` so many reads, other images."""

    def __init__(self, images: np.ndarray = MADE, after: int | None = None, chance: bool = False) -> None:
        self.images, self.after, self.chance, self.reads = images, after, chance, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        self.reads += 1
        if self.chance:
            return self.images[index] ^ np.uint8(torch.randint(0, 8, ()).item())
        return self.images[index] // 2 if self.after is not None and self.reads > self.after else self.images[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(TENSOR)


class Sharded(BatchSampler):
    """As accelerate's BatchSamplerShard: it says how many processes it divides among."""

    num_processes = 2


def loader(sampler: Any = None, images: torch.Tensor = TENSOR, **more: Any) -> Any:
    return DataLoader(TensorDataset(images), 16, sampler=sampler, **more)


def distributed_sampler(place: Place, n: int = 70, **more: Any) -> DistributedSampler[Any]:
    return DistributedSampler(range(n), place.size, place.rank, shuffle=False, **more)  # type: ignore[arg-type]


def changed(images: np.ndarray, index: int) -> np.ndarray:
    """One pixel of one image is another."""
    images = images.copy()
    images[index, 3, 4, 1] ^= 1
    return images


def archive(place: Place, name: str, images: np.ndarray, compressed: bool = False) -> Path:
    """A .npz of this rank's own, under a name that is the same on all."""
    folder = place.folder / f"{name}{place.rank}"
    folder.mkdir(exist_ok=True)
    (np.savez_compressed if compressed else np.savez)(folder / "made.npz", arr_0=images)
    return folder / "made.npz"


def array_file(place: Place, name: str, images: np.ndarray) -> Path:
    folder = place.folder / f"{name}{place.rank}"
    folder.mkdir(exist_ok=True)
    np.save(folder / "made.npy", images)
    return folder / "made.npy"


def folder(place: Place, name: str, images: np.ndarray, edit: Callable[[Path], Any] = lambda _: None) -> Path:
    """A folder of this rank's own; the deviant rank's is edited."""
    path = place.folder / f"{name}{place.rank}" / "made"
    path.parent.mkdir(exist_ok=True)
    write_folder(path, images)
    if place.rank == place.size - 1:
        edit(path)
    return path


def zipped(place: Place, name: str, images: np.ndarray) -> Path:
    path = folder(place, name, images)
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as made:
        for file in sorted(path.iterdir()):
            made.write(file, file.name)
    return path.with_suffix(".zip")


def flipped(path: Path) -> None:
    """Other content under the same name and size: no image any more, or another."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)


def script(place: Place, scale: float) -> Path:
    path = place.folder / f"net{place.rank}"
    path.mkdir(exist_ok=True)
    torch.jit.script(Means(scale)).save(path / "means.pt")
    return path / "means.pt"


def weighted(seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A callable whose weights nobody can see."""
    weights = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
    return lambda x: Means()(x) @ weights


def statistics(images: np.ndarray) -> fastfid.Moments:
    return fastfid.stats(images, extractor=Means(), device="cpu", batch_size=8, progress=False)


RIGHT: dict[str, Callable[[Place], dict[str, Any]]] = {
    "array": lambda _: {"gen": MADE},
    "tensor": lambda _: {"gen": TENSOR},
    "dataset": lambda _: {"gen": Images()},
    "loader": lambda _: {"gen": loader()},
    "loader of a stream": lambda _: {"gen": DataLoader(Stream(), 16)},
    "list of images": lambda _: {"gen": list(MADE)},
    "generator": lambda _: {"gen": (batch for batch in np.array_split(MADE, 5))},
    "batches cut otherwise": lambda p: {"gen": iter(np.array_split(MADE, 3 + p.rank))},
    "folder": lambda p: {"gen": folder(p, "f", MADE)},
    "zip": lambda p: {"gen": zipped(p, "z", MADE)},
    "npz": lambda p: {"gen": archive(p, "a", MADE)},
    "deflated npz": lambda p: {"gen": archive(p, "d", MADE, compressed=True)},
    "npy": lambda p: {"gen": array_file(p, "n", MADE)},
    "statistics": lambda _: {"gen": statistics(MADE)},
    "script": lambda p: {"gen": MADE, "extractor": str(script(p, 1.0))},
    "own arrays": lambda p: {"gen": MADE[p.part()], "distributed": "own", "ref": folder(p, "o", REAL)},
    "own generators": lambda p: {"gen": iter(MADE[p.part()]), "distributed": "own", "ref": statistics(REAL)},
    "own subsets": lambda p: {"gen": Subset(Images(), range(70)[p.part()]), "distributed": "own",
                              "ref": REAL[p.part()]},
    "own halves of a loader": lambda p: {"gen": loader(distributed_sampler(p, drop_last=True)), "distributed": "own",
                                         "ref": statistics(REAL)},
}  # fmt: skip

CONTENT = "rank 0 and rank 1|of rank 0 has other content than item '.*' of rank 1"
WRONG: dict[str, tuple[Callable[[Place], dict[str, Any]], str]] = {
    # loaders that divide or shuffle by themselves
    "DistributedSampler": (
        lambda p: {"gen": loader(distributed_sampler(p))},
        r"gen: this DataLoader is divided among 2 processes already \(DistributedSampler\).*distributed='own'",
    ),
    "as reference": (lambda p: {"ref": loader(distributed_sampler(p))}, "ref: this DataLoader is divided among 2"),
    "accelerate": (
        lambda _: {"gen": DataLoader(TensorDataset(TENSOR), batch_sampler=Sharded(range(70), 8, False))},
        r"divided among 2 processes already \(Sharded\)",
    ),
    "shuffle": (lambda _: {"gen": loader(shuffle=True)}, r"gen: this DataLoader shuffles \(RandomSampler\).*False"),
    "random in batches": (
        lambda _: {"gen": DataLoader(TensorDataset(TENSOR), batch_sampler=BatchSampler(
            torch.utils.data.SubsetRandomSampler(range(70)), 8, False))},
        r"shuffles \(SubsetRandomSampler\)",
    ),
    # streams
    "generators of 35": (
        lambda p: {"gen": iter(MADE[p.part()])}, r"gen=.*given other images.*whole stream.*distributed='own'"
    ),
    "half a list": (lambda p: {"gen": list(MADE[p.part()])}, r"given other images"),
    "a longer stream": (lambda p: {"gen": iter(p.other(MADE, np.concatenate([MADE, MADE[:1]])))}, r"\(70 and 71\)"),
    "a shorter stream": (lambda p: {"gen": iter(p.other(MADE, MADE[:69]))}, r"\(70 and 69\)"),
    "the last pixel": (
        lambda p: {"gen": iter(np.array_split(p.other(MADE, changed(MADE, 69)), 4))}, r"other ones among the first 70"
    ),
    "another order": (lambda p: {"gen": iter(p.other(MADE, MADE[::-1]))}, r"other ones among the first 64"),
    "a hidden shuffle": (
        lambda p: {"gen": loader(images=TENSOR[np.random.default_rng(p.rank).permutation(70)])},
        "other ones among the first 64",
    ),
    "an empty stream": (lambda p: {"gen": iter(p.other(MADE, MADE[:0]))}, r"\(64 and 0\)"),
    # arrays and Datasets
    "half an array": (lambda p: {"gen": MADE[p.part(60)]}, "item '0' of rank 0 has other content than"),
    "another length": (lambda p: {"gen": p.other(MADE, MADE[:69])}, "another number of images: 70 and 69"),
    "another shape": (lambda p: {"gen": p.other(MADE, MADE[:, :19])}, r"another form: .*24, 3\]' and .*19, 24"),
    "array and tensor": (lambda p: {"gen": p.other(MADE, TENSOR)}, "another form: 'NHWC .* and 'NCHW"),
    "other pixels": (lambda p: {"gen": p.other(MADE, MADE + np.uint8(1))}, CONTENT),
    "one pixel of 64": (lambda p: {"gen": p.other(MADE[:64], changed(MADE[:64], 33))}, r"item '33' of rank 0"),
    "the reference": (lambda p: {"ref": p.other(REAL, MADE)}, "ref=.*other content"),
    "array and Dataset": (lambda p: {"gen": p.other(MADE, Images())}, "another kind of set: 'array' and 'dataset'"),
    "a shorter Dataset": (lambda p: {"gen": Images(p.other(MADE, MADE[:50]))}, "number of images: 70 and 50"),
    "Datasets of halves": (lambda p: {"gen": Images(MADE[p.part()])}, "other content"),
    "one pixel of a Dataset": (lambda p: {"gen": Images(p.other(MADE[:64], changed(MADE[:64], 7)))}, "item '7' of"),
    "augmentation": (lambda _: {"gen": Images(chance=True)}, "is another one when it is read a second time"),
    "a Dataset that turns": (
        lambda p: {"gen": Images(after=p.other(None, 68))}, r"is another one when rank \d reads it"
    ),
    # files
    "a file of another size": (
        lambda p: {"gen": folder(p, "s", MADE, lambda f: (f / "012.png").write_bytes(b"short"))},
        r"other files: '012.png: \d+ bytes' and '012.png: 5 bytes'",
    ),
    "a file more": (
        lambda p: {"gen": folder(p, "m", MADE, lambda f: (f / "x.png").write_bytes((f / "001.png").read_bytes()))},
        r"other files \(70 and 71 images\): 'nothing' and 'x.png: \d+ bytes'",
    ),
    "a file less": (lambda p: {"gen": folder(p, "l", MADE, lambda f: (f / "069.png").unlink())}, r"70 and 69 images"),
    "another name": (
        lambda p: {"gen": folder(p, "r", MADE, lambda f: (f / "069.png").rename(f / "070.png"))}, "'070.png:"
    ),
    "files of other content": (
        lambda p: {"gen": folder(p, "c", MADE[:60], lambda f: flipped(f / "017.png"))}, "item '017.png' of rank 0"
    ),
    "a zip of other content": (
        lambda p: {"gen": zipped(p, "y", p.other(MADE, changed(MADE, 5)))}, r"other files: '005.png: .*CRC"
    ),
    "an npz of other content": (
        lambda p: {"gen": archive(p, "b", p.other(MADE, changed(MADE, 5)))}, r"other files: 'arr_0.npy: .*CRC"
    ),
    "an npy of other content": (
        lambda p: {"gen": array_file(p, "e", p.other(MADE[:64], changed(MADE[:64], 5)))}, "item '5' of rank 0"
    ),
    # statistics and networks
    "other statistics": (lambda p: {"gen": statistics(p.other(MADE, changed(MADE, 5)))}, "the statistics of rank 0"),
    "statistics of fewer": (lambda p: {"gen": statistics(p.other(MADE, MADE[:50]))}, "70 and 50"),
    "a script": (
        lambda p: {"gen": MADE, "extractor": str(script(p, p.other(1.0, 3.0)))},
        r"network: all processes need the same weights: rank 0 has 'means.pt \(sha256 ",
    ),
    "a module": (lambda p: {"gen": MADE, "extractor": Means(p.other(1.0, 3.0))}, "need the same weights_sha256"),
    "a callable": (
        lambda p: {"gen": MADE, "extractor": weighted(p.other(1, 2))}, "not what it is on rank 0: the same two images"
    ),
    "another network": (lambda p: {"gen": MADE, "extractor": p.other(Means(), weighted(1))}, "need the same extractor"),
    # settings
    "limit": (lambda p: {"gen": MADE, "limit": p.other(50, 51)}, "need the same limit: rank 0 has 50, rank 1 has 51"),
    "seed": (lambda p: {"gen": MADE, "limit": 9, "seed": p.other(0, 1)}, "need the same seed"),
    "protocol": (lambda p: {"gen": MADE, "protocol": p.other("clean", "adm")}, "need the same protocol"),
    "skip_bad": (lambda p: {"gen": MADE, "skip_bad": p.other(True, False)}, "need the same skip_bad"),
    "semantics": (lambda p: {"gen": MADE, "distributed": p.other(True, "own")}, "need the same distributed"),
    # own
    "own, all the same": (
        lambda _: {"gen": MADE, "distributed": "own", "ref": statistics(REAL)}, "rank 0 and rank 1 gave the same 70"
    ),
    "own, shuffled": (
        lambda _: {"gen": loader(shuffle=True), "distributed": "own", "ref": statistics(REAL)}, "gave the same 70"
    ),
    "own with limit": (
        lambda p: {"gen": MADE[p.part()], "distributed": "own", "limit": 20}, "'own': limit is not defined over sets"
    ),
    "own in blocks": (
        lambda p: {"gen": MADE[p.part()], "distributed": "own", "protocol": "ttur"}, "'own': protocol ttur is not"
    ),
    "own folders": (
        lambda p: {"ref": MADE[p.part()], "gen": folder(p, "w", MADE[p.part()]), "distributed": "own"}, "other files"
    ),
}  # fmt: skip


def measure(names: list[str], where: Path) -> list[tuple[Any, ...]]:
    """Each case: its value and counts, or its error, on one rank."""
    warnings.simplefilter("ignore")
    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), where)
    found: list[tuple[Any, ...]] = []
    for name in names:
        make = RIGHT[name] if name in RIGHT else WRONG[name][0]
        settings: dict[str, Any] = {"ref": REAL, "gen": MADE, "extractor": Means(), "device": "cpu", "batch_size": 8,
                                    "progress": False, "distributed": True, "timeout": 60, **make(place)}  # fmt: skip
        try:
            result = fastfid.fid(settings.pop("ref"), settings.pop("gen"), **settings)
        except Exception as error:
            found.append((type(error).__name__, str(error)))
        else:
            found.append((result.value, result.run.ref.n, result.run.gen.n, result.run.gen.notes))
    return found


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_number_of_one_process(size: int, tmp_path: Path) -> None:
    want = fastfid.fid(REAL, MADE, extractor=Means(), device="cpu", batch_size=8, progress=False).value
    names = [name for name in RIGHT if size == 2 or name != "own halves of a loader"]  # 70 is no multiple of 3
    for rank in values(run(measure, size, names, tmp_path)):
        for name, got in zip(names, rank, strict=True):
            assert got[1:3] == (70, 70), (name, got)
            check(got[0], want, relative=10 * MERGED_ACROSS)
            assert ("of its own" in " ".join(got[3])) == name.startswith("own"), (name, got)


def test_all_ranks_refuse_what_is_not_the_same(tmp_path: Path) -> None:
    first, second = values(run(measure, 2, list(WRONG), tmp_path))
    for name, *both in zip(WRONG, first, second, strict=True):
        for rank, (kind, text, *_) in enumerate(both):
            assert kind in ("ValueError", "RankError"), (name, rank, kind, text)
            assert re.search(WRONG[name][1], text, re.DOTALL), (name, rank, text)
        assert "ValueError" in (both[0][0], both[1][0]), name


@pytest.mark.slow
def test_three_ranks_refuse_too(tmp_path: Path) -> None:
    for name, *all_ in zip(WRONG, *values(run(measure, 3, list(WRONG), tmp_path)), strict=True):
        assert {kind for kind, _ in all_} <= {"ValueError", "RankError"}, (name, all_)


def evaluate(cases: list[str], where: Path) -> list[tuple[Any, ...]]:
    """Evaluators whose ranks took the same, or have different networks."""
    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), where)
    found: list[tuple[Any, ...]] = []
    for case in cases:
        extractor = Means(place.other(1.0, 2.0)) if case == "networks" else Means()
        reference = statistics(REAL)
        if case == "references":
            reference = statistics(place.other(REAL, MADE))
        if case == "weighted":
            extractor = weighted(place.other(1, 2))  # type: ignore[assignment]
            reference = fastfid.stats(REAL, extractor=weighted(1), device="cpu", progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                evaluator = fastfid.Evaluator(
                    reference, extractor=extractor, device="cpu", distributed=True, timeout=60, progress=False
                )
                evaluator.update(MADE if case == "the same" else MADE[place.part()])
                result = evaluator.compute()
                found.append(
                    (result.value, result.run.gen.n, [text for text in result.run.warnings if "twice" in text])
                )
            except Exception as error:
                found.append((type(error).__name__, str(error)))
    return found


def test_evaluators_that_differ_or_took_the_same(tmp_path: Path) -> None:
    want = fastfid.fid(REAL, MADE, extractor=Means(), device="cpu", progress=False).value
    cases = ["right", "the same", "networks", "references", "weighted"]
    for found in values(run(evaluate, 2, cases, tmp_path)):
        told = dict(zip(cases, found, strict=True))
        check(told["right"][0], want, relative=10 * MERGED_ACROSS)
        assert told["right"][1:] == (70, [])
        assert told["the same"][1] == 140
        assert "ranks 0 and 1 took 70 images each whose features have the same mean" in told["the same"][2][0]
        assert told["networks"][0] in ("ValueError", "RankError", "IncomparableError")
        assert "weights" in told["networks"][1]
        assert "the statistics of rank 0 and rank 1 hold other numbers" in told["references"][1]
        assert "on rank 1 is not what it is on rank 0" in told["weighted"][1]


def resume(folder_: Path, checkpoint: Path | None) -> tuple[Any, ...]:
    """A pass that keeps its state after every batch."""
    from fastfid.passes import keeping

    if checkpoint is not None:
        keeping.record_checkpoints = partial(keeping.record_checkpoints, every_s=0.0)  # type: ignore[assignment]
    settings: dict[str, Any] = {"extractor": str(folder_.parent / "means.pt"), "device": "cpu", "batch_size": 8}
    warnings.simplefilter("ignore")
    moments = fastfid.stats(folder_, **settings, progress=False, distributed=True, checkpoint=checkpoint)
    return moments.n, moments.mean.numpy().tobytes(), moments.scatter.numpy().tobytes()


def test_a_run_of_several_ranks_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """An unreadable image on rank 1 ends the first attempt; what rank 0 read by then is not read again."""
    torch.jit.script(Means()).save(tmp_path / "means.pt")
    images = write_folder(tmp_path / "made", MADE)
    want = values(run(resume, 2, images, None))[0]
    bad = images / "066.png"
    kept, stamp = bad.read_bytes(), bad.stat()
    bad.write_bytes(bytes(len(kept)))
    os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    first = run(resume, 2, images, tmp_path / "state")
    assert {one.error for one in first} == {"BadImageError", "RankError"}
    assert [path.name for path in tmp_path.glob("state.*1of2*")] != []
    bad.write_bytes(kept)
    os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert values(run(resume, 2, images, tmp_path / "state")) == [want, want]
    assert want[0] == 70
    assert not list(tmp_path.glob("state.*"))


def measured_for_long(folder_: Path, seconds: float) -> float:
    """One call after the other, to be killed in; the last value."""
    warnings.simplefilter("ignore")
    end, value = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        value = fastfid.fid(
            REAL, folder_, extractor=Means(), device="cpu", batch_size=8, progress=False, distributed=True, timeout=4
        ).value
    return value


@pytest.mark.slow
@pytest.mark.parametrize(("number", "whose"), [(signal.SIGKILL, 0), (signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
@pytest.mark.parametrize("after_s", [0.3, 1.1, 2.3])
def test_a_rank_killed_or_stopped_at_any_moment(number: int, whose: int, after_s: float, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "made", MADE)
    outcomes = run_and_signal(measured_for_long, 3, images, 30.0, whose=whose, after_s=after_s, number=number)
    for rank, one in enumerate(outcomes):
        if rank != whose:
            assert (one.code, one.error) == (1, "RankError"), (rank, one)
    assert any(f"rank {whose}" in one.text for rank, one in enumerate(outcomes) if rank != whose), outcomes
