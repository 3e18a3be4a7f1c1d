"""Where the network's parameters come from: find the file, fetch it, check it, load it.

Looked for in this order; the first that is there is used, and one that is there but wrong is an error, not a reason to
look further:

1. the ``weights`` argument: a file, ``"random"`` or ``"random:SEED"``,
2. the variable ``FASTFID_WEIGHTS``, with the same values,
3. torch hub's cache, under either of the two names by which the published file goes,
4. the network, unless ``download`` is off or ``FASTFID_OFFLINE`` is set; what comes is put into that cache.

Source: the file was converted from TensorFlow's 2015-12-05 graph by the authors of pytorch-fid, and is published with
the same content by torch-fidelity; both names carry the first 8 hex digits of its SHA-256.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastfid.errors import WeightsCorruptError, WeightsNotFoundError
from fastfid.extractors.inception import parameter_shapes
from fastfid.extractors.random_weights import DEFAULT_SEED, random_state
from fastfid.runtime.files import check_sums, open_regular, open_zip, reading

OFFICIAL_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILE_NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
ADDRESSES = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE_NAMES[0]}",
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAMES[1]}",
)
VARIABLE, OFFLINE_VARIABLE = "FASTFID_WEIGHTS", "FASTFID_OFFLINE"
TIMEOUT_S = 20.0
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class WeightsInfo:
    """What is known about a network's parameters.

    Attributes:
        path: the file, or None where there is none.
        sha256: of the file; of the parameters themselves (``state_sha256``) where there is no file.
        origin: how they were found: "argument", "FASTFID_WEIGHTS", "torch hub cache", "download", "random", "module".
        official: whether this is the published file, so that the distance may be called FID.
        label: one line for reports.
    """

    path: Path | None
    sha256: str
    origin: str
    official: bool
    label: str


class Place(NamedTuple):
    """One place where weights are looked for, in words, and whether they are there."""

    where: str
    found: bool


def hub_folder() -> Path:
    """Torch hub's folder of checkpoints ($TORCH_HOME/hub/checkpoints)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def where_weights() -> list[Place]:
    """The places in the order in which they are looked at; touches neither the network nor the files' contents."""
    named = os.environ.get(VARIABLE, "")
    there = bool(named) and (_seed_of(named) is not None or Path(named).expanduser().is_file())
    places = [Place(f"{VARIABLE}={named}" if named else f"{VARIABLE} (not set)", there)]
    places += [Place(f"torch hub cache: {file}", file.is_file()) for file in _cache_files()]
    if _offline():
        return [*places, Place(f"download (off: {OFFLINE_VARIABLE} is set)", False)]
    return [*places, *(Place(f"download from {address} (not tried)", False) for address in ADDRESSES)]


def find_weights(
    weights: str | os.PathLike[str] | None = None, *, download: bool = True, progress: bool = True
) -> WeightsInfo:
    """Where the parameters of the FID network are, fetched and hashed but not loaded; as ``load_weights``."""
    return _find(weights, download, progress)[1]


def load_weights(
    weights: str | os.PathLike[str] | None = None, *, download: bool = True, progress: bool = True
) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The parameters of the FID network and where they are from.

    Args:
        weights: a file; "random" or "random:SEED"; None to look in the places that the module's text lists.
        download: whether the network may be used.
        progress: whether a download shows a bar on stderr.

    Returns:
        The state dict, float32 on the CPU under the public file's names, and its ``WeightsInfo``. A file named by the
        caller that is not the published one is taken, with ``official`` False.

    Raises:
        WeightsNotFoundError: nothing was found, or the file that was named is not there; lists the places.
        WeightsCorruptError: a cached or downloaded file has the wrong hash, or a file does not hold this network.
        ValueError: the seed of "random:SEED" is not a number in range.
    """
    state, info = _find(weights, download, progress)
    if state is None:
        assert info.path is not None
        state = read_state(info.path, checked=not info.official)
    return state, info


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and the values' bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def read_state(path: Path, *, checked: bool = True) -> dict[str, Tensor]:
    """Load a state dict of the FID network, with nothing executed from it.

    Args:
        path: the file.
        checked: whether the CRCs of a zip archive are looked at first, which torch does not do; needless where the
            file's hash is known.

    Raises:
        WeightsCorruptError: the file can't be read as one, or names, shapes or values are not this network's.
    """
    with reading(path, error=WeightsCorruptError, say=f"cannot load weights from {{place}}: {{reason}}. {_REMEDY}"):
        if checked:
            check_sums(path)
        script = _is_torchscript(path)
    if script:
        raise WeightsCorruptError(
            f"{path} is a TorchScript archive, not a state dict; give it as the extractor (as_extractor(PATH)). "
            f"{_REMEDY}"
        )
    with reading(path, error=WeightsCorruptError, say=f"cannot load weights from {{place}}: {{reason}}. {_REMEDY}"):
        try:
            with open_regular(path) as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if "weights_only" in str(error).lower():
                raise ValueError("it holds objects other than tensors, which are never loaded from it") from error
            raise
    return check_state(content, str(path))


def check_state(content: object, where: str) -> dict[str, Tensor]:
    """``content`` as a float32 state dict without ``num_batches_tracked``; WeightsCorruptError if it isn't one."""
    if not isinstance(content, Mapping):
        raise WeightsCorruptError(f"{where} holds a {type(content).__name__}, not a state dict. {_REMEDY}")
    shapes = parameter_shapes()
    used = {name: value for name, value in content.items() if not str(name).endswith(".num_batches_tracked")}
    faults = {
        "missing": [name for name in shapes if name not in used],
        "unknown": [str(name) for name in used if name not in shapes],
        "of another shape or kind": [
            f"{name} ({_describe(used[name])}, expected {list(shape)})"
            for name, shape in shapes.items()
            if name in used and not _is_parameter(used[name], shape)
        ],
    }
    found = [f"{len(names)} {kind}, first {', '.join(names[:3])}" for kind, names in faults.items() if names]
    if found:
        raise WeightsCorruptError(
            f"{where} is not a state dict of the FID Inception network: {'; '.join(found)}. {_REMEDY}"
        )
    state = {name: used[name].detach().float() for name in shapes}
    bad = [name for name, value in state.items() if not torch.isfinite(value).all()]
    bad += [name for name, value in state.items() if name.endswith("running_var") and (value < 0).any()]
    if bad:
        raise WeightsCorruptError(
            f"{where} holds NaN, infinite or negative-variance values: {', '.join(bad[:3])}. {_REMEDY}"
        )
    return state


_REMEDY = (
    f"The published file is {FILE_NAMES[0]} ({ADDRESSES[0]}); delete a broken copy so that it is fetched again, or "
    'use weights="random".'
)


def _is_parameter(value: object, shape: tuple[int, ...]) -> bool:
    """Whether this is a floating-point tensor of that shape."""
    return isinstance(value, Tensor) and value.is_floating_point() and tuple(value.shape) == shape


def _describe(value: object) -> str:
    """A value in a few characters."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _seed_of(weights: str | os.PathLike[str]) -> int | None:
    """The seed of "random" or "random:SEED", None for anything else."""
    kind, colon, seed = str(weights).partition(":")
    if kind != "random" or not isinstance(weights, str):
        return None
    if not colon:
        return DEFAULT_SEED
    if not (seed.isascii() and seed.isdigit() and len(seed.lstrip("0")) <= 20):
        raise ValueError(
            f'weights={weights[:40]!r}: the seed after "random:" must be a number below 2**64, as in random:0'
        )
    return int(seed)


def _offline() -> bool:
    """Whether FASTFID_OFFLINE forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off")


def _cache_files() -> list[Path]:
    """Where torch hub's cache would hold the published file."""
    return [hub_folder() / name for name in FILE_NAMES]


def _find(
    weights: str | os.PathLike[str] | None, download: bool, progress: bool
) -> tuple[dict[str, Tensor] | None, WeightsInfo]:
    """The information, and the parameters where finding out meant making them."""
    asked, origin = weights, "argument"
    if asked is None:
        asked, origin = os.environ.get(VARIABLE) or None, VARIABLE
    if asked is None:
        return None, _cached_file() or _download(download, progress)
    if not isinstance(asked, (str, os.PathLike)):
        raise TypeError(f"weights: {type(asked).__name__}; accepted: a path, 'random', 'random:SEED' or None")
    seed = _seed_of(asked)
    if seed is None:
        return None, _named_file(Path(asked).expanduser(), origin)
    state = random_state(seed)
    return state, WeightsInfo(None, state_sha256(state), "random", False, f"random(seed={seed})")


def _is_torchscript(path: Path) -> bool:
    """Whether a zip archive has TorchScript's table of constants."""
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            return False
    with open_zip(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _file_info(path: Path, origin: str) -> WeightsInfo:
    """Hash a file and say what it is."""
    sha256 = file_sha256(path)
    official = sha256 == OFFICIAL_SHA256
    label = FILE_NAMES[0].removesuffix(".pth") if official else f"{path.name} (sha256 {sha256[:8]}, not the published)"
    return WeightsInfo(path, sha256, origin, official, label)


def _named_file(path: Path, origin: str) -> WeightsInfo:
    """The file that the caller or the variable names, whatever its hash."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        given = "weights" if origin == "argument" else origin
        raise WeightsNotFoundError(
            f"{given}={str(path)!r} {what}; expected a state dict such as {FILE_NAMES[0]}, or random or random:SEED"
        )
    return _file_info(path, origin)


def _cached_file() -> WeightsInfo | None:
    """The published file in torch hub's cache; WeightsCorruptError where the first of its names is something else."""
    path = next((path for path in _cache_files() if path.is_file()), None)
    if path is None:
        return None
    info = _file_info(path, "torch hub cache")
    if not info.official:
        raise WeightsCorruptError(
            f"{path} is broken: its SHA-256 is {info.sha256}, but the published file's is {OFFICIAL_SHA256}. "
            f"Delete it so that it is fetched again, or copy a good one there. To use this file all the same, "
            f"name it: --weights {path} (or {VARIABLE}); its distances are then not FID."
        )
    return info


def _download(allowed: bool, progress: bool) -> WeightsInfo:
    """Fetch the published file into the cache, or say everything that was looked at."""
    if not allowed:
        raise _not_found(["download: not allowed (download=False)"])
    if _offline():
        raise _not_found([f"download: off, because {OFFLINE_VARIABLE} is set"])
    failures = []
    for address, name in zip(ADDRESSES, FILE_NAMES, strict=True):
        try:
            sha256 = _fetch(address, hub_folder() / name, progress)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"download from {address}: {type(error).__name__}: {error}")
            continue
        return WeightsInfo(hub_folder() / name, sha256, "download", True, FILE_NAMES[0].removesuffix(".pth"))
    raise _not_found(failures)


def _fetch(address: str, target: Path, progress: bool) -> str:
    """Download to a temporary file beside ``target`` and move it there only when its hash is right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        digest, size = hashlib.sha256(), 0
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            total = answer.headers.get("Content-Length")
            with _bar(target.name, int(total) if total else None, progress) as advance:
                while piece := answer.read(_PIECE_BYTES):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    advance(len(piece))
        if total and size < int(total):
            raise ConnectionError(f"the connection ended after {size} of {total} bytes")
        if digest.hexdigest() != OFFICIAL_SHA256:
            raise WeightsCorruptError(
                f"what came from {address} ({size} bytes, SHA-256 {digest.hexdigest()}) is not the published file "
                f"(SHA-256 {OFFICIAL_SHA256}); nothing was kept. A proxy or login page may be in the way: fetch the "
                f"file another way and copy it to {target}."
            )
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest()


@contextmanager
def _bar(name: str, total: int | None, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr that counts bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)


def _not_found(reasons: list[str]) -> WeightsNotFoundError:
    """The error that lists where weights were looked for and what else works."""
    looked = [f"{VARIABLE}: not set", *(f"torch hub cache: no {path}" for path in _cache_files()), *reasons]
    listed = "\n".join(f"  - {line}" for line in looked)
    return WeightsNotFoundError(
        f"the weights of the FID network were not found. Looked for:\n{listed}\n"
        f"The file is {FILE_NAMES[0]} (91 MiB, SHA-256 {OFFICIAL_SHA256[:8]}…), published at {ADDRESSES[0]}.\n"
        f"Any of these works: fetch it elsewhere and copy it to {hub_folder()}; name a copy with --weights PATH "
        f'(weights="PATH") or {VARIABLE}=PATH; or, for a distance that is not FID, --weights random.'
    )
