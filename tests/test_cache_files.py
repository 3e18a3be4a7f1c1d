"""The cache's files: read by the safetensors package, and what becomes of damaged ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open

from fastfid.errors import BadImageError, CacheError
from fastfid.passes.store import tensorfile
from fastfid.passes.store.state import PassState, from_file, to_arrays
from fastfid.passes.store.tensorfile import HEADER_BYTES, Rows, TensorFile


def streamed(path: Path, parts: list[np.ndarray], **arrays: np.ndarray) -> Path:
    with path.open("w+b") as file:
        rows = Rows(file)
        for part in parts:
            rows.append(part)
        tensorfile.seal(file, arrays, {"about": "µ"}, rows)
    return path


def features(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (3, 5), (257, 16), (64, 33)])
def test_the_safetensors_package_reads_the_same_bits(tmp_path: Path, n: int, d: int) -> None:
    want = features(n, d)
    scatter = np.random.default_rng(1).standard_normal((d, d))
    cuts = np.array_split(want, [1, 2, 100]) if n else [want]
    path = streamed(
        tmp_path / "a.safetensors",
        cuts,
        scatter=scatter,
        count=np.array(7),
        empty=np.zeros((0, 3)),
        yes=np.array([True]),
    )
    theirs = safetensors.numpy.load_file(path)
    assert theirs["features"].dtype == np.float32
    assert theirs["features"].tobytes() == want.tobytes()
    assert theirs["scatter"].tobytes() == scatter.tobytes()
    assert (theirs["count"].shape, int(theirs["count"]), theirs["empty"].shape) == ((), 7, (0, 3))
    assert torch.equal(safetensors.torch.load_file(path)["scatter"], torch.from_numpy(scatter))
    with safe_open(path, "numpy") as opened:
        assert opened.metadata()["about"] == "µ"
        if n:  # the package slices no empty tensor
            assert opened.get_slice("features")[n // 2 :].tobytes() == want[n // 2 :].tobytes()
    ours = TensorFile(path)
    for name, array in theirs.items():
        assert ours.array(name).dtype == array.dtype
        assert ours.array(name).shape == array.shape
        assert ours.array(name).tobytes() == array.tobytes()


def test_we_read_no_file_without_checksums(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"features": features(4, 3)}, tmp_path / "theirs.safetensors")
    with pytest.raises(CacheError, match="not a file of fastfid's cache: no '__metadata__'"):
        TensorFile(tmp_path / "theirs.safetensors")


def test_features_are_mapped_and_read_only(tmp_path: Path) -> None:
    array = TensorFile(streamed(tmp_path / "a", [features(9, 4)])).array("features")
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = streamed(tmp_path / "a", [features(3, 5)], more=np.arange(4.0)).read_bytes()
    for length in [0, 1, 7, 8, 100, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(CacheError, match="cut"):
            TensorFile(tmp_path / "cut")
    (tmp_path / "long").write_bytes(whole + b"\0")
    with pytest.raises(CacheError, match="cover bytes"):
        TensorFile(tmp_path / "long")


def test_a_flipped_bit_in_any_byte_is_noticed(tmp_path: Path) -> None:
    """No bit of header or data changes without an error, but for what the file says of itself (which Key checks)."""
    path = streamed(tmp_path / "a", [features(2, 3)], more=np.arange(2.0))
    whole = path.read_bytes()
    text_end = len(whole[:HEADER_BYTES].rstrip(b" "))
    unnoticed = []
    for at in [*range(text_end), *range(HEADER_BYTES, len(whole))]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            file = TensorFile(path)
            arrays = {name: file.array(name) for name in ("features", "more")}
        except CacheError:
            continue
        assert all(arrays[name].tobytes() in whole for name in arrays)
        assert arrays["features"].shape == (2, 3)
        unnoticed.append(at)
    # What is left are the letters of the caller's own metadata, which the caller checks (Key), and none of the rest.
    own = whole.index(b'"about"')
    assert not {at for at in unnoticed if not own <= at < own + len(b'"about": "\\u00b5"')}


def test_a_wrong_shape_of_the_right_size_is_noticed(tmp_path: Path) -> None:
    path = streamed(tmp_path / "a", [features(4, 6)])
    path.write_bytes(path.read_bytes().replace(b'"shape": [4, 6]', b'"shape": [6, 4]'))
    with pytest.raises(CacheError, match="checksum of 'features' is wrong"):
        TensorFile(path).array("features")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 17]}, "can't be F32"),
        ({"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}, "can't be"),
        ({"dtype": "F8_E5M2", "shape": [16], "data_offsets": [0, 16]}, "an array of dtype"),
        ({"dtype": "F32", "shape": [2, 2]}, "data_offsets"),
        ({"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}, "not iterable"),
        ([], "list indices"),
        ({"dtype": "F32", "shape": [1, 3], "data_offsets": [4, 16]}, "cover bytes"),
    ],
)
def test_contradictory_headers_are_refused(tmp_path: Path, entry: object, said: str) -> None:
    text = json.dumps({"__metadata__": {"sha256": "{}"}, "features": entry}).encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(CacheError, match=said):
        TensorFile(tmp_path / "a")


def test_rows_go_on_only_behind_those_that_were_there(tmp_path: Path) -> None:
    want, path = features(10, 3), tmp_path / "a"
    with path.open("w+b") as file:
        rows = Rows(file)
        rows.append(want[:6])
        state = rows.state()
        rows.append(features(3, 3, seed=5))  # written after the checkpoint: to be cut off
    with path.open("r+b") as file:
        rows = Rows.resume(file, state)
        rows.append(want[6:])
        tensorfile.seal(file, {}, {}, rows)
    assert TensorFile(path).array("features").tobytes() == want.tobytes()
    damaged = bytearray(path.read_bytes())
    damaged[HEADER_BYTES + 5] ^= 1
    for content in (bytes(damaged), path.read_bytes()[: HEADER_BYTES + 70]):
        path.write_bytes(content)
        with path.open("r+b") as file, pytest.raises(CacheError, match="does not hold the 6 rows"):
            Rows.resume(file, state)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as file:
        rows = Rows(file)
        for wrong in (np.zeros((2, 3), np.float16), np.zeros(3, np.float32)):
            with pytest.raises(TypeError, match="accepted: float32 or float64"):
                rows.append(wrong)
        rows.append(np.zeros((2, 3), np.float32))
        with pytest.raises(ValueError, match="those before were F32"):
            rows.append(np.zeros((2, 4), np.float32))


def test_metadata_beyond_the_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accepted: at most"):
        tensorfile.write(tmp_path / "a", {}, {"long": "x" * HEADER_BYTES})
    assert list(tmp_path.iterdir()) == []


def test_a_state_comes_back_with_its_bits(tmp_path: Path) -> None:
    moments = {
        "n": 12345678901234567890,
        "scatter": torch.from_numpy(np.random.default_rng(0).standard_normal((5, 5))),
        "chunks": [torch.arange(3), torch.zeros(0, 5, dtype=torch.float64)],
        "pair": (None, True, 0.1 + 0.2, -0.0, "é"),
        "array": np.float32([1.5]),
        "metadata": {"tensor": "not one", "deep": {"map": [1]}},
    }
    bad = BadImageError("é.png", "truncated", "folder")
    state = PassState(moments, 7, 0.3, None, (bad,), ("greyscale",))
    tensorfile.write(tmp_path / "a", to_arrays(state, rows={"n": 3}), {})
    back, more = from_file(TensorFile(tmp_path / "a"))
    assert more == {"rows": {"n": 3}}
    assert (back.read, back.seconds, back.rest, back.notes) == (7, 0.3, None, ("greyscale",))
    assert [str(error) for error in back.skipped] == [str(bad)]
    for name in ("n", "pair", "metadata"):
        assert back.moments[name] == moments[name]
    assert isinstance(back.moments["pair"], tuple)
    assert torch.equal(back.moments["scatter"], moments["scatter"])
    assert back.moments["scatter"].dtype == torch.float64
    assert [part.shape for part in back.moments["chunks"]] == [part.shape for part in moments["chunks"]]
    assert isinstance(back.moments["array"], np.ndarray)


def test_a_state_of_anything_else_is_refused(tmp_path: Path) -> None:
    for wrong, said in (({"a": object()}, "state.moments.a: object"), ({1: 2}, "a key 1"), ({"a": {1}}, "set")):
        with pytest.raises(TypeError, match=said):
            to_arrays(PassState(wrong, 0, 0.0))
    tensorfile.write(tmp_path / "a", {"record": np.frombuffer(b'{"map": {}}', np.uint8)}, {})
    with pytest.raises(CacheError, match="no state of a pass"):
        from_file(TensorFile(tmp_path / "a"))
