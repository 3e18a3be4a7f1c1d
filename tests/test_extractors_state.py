"""Reading a weights file: what is accepted, and what is said of one that is broken, foreign or malicious."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_inception import PUBLIC_NAME, images, save_as_published, shared_state
from torch import nn

from fastfid.errors import WeightsCorruptError
from fastfid.extractors import InceptionV3, inception_extractor, load_weights, weights


@pytest.fixture(scope="module")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_as_published(tmp_path_factory.mktemp("state"))


def test_a_state_dict_goes_through_a_file_unchanged(state_file: Path) -> None:
    state, info = load_weights(state_file)
    expected = shared_state()
    assert list(state) == list(weights.parameter_shapes())
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert info.sha256 == hashlib.sha256(state_file.read_bytes()).hexdigest()
    made = inception_extractor("64", weights=state_file)
    network = InceptionV3()
    network.load_state_dict(expected)
    with torch.no_grad():
        torch.testing.assert_close(made(images(1, 75)), network(images(1, 75), ("64",))[0], rtol=1e-5, atol=1e-5)
    assert made.weights == info
    assert not made.official


def test_counters_and_half_precision_are_accepted() -> None:
    network = InceptionV3()
    network.load_state_dict(shared_state())
    state = weights.check_state(network.state_dict(), "here")
    assert weights.state_sha256(state) == weights.state_sha256(
        {name: shared_state()[name] for name in weights.parameter_shapes()}
    )
    half = weights.check_state({name: value.half() for name, value in shared_state().items()}, "here")
    assert {value.dtype for value in half.values()} == {torch.float32}


def _without(name: str) -> dict[str, object]:
    return {key: value for key, value in shared_state().items() if key != name}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: _without("fc.bias"), r"1 missing, first fc\.bias"),
        (lambda: {**shared_state(), "AuxLogits.fc.bias": torch.zeros(3)}, r"1 unknown, first AuxLogits\.fc\.bias"),
        (
            lambda: {**shared_state(), "fc.weight": torch.zeros(1000, 2048)},
            r"fc\.weight \(torch\.float32 \[1000, 2048\], expected \[1008, 2048\]\)",
        ),
        (lambda: {**shared_state(), "fc.bias": torch.zeros(1008, dtype=torch.int64)}, r"fc\.bias \(torch\.int64"),
        (lambda: {**shared_state(), "fc.bias": "text"}, r"fc\.bias \(str, expected"),
        (lambda: {"state_dict": shared_state()}, r"472 missing.*1 unknown, first state_dict"),
        (lambda: [1, 2], r"holds a list"),
        (lambda: {**shared_state(), "fc.bias": torch.full((1008,), torch.nan)}, r"NaN.*fc\.bias"),
        (
            lambda: {**shared_state(), "Conv2d_1a_3x3.bn.running_var": torch.full((32,), -1.0)},
            r"negative-variance.*Conv2d_1a_3x3\.bn\.running_var",
        ),
    ],
    ids=["missing", "unknown", "shape", "integer", "text", "nested", "list", "NaN", "variance"],
)
def test_wrong_content_is_named(content: Callable[[], object], says: str) -> None:
    with pytest.raises(WeightsCorruptError, match=says):
        weights.check_state(content(), "here")


class _Mischief:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (os.environ["FASTFID_TEST_MISCHIEF"],))


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTFID_TEST_MISCHIEF", str(tmp_path / "executed"))
    file = tmp_path / "bad.pth"
    torch.save({"fc.bias": _Mischief()}, file)
    with pytest.raises(WeightsCorruptError, match="objects other than tensors"):
        load_weights(file)
    file.write_bytes(pickle.dumps(_Mischief(), protocol=2))
    with pytest.raises(WeightsCorruptError):
        load_weights(file)
    assert not (tmp_path / "executed").exists()


def test_broken_files(tmp_path: Path, state_file: Path) -> None:
    whole = state_file.read_bytes()
    file = tmp_path / "broken.pth"
    for content in (b"", b"not a file of torch", whole[:1_000_000], whole[:-1000], whole[1000:2000]):
        file.write_bytes(content)
        with pytest.raises(WeightsCorruptError, match="cannot load weights from") as caught:
            load_weights(file)
        assert PUBLIC_NAME in str(caught.value), "says what the right file is"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_an_extractor_not_weights(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    with pytest.raises(WeightsCorruptError, match="TorchScript"):
        load_weights(tmp_path / "net.pt")


def test_the_digest_sees_every_part() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    digests = {
        weights.state_sha256(made)
        for made in (
            state,
            {"b": torch.ones(1), "c": torch.zeros(2, 3)},
            {**state, "a": torch.zeros(3, 2)},
            {**state, "a": torch.zeros(2, 3, dtype=torch.int32)},
            {**state, "b": torch.full((1,), 1 + 1e-6)},
        )
    }
    assert len(digests) == 5
    assert weights.state_sha256(dict(reversed(state.items()))) == weights.state_sha256(state)
