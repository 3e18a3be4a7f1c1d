"""One set read in pieces by hand: ``stats(shard=…)`` and ``merge`` give the moments of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from images import photos, write_folder
from tolerances import MOMENTS, check

import fastfid
from fastfid.api import merge
from fastfid.cli import main
from fastfid.errors import IncomparableError, ProtocolWarning

IMAGES = photos(61, 20, 24)


class Means(torch.nn.Module):
    """12 features: means over the quarters of an image; it has a state, so that it can be told from others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) * self.scale


MEANS = Means()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", IMAGES)


def shards(images: object, of: int, folder: Path, **settings: object) -> list[Path]:
    files = [folder / f"{index}.npz" for index in range(of)]
    for index, file in enumerate(files):
        fastfid.stats(images, file, shard=f"{index}/{of}", extractor=MEANS, device="cpu", **settings)
    return files


@pytest.mark.parametrize("protocol", ["pytorch-fid", "stylegan3", "ttur"])
@pytest.mark.parametrize("of", [1, 3, 7])
@pytest.mark.filterwarnings("ignore:.*incomplete block")
def test_merged_shards_are_the_set(protocol: str, of: int, folder: Path, tmp_path: Path) -> None:
    whole = fastfid.stats(folder, tmp_path / "whole.npz", extractor=MEANS, device="cpu", protocol=protocol)
    joined, missing = merge(shards(folder, of, tmp_path, protocol=protocol), tmp_path / "joined.npz")
    assert missing == []
    assert joined.n == whole.n == (50 if protocol == "ttur" else 61)
    check(joined.mean, whole.mean, relative=MOMENTS)
    check(joined.cov(), whole.cov(), relative=MOMENTS)
    with np.load(tmp_path / "joined.npz") as got, np.load(tmp_path / "whole.npz") as want:
        check(got["sigma"], want["sigma"], relative=MOMENTS)  # the protocol's ddof, too
    loaded = fastfid.fid(tmp_path / "joined.npz", 255 - IMAGES, extractor=MEANS, device="cpu", protocol=protocol)
    assert not any("missing" in text for text in loaded.run.warnings)


def test_fewer_samples_than_dimensions_keep_their_samples_in_order(folder: Path, tmp_path: Path) -> None:
    whole = fastfid.stats(folder, extractor=MEANS, device="cpu", limit=9)
    joined, _ = merge(shards(folder, 2, tmp_path, limit=9))
    assert torch.equal(joined.rows, whole.rows)


def test_only_the_set_has_an_incomplete_block(tmp_path: Path) -> None:
    """220 images in blocks of 50: 200 count, whatever the shards' own sizes are."""
    images = np.concatenate([IMAGES, IMAGES[::-1], IMAGES // 2, IMAGES[:37]])
    with pytest.warns(ProtocolWarning, match="leaves out the last 20 images"):
        whole = fastfid.stats(images, extractor=MEANS, device="cpu", protocol="ttur")
    with pytest.warns(ProtocolWarning, match="leaves out the last 20 images"):
        files = shards(images, 3, tmp_path, protocol="ttur")
    assert [fastfid.Moments.load(file).n for file in files] == [66, 67, 67]
    check(merge(files)[0].cov(), whole.cov(), relative=MOMENTS)


@pytest.mark.filterwarnings("ignore::fastfid.errors.SmallSampleWarning")
def test_what_is_missing_and_what_is_there_twice(folder: Path, tmp_path: Path) -> None:
    files = shards(folder, 4, tmp_path)
    part, missing = merge([files[0], files[3]], tmp_path / "part.npz")
    assert part.n == 31
    assert missing == [f"1/4 of '{folder}'", f"2/4 of '{folder}'"]
    with pytest.warns(ProtocolWarning, match=r"part of a set; these shards are missing: 1/4 of .*, 2/4 of"):
        fastfid.fid(tmp_path / "part.npz", IMAGES, extractor=MEANS, device="cpu")
    with pytest.raises(IncomparableError, match=r"3\.npz: other: shard 3/4 of .* is in these Moments already"):
        merge([*files, files[3]])
    with pytest.raises(IncomparableError, match="is in these Moments already"):
        merge([tmp_path / "part.npz", files[0]])
    other = tmp_path / "other.npz"
    fastfid.stats(IMAGES, other, extractor=MEANS, device="cpu", shard=(0, 4))  # of another set: no conflict
    assert merge([*files, other])[1] == [f"{i}/4 of 'uint8 array [61, 20, 24, 3]'" for i in (1, 2, 3)]


@pytest.mark.filterwarnings("ignore::fastfid.errors.FastFIDWarning")
def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    torch.jit.script(MEANS).save(tmp_path / "means.pt")
    common = ["--extractor", str(tmp_path / "means.pt"), "--device", "cpu", "--quiet"]
    for index in range(2):
        done = CliRunner().invoke(
            main, ["stats", str(folder), "-o", str(tmp_path / f"{index}.npz"), "--shard", f"{index}/2", *common]
        )
        assert done.exit_code == 0, done.output
    files = [str(tmp_path / f"{index}.npz") for index in range(2)]
    done = CliRunner().invoke(main, ["merge", *files, "-o", str(tmp_path / "m.npz")])
    assert done.exit_code == 0, done.output
    assert "61 samples, 12 dimensions, from 2 files" in done.output
    done = CliRunner().invoke(main, ["merge", files[1], "-o", str(tmp_path / "m.npz")])
    assert "warning: part of a set; these shards are missing: 0/2 of" in done.output
    done = CliRunner().invoke(main, ["stats", str(folder), "-o", str(tmp_path / "x.npz"), "--shard", "2/2", *common])
    assert done.exit_code == 3
    assert "accepted: INDEX/OF with 0 ≤ INDEX < OF" in done.output


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    for given in ("1", "a/2", "0/2/3", "-1/2"):
        with pytest.raises(ValueError, match="accepted: INDEX/OF, such as 0/4"):
            fastfid.stats(folder, extractor=MEANS, device="cpu", shard=given)
    with pytest.raises(ValueError, match="block of 50 images; which they are is not known beforehand where skip_bad"):
        fastfid.stats(folder, extractor=MEANS, device="cpu", shard="0/2", protocol="ttur", skip_bad=True)
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(12), sigma=np.eye(12))
    with pytest.raises(ValueError, match=r"foreign\.npz: other: statistics without their number of samples"):
        merge([tmp_path / "foreign.npz"])
