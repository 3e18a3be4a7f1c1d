"""``fid`` and ``stats`` with a cache or a checkpoint: nothing is read twice, and interruptions leave the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from images import photos, write_folder
from PIL import Image

import fastfid
from fastfid.cli import main
from fastfid.errors import CacheError, CacheWarning
from fastfid.passes.store import recording
from fastfid.sources.base import Source

pytestmark = pytest.mark.filterwarnings("ignore::fastfid.errors.SmallSampleWarning")
IMAGES = photos(61, 20, 24)


class Means(torch.nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * self.scale


class Reads:
    """How many images were decoded, and after how many the power fails."""

    def __init__(self) -> None:
        self.count = 0
        self.limit = 10**9


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found, kept = Reads(), Source.batches

    def counted(self: Source, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in kept(self, *args, **kwargs):
            if found.count >= found.limit:
                raise KeyboardInterrupt
            found.count += len(batch.names) + len(batch.bad)
            yield batch

    monkeypatch.setattr(Source, "batches", counted)
    return found


@pytest.fixture
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each batch."""
    from fastfid.passes.store import checkpoint

    monkeypatch.setattr(checkpoint.Checkpoint, "due", lambda self: True)
    assert recording.Checkpoint is checkpoint.Checkpoint


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.jit.script(Means()).save(tmp_path / "means.pt")
    return tmp_path / "means.pt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", IMAGES)


def bits(moments: fastfid.Moments) -> tuple[Any, ...]:
    return moments.n, moments.mean.numpy().tobytes(), moments.cov().numpy().tobytes()


@pytest.mark.parametrize("settings", [{}, {"protocol": "ttur"}, {"limit": 9}, {"limit": 40, "seed": 3}], ids=str)
@pytest.mark.filterwarnings("ignore:.*incomplete block")
def test_a_second_run_reads_nothing(
    settings: dict[str, Any], folder: Path, network: Path, tmp_path: Path, reads: Reads
) -> None:
    asked = {"extractor": network, "device": "cpu", "batch_size": 8, **settings}
    plain = fastfid.stats(folder, **asked)
    first = fastfid.stats(folder, cache=tmp_path / "cache", **asked)
    reads.count = 0
    second = fastfid.stats(folder, cache=tmp_path / "cache", **asked)
    assert reads.count == 0
    assert bits(first) == bits(second) == bits(plain)
    assert any("from the cache" in note for note in second.metadata["notes"])
    result = fastfid.fid(folder, 255 - IMAGES, cache=tmp_path / "cache", **asked)
    assert reads.count == len(IMAGES[: settings.get("limit")])  # the other set only
    assert result.value == fastfid.fid(folder, 255 - IMAGES, **asked).value


def test_what_makes_another_entry(folder: Path, network: Path, tmp_path: Path, reads: Reads) -> None:
    asked = {"extractor": network, "device": "cpu", "cache": tmp_path / "cache"}
    fastfid.stats(folder, **asked)
    torch.jit.script(Means(2.0)).save(tmp_path / "other.pt")
    changed: list[dict[str, Any]] = [{"protocol": "clean"}, {"extractor": tmp_path / "other.pt"}, {"limit": 60}]
    for change in changed:
        reads.count = 0
        fastfid.stats(folder, **{**asked, **change})
        assert reads.count > 0, change
    (folder / "007.png").write_bytes((folder / "008.png").read_bytes())
    reads.count = 0
    got = fastfid.stats(folder, **asked)
    assert reads.count == 61
    assert bits(got) == bits(fastfid.stats(folder, extractor=network, device="cpu"))


@pytest.mark.parametrize("kind", ["cache", "checkpoint"])
@pytest.mark.parametrize("settings", [{}, {"protocol": "ttur"}, {"limit": 11}, {"skip_bad": True}], ids=str)
@pytest.mark.filterwarnings("ignore:.*incomplete block", "ignore:.*unreadable")
def test_an_interrupted_run_goes_on(
    kind: str, settings: dict[str, Any], folder: Path, network: Path, tmp_path: Path, reads: Reads, every_batch: None
) -> None:
    if "skip_bad" in settings:
        (folder / "003.png").write_bytes(b"no image")
    asked = {"extractor": network, "device": "cpu", "batch_size": 4, **settings}
    want = fastfid.stats(folder, **asked)
    asked[kind] = tmp_path / "kept"
    total = 0
    for limit in (5, 9, 100):
        reads.count, reads.limit = 0, limit
        with suppress(KeyboardInterrupt):
            got = fastfid.stats(folder, **asked)
            break
        total += reads.count
    total += reads.count
    assert bits(got) == bits(want)
    assert got.metadata["skipped"] == want.metadata["skipped"]
    # Each interruption costs at most the batch it fell into.
    assert total <= settings.get("limit", 61) + 2 * 4
    assert not list(tmp_path.glob("kept.*"))


def test_what_was_noted_before_an_interruption_stays_said(
    folder: Path, network: Path, tmp_path: Path, reads: Reads, every_batch: None
) -> None:
    for index in (0, 1, 60):
        Image.fromarray(np.full((20, 24), 40_000, np.uint16)).save(folder / f"{index:03d}.png")
    asked = {"extractor": network, "device": "cpu", "batch_size": 4, "checkpoint": tmp_path / "kept"}
    reads.limit = 8
    with pytest.raises(KeyboardInterrupt):
        fastfid.stats(folder, **asked)
    reads.limit = 10**9
    notes = fastfid.stats(folder, **asked).metadata["notes"]
    assert [note.split()[0] for note in notes if "16 or 32 bits" in note] == ["2", "1"]


def test_a_checkpoint_of_another_run_is_left_alone(
    folder: Path, network: Path, tmp_path: Path, reads: Reads, every_batch: None
) -> None:
    asked = {"extractor": network, "device": "cpu", "batch_size": 4, "checkpoint": tmp_path / "kept"}
    reads.limit = 8
    with pytest.raises(KeyboardInterrupt):
        fastfid.stats(folder, **asked)
    reads.limit = 10**9
    before = (tmp_path / "kept.images").read_bytes()
    with pytest.raises(CacheError, match=r"is of another run: .*batch_size was 4 and is now 5"):
        fastfid.stats(folder, **{**asked, "batch_size": 5})
    assert (tmp_path / "kept.images").read_bytes() == before


def test_what_cannot_be_kept_is_said(folder: Path, network: Path, tmp_path: Path) -> None:
    with pytest.warns(CacheWarning, match="what a batches source yields is known only by reading it"):
        fastfid.stats(iter([IMAGES]), extractor=network, device="cpu", cache=tmp_path / "cache")
    with pytest.warns(CacheWarning, match="what Means computes is known to its own code only"):
        fastfid.stats(folder, extractor=Means(), device="cpu", cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="a cache keeps checkpoints as well"):
        fastfid.stats(folder, extractor=network, device="cpu", cache=tmp_path / "c", checkpoint=tmp_path / "k")


def test_shards_have_entries_of_their_own(folder: Path, network: Path, tmp_path: Path, reads: Reads) -> None:
    asked = {"extractor": network, "device": "cpu", "cache": tmp_path / "cache"}
    counts = []
    for shard in ("0/2", "1/2", "0/2", None, None):
        reads.count = 0
        fastfid.stats(folder, shard=shard, **asked)
        counts.append(reads.count)
    assert counts == [30, 31, 0, 61, 0]


@pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")
def test_the_command_line(folder: Path, network: Path, tmp_path: Path, reads: Reads) -> None:
    np.savez(tmp_path / "made.npz", arr_0=255 - IMAGES)
    words = [
        "compare",
        str(folder),
        str(tmp_path / "made.npz"),
        "--extractor",
        str(network),
        "--device",
        "cpu",
        "--quiet",
    ]
    first = CliRunner().invoke(main, [*words, "--cache", str(tmp_path / "cache")])
    reads.count = 0
    second = CliRunner().invoke(main, words, env={"FASTFID_CACHE": str(tmp_path / "cache")})
    assert (first.exit_code, second.exit_code, reads.count) == (0, 0, 0), first.output + second.output
    assert first.output.splitlines()[0] == second.output.splitlines()[0]  # the distance
    assert "from the cache" in second.output
