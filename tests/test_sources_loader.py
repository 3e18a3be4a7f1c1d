"""Decoding ahead: same batches whoever decodes, errors whole, nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from images import KINDS, photo, photos, png, write_folder, write_zip

import fastfid.sources.loader as loader_module
import fastfid.sources.reader as reader_module
from fastfid.errors import BadImageError
from fastfid.resample import RaggedImages
from fastfid.sources import ImageBatch, Source, open_source

WORKERS = [0, 1, 2]


@pytest.fixture(params=["folder", "zip"])
def image_set(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[np.ndarray]], Path]:
    def make(images: list[np.ndarray]) -> Path:
        if request.param == "folder":
            return write_folder(tmp_path / "set", images)
        return write_zip(tmp_path / "set.zip", images)

    return make


def spoil(path: Path, index: int, size: int = 90) -> None:
    """Cut one of the files of a folder."""
    file = path / f"{index:03d}.png"
    file.write_bytes(file.read_bytes()[:size])


def threads() -> int:
    return sum(thread.name == "fastfid-decode" for thread in threading.enumerate())


def wait_until(holds: Callable[[], bool], seconds: float = 500) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        gc.collect()
        time.sleep(0.01)
    return True


def open_files(part: str) -> list[str]:
    """Files that this process holds open whose path contains ``part``; none where the system can't tell."""
    found = []
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if part in path]


@pytest.mark.parametrize("num_workers", WORKERS)
def test_same_batches_whoever_decodes(image_set: Callable, num_workers: int) -> None:
    images = photos(23)
    batches = list(open_source(image_set(images)).batches(5, num_workers=num_workers))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert all(batch.images.dtype == torch.uint8 and batch.images.is_contiguous() for batch in batches)
    np.testing.assert_array_equal(np.concatenate([batch.images.numpy() for batch in batches]), images)
    assert [name for batch in batches for name in batch.names] == [f"{i:03d}.png" for i in range(23)]


@pytest.mark.parametrize("num_workers", WORKERS)
def test_mixed_sizes_come_packed(image_set: Callable, num_workers: int) -> None:
    sizes = [(24, 32), (1, 7), (37, 5), (24, 32), (24, 32), (24, 32)]
    images = [photo(i, *size) for i, size in enumerate(sizes)]
    mixed, same = open_source(image_set(images)).batches(3, num_workers=num_workers)
    assert isinstance(mixed.images, RaggedImages)
    assert mixed.images.sizes == tuple(sizes[:3])
    assert mixed.images.channels == 3
    assert mixed.images.pixels.dtype == torch.uint8
    np.testing.assert_array_equal(mixed.images.pixels.numpy(), np.concatenate([i.reshape(-1) for i in images[:3]]))
    assert isinstance(same.images, torch.Tensor)  # a batch of one size is a tensor, whatever the set holds
    np.testing.assert_array_equal(same.images.numpy(), np.stack(images[3:]))


@pytest.mark.parametrize("num_workers", WORKERS)
def test_a_bad_image_stops_the_run_with_its_name(tmp_path: Path, num_workers: int) -> None:
    path = write_folder(tmp_path, photos(9))
    spoil(path, 4)
    spoil(path, 7)
    seen: list[ImageBatch] = []
    with pytest.raises(BadImageError) as error:
        seen.extend(open_source(path).batches(2, num_workers=num_workers))
    assert [batch.names for batch in seen] == [("000.png", "001.png"), ("002.png", "003.png")]
    assert (error.value.name, error.value.source) == ("004.png", str(path))
    assert "truncated" in error.value.reason
    assert str(error.value).startswith(f"cannot read image '004.png' in {path}: ")
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("num_workers", WORKERS)
def test_skip_bad_goes_on_and_lists_them(tmp_path: Path, num_workers: int) -> None:
    path = write_folder(tmp_path, photos(9))
    for index in (0, 4, 6, 7):
        spoil(path, index)
    batches = list(open_source(path).batches(2, num_workers=num_workers, skip_bad=True))
    assert [len(batch) for batch in batches] == [1, 2, 1, 0, 1]
    assert batches[3].images.shape == (0, 0, 0, 3)
    assert [error.name for batch in batches for error in batch.bad] == ["000.png", "004.png", "006.png", "007.png"]
    np.testing.assert_array_equal(
        np.concatenate([batch.images.numpy() for batch in batches if len(batch)]), photos(9)[[1, 2, 3, 5, 8]]
    )


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("way", ["close", "drop", "error"])
def test_leaving_early_leaves_nothing_behind(image_set: Callable, num_workers: int, way: str) -> None:
    source = open_source(image_set(photos(60)))

    def leave() -> None:
        batches = source.batches(2, num_workers=num_workers)
        next(batches)
        assert threads() + len(multiprocessing.active_children()) == max(num_workers, 1)
        if way == "close":
            batches.close()
            assert threads() == 0
        elif way == "error":
            with closing(batches):
                raise KeyboardInterrupt

    if way == "error":
        with pytest.raises(KeyboardInterrupt):
            leave()
    else:
        leave()
    assert wait_until(lambda: threads() == 0 and not multiprocessing.active_children())
    assert not open_files(source.description)


@pytest.mark.parametrize("num_workers", WORKERS)
def test_reading_to_the_end_leaves_nothing_behind(image_set: Callable, num_workers: int) -> None:
    source = open_source(image_set(photos(5)))
    for _ in range(2):  # and a source can be read again
        assert sum(len(batch) for batch in source.batches(2, num_workers=num_workers)) == 5
    assert wait_until(lambda: threads() == 0 and not multiprocessing.active_children())


def test_two_readings_at_once_do_not_disturb_each_other(image_set: Callable) -> None:
    images = photos(12)
    source = open_source(image_set(images))
    pairs = list(zip(source.batches(2), source.batches(2, num_workers=1), strict=True))
    for index, (one, other) in enumerate(pairs):
        np.testing.assert_array_equal(one.images.numpy(), images[2 * index : 2 * index + 2])
        np.testing.assert_array_equal(other.images.numpy(), images[2 * index : 2 * index + 2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_random_numbers_of_the_user_are_left_alone(tmp_path: Path, num_workers: int) -> None:
    source = open_source(write_folder(tmp_path, photos(6)))
    numbers = np.random.get_state
    states = torch.get_rng_state().clone(), numbers()[1].copy()
    list(source.batches(2, num_workers=num_workers, limit=4, seed=9))
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(numbers()[1], states[1])


def test_a_batch_crosses_as_one_tensor(tmp_path: Path) -> None:
    """However many images: what the worker sends holds a single tensor."""
    path = write_folder(tmp_path, [photo(0), photo(1, 5, 9), photo(2)])
    source = open_source(path)
    (decoded,) = reader_module.decode_batches(source._reader(), np.arange(3), False)
    tensors = [field for field in decoded if isinstance(field, torch.Tensor)]
    assert [tensor.numel() for tensor in tensors] == [2 * 24 * 32 * 3 + 5 * 9 * 3]


def test_workers_run_on_one_thread_without_cuda(tmp_path: Path) -> None:
    class Spy(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> np.ndarray:
            facts = [torch.get_num_threads(), torch.cuda.is_initialized(), multiprocessing.parent_process() is not None]
            return np.full((1, 1, 3), facts, np.uint8)

    (batch,) = open_source(Spy()).batches(2, num_workers=1)
    assert batch.images[0, 0, 0].tolist() == [1, 0, 1]


def test_no_more_workers_than_batches(tmp_path: Path) -> None:
    batches = open_source(write_folder(tmp_path, photos(3))).batches(2, num_workers=8)
    next(batches)
    assert len(multiprocessing.active_children()) <= 2
    batches.close()


def test_decoding_runs_ahead_of_the_consumer(tmp_path: Path) -> None:
    """With the consumer asleep, the thread has decoded the next batches; not all of them."""
    decoded: list[int] = []

    def make(stop: threading.Event):
        for item in range(50):
            decoded.append(item)
            yield item

    items = loader_module.ahead(make, depth=2)
    assert next(items) == 0
    assert wait_until(lambda: len(decoded) >= 3)
    time.sleep(0.1)
    assert len(decoded) <= 4  # one taken, two waiting, one in hand
    items.close()
    assert wait_until(lambda: threads() == 0)


def test_an_error_in_the_thread_is_the_consumers(tmp_path: Path) -> None:
    def make(stop: threading.Event):
        yield 1
        raise MemoryError("no room")

    items = loader_module.ahead(make)
    assert next(items) == 1
    with pytest.raises(MemoryError, match="no room"):
        next(items)
    assert wait_until(lambda: threads() == 0)


def test_ctrl_c_ends_promptly_and_cleanly(tmp_path: Path) -> None:
    """A script interrupted in the middle: no traceback from workers, no process left, exit by KeyboardInterrupt."""
    write_folder(tmp_path / "set", photos(40, 8, 8))
    script = textwrap.dedent(
        f"""
        import multiprocessing, os, signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background of a shell
        from fastfid.sources import open_source
        try:
            for batch in open_source({str(tmp_path / "set")!r}).batches(1, num_workers=2):
                print(*(child.pid for child in multiprocessing.active_children()), flush=True)
                time.sleep(0.3)
                os.killpg(0, signal.SIGINT)
                time.sleep(30)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=500, start_new_session=True, check=False
    )
    first, *rest = done.stdout.split("\n")
    assert rest[:1] == ["interrupted"], done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    workers = [int(pid) for pid in first.split()]
    assert len(workers) == 2
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.parametrize("num_workers", WORKERS)
def test_wide_greyscale_is_noted(tmp_path: Path, num_workers: int) -> None:
    """Clipping is what every package does; it does not happen without a word."""
    write_folder(tmp_path, photos(7))
    for index, kind in ((1, "grey16.png"), (5, "float.tiff"), (6, "int32.tiff"), (2, "rgb16.png"), (3, "grey.png")):
        (tmp_path / f"{index:03d}.png").write_bytes(KINDS[kind][1](photo(0)))
    source = open_source(tmp_path)
    assert source.notes == ()
    for _ in range(2):  # counted anew each time
        assert sum(len(batch) for batch in source.batches(2, num_workers=num_workers)) == 7
        (note,) = source.notes
        assert note.startswith(f"3 images of {tmp_path} have pixels of 16 or 32 bits or float")


def test_a_source_is_a_source(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, [photo(0)]))
    assert isinstance(source, Source)
    assert open_source(source) is source
    assert (tmp_path / "000.png").read_bytes() == png(photo(0))  # inputs are untouched
