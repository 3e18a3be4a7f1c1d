"""The feature cache: a second run has the bits of the first and reads nothing; what differs is never a hit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import child
import numpy as np
import pytest
import torch
from cache_pass import DIM, Interrupted, all_features, cached_bits, compete, key_of, run_pass
from images import photo, photos, png, write_folder

from fastfid.errors import CacheWarning
from fastfid.passes.store import FeatureCache, Recording, identify, recording
from fastfid.protocols import protocol
from fastfid.sources import Source, open_source


def filled(folder: Path, source: Source) -> tuple[FeatureCache, Any]:
    cache = FeatureCache(folder)
    identity = cache.identify(source)
    assert identity is not None
    key = key_of(identity.digest)
    run_pass(source, cache.record(key, identity))
    return cache, key


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir() if path.is_file())


def test_a_second_run_has_the_bits_of_the_first_and_reads_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_folder(tmp_path / "images", photos(11))
    first, hit = cached_bits(FeatureCache(tmp_path / "cache"), open_source(images))
    assert not hit
    want = all_features(open_source(images))
    monkeypatch.setattr(Source, "batches", lambda *_args, **_options: pytest.fail("an image was read"))
    cache = FeatureCache(tmp_path / "cache")
    assert cached_bits(cache, open_source(images)) == (first, True)
    identity = cache.identify(open_source(images))
    assert identity is not None
    entry = cache.open(key_of(identity.digest))
    assert entry is not None
    assert entry.features.dtype == np.float32
    assert entry.features.tobytes() == want.tobytes()
    assert [len(batch) for batch in entry.batches(4)] == [4, 4, 3]
    assert torch.equal(torch.cat(list(entry.batches(4))), torch.from_numpy(want))
    assert (entry.state.read, entry.state.notes, entry.state.seconds) == (11, ("a note",), 1.5)
    assert entry.made["batch_size"] == 4
    assert names(tmp_path / "cache") == [".safetensors"]


def test_bad_images_are_remembered(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", photos(6))
    (images / "002.png").write_bytes(b"no image")
    cache, key = filled(tmp_path / "cache", open_source(images))
    entry = cache.open(key)
    assert entry is not None
    assert [bad.name for bad in entry.state.skipped] == ["002.png"]
    assert (entry.features.shape, entry.state.read) == ((5, DIM), 6)


def test_whatever_changes_features_is_a_miss(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", photos(6))
    cache = FeatureCache(tmp_path / "cache")
    source = open_source(images)
    assert not cached_bits(cache, source)[1]
    base = protocol("pytorch-fid")
    others: list[dict[str, Any]] = [
        {"protocol": protocol("clean")},
        {"protocol": replace(base, tap="768")},
        {"protocol": replace(base, decode=replace(base.decode, recursive=not base.decode.recursive))},
        {"protocol": replace(base, statistics=replace(base.statistics, block=50))},
        {"extractor": "inception-v3:768"},
        {"weights_sha256": "1" * 64},
        {"precision": "bf16"},
        {"limit": 5, "seed": 0},
        {"limit": 5, "seed": 1},
        {"skip_bad": False},
        {"shard": "0/2"},
    ]
    for changes in others:
        assert not cached_bits(cache, source, **changes)[1], changes
    for same in ({"seed": 3}, {"batch_size": 5}, {"device": "cuda"}, {"protocol": replace(base, name="mine")}):
        assert cached_bits(cache, source, **same)[1], same
    (images / "006.png").write_bytes(png(photo(6)))
    assert not cached_bits(cache, open_source(images))[1]
    (images / "006.png").rename(images / "007.png")
    assert not cached_bits(cache, open_source(images))[1]
    (images / "007.png").unlink()
    assert cached_bits(cache, open_source(images))[1]
    changed = bytearray((images / "000.png").read_bytes())
    changed[-1] ^= 1
    (images / "000.png").write_bytes(changed)
    assert not cached_bits(cache, open_source(images))[1]


@pytest.mark.parametrize("damage", ["cut", "flipped feature", "flipped moments", "other facts", "empty", "other kind"])
def test_a_damaged_entry_is_a_miss_with_a_warning(tmp_path: Path, damage: str) -> None:
    source = open_source(write_folder(tmp_path / "images", photos(5)))
    cache, key = filled(tmp_path / "cache", source)
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-20 if damage == "flipped moments" else 16384 + 7] ^= 4
    path.write_bytes(
        {
            "cut": whole[:-1],
            "empty": b"",
            "other facts": whole.replace(b'\\"fp32\\"', b'\\"bf16\\"'),
            "other kind": whole.replace(b"fastfid features", b"fastfid nonsense"),
        }.get(damage, bytes(flipped))
    )
    if damage == "flipped feature":  # seen when the features are looked at; the moments are what they were
        entry = cache.open(key)
        assert entry is not None
        with pytest.raises(ValueError, match="checksum of 'features' is wrong"):
            _ = entry.features
        return
    with pytest.warns(CacheWarning, match="features are computed again"):
        assert cache.open(key) is None
    run_pass(source, cache.record(key))
    assert path.read_bytes() == whole


def test_a_set_that_changes_while_it_is_read_is_not_kept(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", photos(5))
    cache, source = FeatureCache(tmp_path / "cache"), open_source(images)
    identity = cache.identify(source)
    assert identity is not None
    (images / "004.png").write_bytes(png(photo(9)))
    with pytest.warns(CacheWarning, match=r"004.png' changed while the set was read"):
        run_pass(source, cache.record(key_of(identity.digest), identity))
    assert names(tmp_path / "cache") == []


def test_an_interrupted_run_leaves_no_entry(tmp_path: Path) -> None:
    source, cache = open_source(photos(9)), FeatureCache(tmp_path / "cache")
    with pytest.raises(Interrupted):
        run_pass(source, cache.record(key_of("x")), stop_after=1)
    assert names(tmp_path / "cache") == []
    assert cache.open(key_of("x")) is None


def test_a_full_disk_ends_the_recording_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = open_source(photos(9)), FeatureCache(tmp_path / "cache")
    want = run_pass(source, cache.record(key_of("a")))[0].bits()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "_PIECE_BYTES", 1)
    monkeypatch.setattr(recording.tensorfile.Rows, "append", full)
    with pytest.warns(CacheWarning, match=r"is not recorded: .*No space left") as warned:
        assert run_pass(source, cache.record(key_of("b")))[0].bits() == want
    assert len(warned) == 1
    assert names(tmp_path / "cache") == [".safetensors"]


def test_features_gather_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_PIECE_BYTES", 5 * DIM * 4)
    source = open_source(photos(23))
    cache, key = filled(tmp_path / "cache", source)
    entry = cache.open(key)
    assert entry is not None
    assert entry.features.tobytes() == all_features(source).tobytes()


def test_a_second_run_at_the_same_time_writes_a_file_of_its_own(tmp_path: Path) -> None:
    source, cache = open_source(photos(9)), FeatureCache(tmp_path / "cache")
    key = key_of("x")
    with cache.record(key, every_s=0) as first:
        first.append(torch.zeros(1, DIM))
        run_pass(source, cache.record(key, every_s=0))
        entry = cache.open(key)
        assert entry is not None
        assert names(tmp_path / "cache") == [".partial", ".safetensors"]  # the second one left the checkpoint alone
        assert cache.prune() == 0
    assert entry.features.tobytes() == all_features(source).tobytes()


def test_listing_and_removing(tmp_path: Path) -> None:
    source, cache = open_source(photos(9)), FeatureCache(tmp_path / "cache")
    assert cache.entries() == []
    for content in ("a", "b"):
        run_pass(source, cache.record(key_of(content)))
    listed = cache.entries()
    assert {entry.facts["content"] for entry in listed} == {"a", "b"}
    assert {(entry.n, entry.dim) for entry in listed} == {(9, DIM)}
    assert all(entry.size_bytes > 16384 + 9 * DIM * 4 for entry in listed)
    assert cache.remove(listed[0].name)
    assert not cache.remove(listed[0].name)
    assert cache.entries() == listed[1:]
    (tmp_path / "cache" / "x.safetensors").write_bytes(b"?")
    with pytest.warns(CacheWarning, match=r"x.safetensors is left out of the list"):
        assert cache.entries() == listed[1:]


def test_pruning_takes_what_nobody_uses(tmp_path: Path) -> None:
    source, cache = open_source(photos(9)), FeatureCache(tmp_path / "cache")
    with pytest.raises(Interrupted):
        run_pass(source, cache.record(key_of("x"), every_s=0), stop_after=2)
    (tmp_path / "cache" / f".{key_of('x').name}.safetensors.01234567.fastfid").write_bytes(b"12")
    (tmp_path / "cache" / f".{key_of('x').name}.checkpoint.89abcdef.fastfid").write_bytes(b"123")
    assert names(tmp_path / "cache") == [".checkpoint", ".fastfid", ".fastfid", ".partial"]
    used = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir() if path.is_file())
    assert cache.prune() == used
    with cache.record(key_of("y")):
        assert cache.prune() == 0
        assert names(tmp_path / "cache") == [".partial"]
    assert names(tmp_path / "cache") == []


def test_an_entry_clears_the_checkpoint_of_a_run_killed_beside_it(tmp_path: Path) -> None:
    """Killed after its entry had appeared and before its checkpoint went; but not the one of a run that goes on."""
    source, cache, key = open_source(photos(9)), FeatureCache(tmp_path / "cache"), key_of("x")
    run_pass(source, cache.record(key))
    checkpoint = tmp_path / "cache" / f"{key.name}.checkpoint"
    with cache.record(key):
        checkpoint.write_bytes(b"its own")
        assert cache.open(key) is not None
        assert checkpoint.exists()
    checkpoint.write_bytes(b"left")
    assert cache.open(key) is not None
    assert names(tmp_path / "cache") == [".safetensors"]


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="accepted: a folder"):
        FeatureCache(tmp_path / "file")


def test_warnings_go_where_they_are_asked_to(tmp_path: Path) -> None:
    told: list[tuple[type, str]] = []
    cache = FeatureCache(tmp_path, warn=lambda category, text: told.append((category, text)))
    (tmp_path / f"{key_of('x').name}.safetensors").write_bytes(b"?")
    assert cache.open(key_of("x")) is None
    assert [category for category, _ in told] == [CacheWarning]


def test_several_processes_at_one_entry(tmp_path: Path) -> None:
    context = child.processes()
    failures = context.Queue()
    workers = [context.Process(target=compete, args=(str(tmp_path / "cache"), 40, failures)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(500)
    assert [worker.exitcode for worker in workers] == [0] * 3, failures.get(timeout=1)
    FeatureCache(tmp_path / "cache").prune()
    assert set(names(tmp_path / "cache")) <= {".safetensors"}


def test_a_recording_needs_no_identity_of_arrays(tmp_path: Path) -> None:
    source = open_source(photos(5))
    identity = identify(source)
    assert identity is not None
    assert identity.changed() is None
    assert isinstance(FeatureCache(tmp_path).record(key_of("x"), identity), Recording)
