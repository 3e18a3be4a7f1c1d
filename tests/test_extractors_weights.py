"""Finding, fetching, checking and loading weights, with a server on this machine in the place of the network."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import socket
import stat
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from random_inception import PUBLIC_NAME, images, save_as_published, shared_state
from torch import nn

from fastfid.errors import WeightsCorruptError, WeightsNotFoundError
from fastfid.extractors import InceptionV3, find_weights, inception_extractor, load_weights, weights, where_weights

CONTENT = bytes(range(256)) * 20_000  # about 5 MB: more than a socket's buffers hold
SECOND_NAME = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables, an empty hub cache, and no network unless a test opens one."""
    for name in ("FASTFID_WEIGHTS", "FASTFID_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_as_published(tmp_path_factory.mktemp("state"))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let CONTENT be the published file."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(weights, "OFFICIAL_SHA256", digest)
    return digest


Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


def _whole(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT)


def _page(handler: http.server.BaseHTTPRequestHandler) -> None:
    body = b"<html>Please log in</html>"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _cut(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])


def _stall(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])
    handler.wfile.flush()
    time.sleep(2)


def _missing(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """``serve(first, second)`` puts two addresses that answer so in the place of the real ones."""
    asked: list[str] = []
    replies: dict[str, Reply] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            replies[self.path](self)

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def start(first: Reply, second: Reply = _missing) -> list[str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        monkeypatch.setattr(urllib.request, "urlopen", opener.open)
        base = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(weights, "ADDRESSES", (f"{base}/first", f"{base}/second"))
        replies.update({"/first": first, "/second": second})
        return asked

    yield start
    server.shutdown()
    server.server_close()


def _only(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- where they are found ---------------------------------------------------------------------------------------------


def test_the_order(tmp_path: Path, cache: Path, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    argument, variable = tmp_path / "argument.pth", tmp_path / "variable.pth"
    argument.write_bytes(b"a")
    variable.write_bytes(b"v")
    (cache / PUBLIC_NAME).write_bytes(CONTENT)
    monkeypatch.setenv("FASTFID_WEIGHTS", str(variable))
    monkeypatch.setattr(weights, "random_state", lambda seed: {"seed": torch.tensor(seed)})
    assert find_weights(argument).path == argument
    assert find_weights(str(argument)).origin == "argument"
    assert find_weights("random:3").label == "random(seed=3)"
    found = find_weights()
    assert (found.path, found.origin, found.official) == (variable, "FASTFID_WEIGHTS", False)
    monkeypatch.setenv("FASTFID_WEIGHTS", "random:5")
    assert find_weights().label == "random(seed=5)"
    monkeypatch.setenv("FASTFID_WEIGHTS", "")
    found = find_weights()
    assert (found.path, found.origin, found.official) == (cache / PUBLIC_NAME, "torch hub cache", True)
    assert found.sha256 == published
    assert found.label == "pt_inception-2015-12-05-6726825d"


def test_the_cache_under_the_other_name(cache: Path, published: str) -> None:
    (cache / SECOND_NAME).write_bytes(CONTENT)
    assert find_weights().path == cache / SECOND_NAME


def test_a_broken_file_in_the_cache_is_an_error(cache: Path) -> None:
    (cache / PUBLIC_NAME).write_bytes(CONTENT)
    with pytest.raises(WeightsCorruptError, match="Delete it") as caught:
        find_weights()
    assert hashlib.sha256(CONTENT).hexdigest() in str(caught.value)
    assert "6726825d0af5f729" in str(caught.value)
    assert str(cache / PUBLIC_NAME) in str(caught.value)
    assert (cache / PUBLIC_NAME).exists()


def test_a_named_file_may_be_any(tmp_path: Path, published: str) -> None:
    other, same = tmp_path / "mine.pth", tmp_path / "renamed.pth"
    other.write_bytes(b"mine")
    same.write_bytes(CONTENT)
    info = find_weights(other)
    assert not info.official
    assert info.sha256 == hashlib.sha256(b"mine").hexdigest()
    assert info.label == f"mine.pth (sha256 {info.sha256[:8]}, not the published)"
    assert find_weights(same).official


@pytest.mark.parametrize("variable", [False, True])
def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: bool) -> None:
    for path, says in ((tmp_path / "no.pth", "does not exist"), (tmp_path, "is a folder")):
        if variable:
            monkeypatch.setenv("FASTFID_WEIGHTS", str(path))
        with pytest.raises(WeightsNotFoundError, match=says) as caught:
            find_weights(None if variable else path)
        assert ("FASTFID_WEIGHTS=" if variable else "weights=") in str(caught.value)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pth").write_bytes(b"w")
    assert find_weights("~/w.pth").path == tmp_path / "w.pth"


@pytest.mark.parametrize("asked", ["random:", "random:x", "random:-1", "random:1.0", f"random:{2**64}"])
def test_bad_seeds(asked: str) -> None:
    with pytest.raises(ValueError, match="seed"):
        load_weights(asked)


def test_nothing_found_says_everything(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTFID_OFFLINE", "1")
    with pytest.raises(WeightsNotFoundError) as caught:
        find_weights()
    message = str(caught.value)
    for part in (
        "FASTFID_WEIGHTS: not set",
        str(cache / PUBLIC_NAME),
        str(cache / SECOND_NAME),
        "FASTFID_OFFLINE is set",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/" + PUBLIC_NAME,
        "--weights PATH",
        "FASTFID_WEIGHTS=PATH",
        f"copy it to {cache}",
        "--weights random",
    ):
        assert part in message, part
    assert isinstance(caught.value, FileNotFoundError)


def test_download_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsNotFoundError, match="download=False"):
        find_weights(download=False)
    monkeypatch.setenv("FASTFID_OFFLINE", "yes")
    with pytest.raises(WeightsNotFoundError, match="FASTFID_OFFLINE is set"):
        find_weights()


def test_where_looks_but_does_not_fetch(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, published: str
) -> None:
    assert [found for _, found in where_weights()] == [False] * 5
    (cache / SECOND_NAME).write_bytes(b"anything")
    monkeypatch.setenv("FASTFID_WEIGHTS", str(tmp_path / "no.pth"))
    assert [found for _, found in where_weights()] == [False, False, True, False, False]
    monkeypatch.setenv("FASTFID_WEIGHTS", "random")
    monkeypatch.setenv("FASTFID_OFFLINE", "1")
    places = where_weights()
    assert [found for _, found in places] == [True, False, True, False]
    assert places[0].where == "FASTFID_WEIGHTS=random"
    assert str(cache / PUBLIC_NAME) in places[1].where
    assert "FASTFID_OFFLINE" in places[3].where


# --- how they are fetched ---------------------------------------------------------------------------------------------


def test_a_download_lands_in_the_cache(
    tmp_path: Path, published: str, serve: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    asked = serve(_whole)
    info = find_weights()
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert info == weights.WeightsInfo(
        folder / PUBLIC_NAME, published, "download", True, "pt_inception-2015-12-05-6726825d"
    )
    assert _only(folder) == [PUBLIC_NAME]
    assert (folder / PUBLIC_NAME).read_bytes() == CONTENT
    assert stat.S_IMODE((folder / PUBLIC_NAME).stat().st_mode) == 0o644
    assert find_weights().origin == "torch hub cache"
    assert asked == ["/first"]
    assert capfd.readouterr().out == "", "progress belongs on stderr"


def test_the_second_address_is_tried(cache: Path, published: str, serve: Callable[..., list[str]]) -> None:
    asked = serve(_missing, _whole)
    info = find_weights(progress=False)
    assert asked == ["/first", "/second"]
    assert (info.path, info.official, info.sha256) == (cache / SECOND_NAME, True, published)


def test_what_is_not_the_published_file_is_not_kept(cache: Path, serve: Callable[..., list[str]]) -> None:
    serve(_page)
    with pytest.raises(WeightsCorruptError, match="login page"):
        find_weights(progress=False)
    assert _only(cache) == []


@pytest.mark.parametrize(("reply", "says"), [(_cut, "1000"), (_stall, "timed out"), (_missing, "404")])
def test_failing_downloads_leave_nothing(
    cache: Path,
    published: str,
    serve: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    reply: Reply,
    says: str,
) -> None:
    monkeypatch.setattr(weights, "TIMEOUT_S", 0.3)
    asked = serve(reply, reply)
    with pytest.raises(WeightsNotFoundError, match=says) as caught:
        find_weights(progress=False)
    assert asked == ["/first", "/second"]
    assert str(caught.value).count("download from http://127.0.0.1") == 2
    assert _only(cache) == []


def test_an_unreachable_network_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(urllib.request, "urlopen", urllib.request.build_opener(urllib.request.ProxyHandler({})).open)
    monkeypatch.setattr(weights, "ADDRESSES", (f"http://127.0.0.1:{port}/a", f"http://127.0.0.1:{port}/b"))
    with pytest.raises(WeightsNotFoundError, match="refused"):
        find_weights(progress=False)
    assert _only(cache) == []


def test_ctrl_c_leaves_no_half_file(
    cache: Path, published: str, serve: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(_whole)
    seen: list[list[str]] = []

    class Interrupting:
        def __init__(self, made: object = b"") -> None:
            pass

        def update(self, _piece: bytes) -> None:
            seen.append(_only(cache))
            raise KeyboardInterrupt

    monkeypatch.setattr(weights.hashlib, "sha256", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        find_weights(progress=False)
    assert len(seen[0]) == 1
    assert seen[0][0].startswith(PUBLIC_NAME)
    assert seen[0][0].endswith(".part")
    assert _only(cache) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of a folder, POSIX only")
def test_a_cache_that_cannot_be_written(tmp_path: Path, serve: Callable[..., list[str]]) -> None:
    serve(_whole)
    (tmp_path / "torch").write_text("a file where the cache's folder would be")
    with pytest.raises(WeightsNotFoundError, match=r"NotADirectoryError|FileExistsError"):
        find_weights(progress=False)


# --- how they are loaded ----------------------------------------------------------------------------------------------


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
