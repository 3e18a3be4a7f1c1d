"""Finding, fetching and checking weights, with a server on this machine in the place of the network."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import stat
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from random_inception import PUBLIC_NAME

from fastfid.errors import WeightsCorruptError, WeightsNotFoundError
from fastfid.extractors import find_weights, load_weights, weights, where_weights

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


@pytest.mark.parametrize(
    "asked", ["random:", "random:x", "random:-1", "random:1.0", f"random:{2**64}", "random:" + "9" * 5000]
)
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
    monkeypatch.setattr(weights, "TIMEOUT_S", 0.3 if reply is _stall else 500.0)
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
