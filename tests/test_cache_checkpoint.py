"""An interrupted pass goes on from its last checkpoint and has the bits of one that was not interrupted."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import child
import pytest
from cache_pass import Interrupted, all_features, key_of, noise, pass_until_killed, recording_of, run_pass
from images import photos, write_folder

from fastfid.errors import CacheError, CacheWarning, OutputError
from fastfid.passes.store import FeatureCache, PassState, checkpoint, record_checkpoints
from fastfid.passes.store.checkpoint import Checkpoint
from fastfid.passes.store.tensorfile import TensorFile
from fastfid.sources import Source, open_source


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = write_folder(tmp_path / "images", photos(22))
    (folder / "009.png").write_bytes(b"no image")
    return open_source(folder)


def uninterrupted(source: Source, tmp_path: Path) -> tuple[int, bytes, bytes]:
    return run_pass(source, record_checkpoints(tmp_path / "other", key_of("other")))[0].bits()


@pytest.mark.parametrize("stops", [(0,), (1,), (2,), (5,), (3, 1, 0, 1), (1, 1, 1, 1, 1)])
def test_moments_alone(source: Source, tmp_path: Path, stops: tuple[int, ...]) -> None:
    want, path = uninterrupted(source, tmp_path), tmp_path / "run.checkpoint"
    read = 0
    for stop in stops:
        recording = record_checkpoints(path, key_of("x"), every_s=0)
        assert (recording.resumed.read if recording.resumed else 0) == read
        with pytest.raises(Interrupted):
            run_pass(source, recording, stop_after=stop)
        read += 4 * stop
    recording = record_checkpoints(path, key_of("x"), every_s=0)
    if recording.resumed is not None:
        assert recording.resumed.read == read
        assert (recording.resumed.seconds, recording.resumed.notes) == (1.5, ("a note",))
        assert recording.resumed.rest is not None
        assert recording.resumed.rest.tolist() == [[pytest.approx(0.1)] * 2]
    moments, state = run_pass(source, recording)
    assert moments.bits() == want
    assert [bad.name for bad in state.skipped] == ["009.png"]
    assert state.read == 22
    again = record_checkpoints(path, key_of("x"))  # what comes after the pass may fail
    assert again.resumed is not None
    assert again.resumed.read == 22
    assert run_pass(source, again)[0].bits() == want
    recording.discard()
    assert not path.exists()


@pytest.mark.parametrize("stops", [(0,), (1,), (5,), (3, 1, 0, 1)])
def test_moments_and_features(
    source: Source, tmp_path: Path, stops: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    want, cache = uninterrupted(source, tmp_path), FeatureCache(tmp_path / "cache")
    for stop in stops:
        with pytest.raises(Interrupted):
            run_pass(source, cache.record(key_of("x"), every_s=0), stop_after=stop)
    recording = cache.record(key_of("x"), every_s=0)
    assert (recording.resumed.read if recording.resumed else 0) == 4 * sum(stops)
    assert run_pass(source, recording)[0].bits() == want
    entry = cache.open(key_of("x"))
    assert entry is not None
    assert entry.features.tobytes() == all_features(source).tobytes()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_features_beyond_the_checkpoint_are_cut_off(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfid.passes.store.recording._PIECE_BYTES", 1)  # each batch goes to the disk at once
    cache, offered = FeatureCache(tmp_path / "cache"), Checkpoint.due
    monkeypatch.setattr(Checkpoint, "due", lambda self: offered(self) and not self.path.exists())
    with pytest.raises(Interrupted):
        run_pass(source, cache.record(key_of("x"), every_s=0), stop_after=4)
    recording = cache.record(key_of("x"), every_s=0)
    assert recording.resumed is not None
    assert recording.resumed.read == 4  # of 16
    run_pass(source, recording)
    entry = cache.open(key_of("x"))
    assert entry is not None
    assert entry.features.tobytes() == all_features(source).tobytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 8}, "batch_size was 4 and is now 8"),
        ({"device": "cuda:0"}, "device was 'cpu' and is now 'cuda'"),
        ({"weights_sha256": "1" * 64}, "weights_sha256 was '00"),
        ({"shard": "1/2"}, "shard was None and is now '1/2'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    source: Source, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    path = tmp_path / "run.checkpoint"
    with pytest.raises(Interrupted):
        run_pass(source, record_checkpoints(path, key_of("x"), every_s=0), stop_after=2)
    before = path.read_bytes()
    with pytest.raises(CacheError, match=f"of another run: {said}.*remove the file to begin anew"):
        record_checkpoints(path, key_of("x", **changes))
    assert path.read_bytes() == before


def test_other_files_are_refused_and_stay(source: Source, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    run_pass(source, cache.record(key_of("x")))
    (entry,) = (tmp_path / "cache").glob("*.safetensors")
    for content, said in (
        (b"notes of mine", "damaged or not a file"),
        (b"", "damaged or not a file"),
        (entry.read_bytes(), "is not a 'fastfid checkpoint 1' file but 'fastfid features 1'"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(CacheError, match=said):
            record_checkpoints(tmp_path / "file", key_of("x"))
        assert (tmp_path / "file").read_bytes() == content
    with pytest.raises(OutputError, match="does not exist"):
        record_checkpoints(tmp_path / "nowhere" / "file", key_of("x"))


def test_damaged_checkpoints_are_refused(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    with pytest.raises(Interrupted):
        run_pass(source, record_checkpoints(path, key_of("x"), every_s=0), stop_after=2)
    whole = path.read_bytes()
    for at in range(TensorFile(path).extents["record"].begin + 16384, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CacheError, match="damaged"):
            record_checkpoints(path, key_of("x"))


@pytest.mark.parametrize("trouble", ["batch size", "partial lost", "partial damaged", "checkpoint damaged"])
def test_a_cache_begins_anew_with_a_warning(source: Source, tmp_path: Path, trouble: str) -> None:
    cache = FeatureCache(tmp_path / "cache")
    with pytest.raises(Interrupted):
        run_pass(source, cache.record(key_of("x"), every_s=0), stop_after=2)
    key = key_of("x", batch_size=5) if trouble == "batch size" else key_of("x")
    (partial,), (saved,) = (tmp_path / "cache").glob("*.partial"), (tmp_path / "cache").glob("*.checkpoint")
    if trouble == "partial lost":
        partial.unlink()
    elif trouble != "batch size":
        damaged = partial if trouble == "partial damaged" else saved
        content = bytearray(damaged.read_bytes())
        content[-9] ^= 1
        damaged.write_bytes(content)
    with pytest.warns(CacheWarning, match="begins anew"):
        recording = cache.record(key, every_s=0)
    assert recording.resumed is None
    assert run_pass(source, recording)[0].bits() == uninterrupted(source, tmp_path)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_an_interruption_before_the_next_checkpoint_keeps_the_last(source: Source, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    with pytest.raises(Interrupted):
        run_pass(source, cache.record(key_of("x"), every_s=0), stop_after=2)
    with pytest.raises(Interrupted):  # goes on, and is interrupted before it saves anything of its own
        run_pass(source, cache.record(key_of("x"), every_s=1000), stop_after=2)
    recording = cache.record(key_of("x"))
    assert recording.resumed is not None
    assert recording.resumed.read == 8
    assert run_pass(source, recording)[0].bits() == uninterrupted(source, tmp_path)


def test_saving_takes_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    cost = [0.1]

    def write(*_: object) -> None:
        clock[0] += cost[0]

    monkeypatch.setattr(checkpoint.tensorfile, "write", write)
    made = Checkpoint(tmp_path / "a", key_of("x"), every_s=30)
    saved = []
    while clock[0] < 10_000:
        clock[0] += 1
        if clock[0] > 1000:
            cost[0] = 5.0  # the disk becomes slow: every 500 s is enough then
        if made.offer(lambda: PassState({}, 0, 0.0)):
            saved.append(clock[0])
    quick = [after - before for before, after in pairwise(saved) if after < 1000]
    assert set(map(round, quick)) <= {30, 31, 32}
    slow = [after - before for before, after in pairwise(saved) if before > 1500]
    assert set(map(round, slow)) <= {505, 506}


@pytest.mark.parametrize("kind", ["cache", "checkpoint"])
def test_a_kill_at_any_moment_leaves_something_to_go_on_with(tmp_path: Path, kind: str) -> None:
    """Saving after every batch, a pass of 100 batches is killed four times, most likely in a save."""
    source, where = noise(400), tmp_path / "here"
    want = uninterrupted(source, tmp_path)
    context, read = child.processes(), 0
    for pause in (0.0, 0.011, 0.023, 0.037):
        begun = context.Event()
        process = context.Process(target=pass_until_killed, args=(kind, str(where), begun))
        process.start()
        assert begun.wait(500)
        time.sleep(pause)
        process.kill()
        process.join(500)
        with recording_of(kind, str(where)) as recording:
            assert recording.resumed is not None
            assert read < recording.resumed.read < 400  # it had gone on
            read = recording.resumed.read
    moments, state = run_pass(source, recording_of(kind, str(where), every_s=30))
    assert (moments.bits(), state.read) == (want, 400)
    if kind == "cache":
        entry = FeatureCache(where).open(key_of("x"))
        assert entry is not None
        assert entry.features.tobytes() == all_features(source).tobytes()
    else:
        assert recording_of(kind, str(where)).resumed.read == 400
        assert list(tmp_path.glob(".*")) == []  # the next run has removed the temporaries of those that were killed
