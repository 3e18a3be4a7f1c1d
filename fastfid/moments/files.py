"""How Moments leave the process: an ``.npz``, written whole or not at all and read without unpickling, or a state."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastfid.moments import metadata as _metadata
from fastfid.runtime.checks import dense, whole_number
from fastfid.runtime.files import open_regular, open_zip, reading
from fastfid.runtime.npz import Header, archive_headers, like_statistics, read_array
from fastfid.runtime.output import Target

_FORMAT = 1
_UNREADABLE = "path: {place} cannot be read as .npz: {reason}"
_FIELD = "path: {place}: {reason}"
_ROWS_AGREE = 1e-9
"""Largest difference between statistics of the rows and mu, sigma, of max|rows| and its square; rounding is 1e-14."""

_STATE = ("n", "dim", "mean", "scatter", "rows", "cov", "seen", "keep_rows", "metadata")


def write(
    path: str | os.PathLike[str],
    mean: torch.Tensor,
    sigma: torch.Tensor,
    rows: torch.Tensor | None,
    *,
    n: int | None,
    ddof: int,
    metadata: dict[str, Any],
) -> None:
    """Put statistics into the file ``path``, taken literally; OutputError where that fails."""
    arrays: dict[str, Any] = {
        "mu": mean.cpu().numpy(),
        "sigma": sigma.cpu().numpy(),
        "ddof": np.array(ddof),
        "metadata": np.array(json.dumps(metadata)),
        "format": np.array(_FORMAT),
    }
    if n is not None:
        arrays["n"] = np.array(n)
    if rows is not None:
        arrays["rows"] = rows.cpu().numpy()
    with Target(path).writing() as file:
        np.savez(file, **arrays)


class Found(NamedTuple):
    """What a file says; ``n`` is None where it doesn't say, ``rows`` where it doesn't hold the samples."""

    mean: Any
    sigma: Any
    rows: Any
    n: int | None
    ddof: int
    metadata: dict[str, Any]


def names(path: str | os.PathLike[str]) -> set[str]:
    """The names of the arrays in an ``.npz``; ValueError where it isn't one."""
    with reading(path, say=_UNREADABLE), open_zip(path) as archive:
        return set(archive_headers(archive))


def read(path: str | os.PathLike[str], keys: tuple[str, str]) -> Found:
    """The statistics in an ``.npz`` that has both ``keys``, each field checked.

    Raises:
        ValueError: it isn't one; names the file and the field.
    """
    with ExitStack() as stack:
        with reading(path, say=_UNREADABLE), _refusing_arrays(path):
            archive = stack.enter_context(open_zip(path))
            fields = _Fields(path, archive, archive_headers(archive))
        fields.require(*keys)
        described = {"format", "metadata"} <= fields.headers.keys()
        ours = described and "ddof" in fields.headers and keys == ("mu", "sigma")
        mean = fields.array(keys[0], "[d] with d ≥ 1, real numbers", (None,))
        d = len(mean)
        sigma = fields.array(keys[1], f"[{d}, {d}], real numbers, as {keys[0]} has {d}", (d, d))
        metadata = _metadata.parsed(fields.text("metadata"), strict=ours, where=os.fspath(path)) if described else {}
        if not ours:
            return Found(mean, sigma, None, None, 1, metadata)
        fields.number("format", _FORMAT, _FORMAT)
        if "rows" in fields.headers or isinstance(metadata.get("n"), int):
            fields.require("n")
        n = fields.number("n", 1) if "n" in fields.headers else None
        ddof = fields.number("ddof", 0, 1)
        if "rows" not in fields.headers:
            return Found(mean, sigma, None, n, ddof, metadata)
        rows = fields.array("rows", f"[{n}, {d}], float64, as n is {n} and mu has {d}", (n, d), kinds="f")
    with reading(path, "rows", say=_FIELD):
        _require_rows(rows, mean, sigma, ddof)
    return Found(mean, sigma, rows, n, ddof, metadata)


class _Fields:
    """The arrays of an open archive; each is checked against what is accepted before its data are read."""

    def __init__(
        self, path: str | os.PathLike[str], archive: zipfile.ZipFile, headers: Mapping[str, Header | Exception]
    ) -> None:
        self.path, self.archive, self.headers = os.fspath(path), archive, headers

    def require(self, *names: str) -> None:
        """Fail where a field is not there."""
        missing = [name for name in names if name not in self.headers]
        if missing:
            more = like_statistics(self.headers)
            raise ValueError(
                f"path: {self.path} has no {' and no '.join(missing)}; it holds {', '.join(self.headers) or 'nothing'}"
                + (f". {more}" if more else "")
            )

    def array(self, name: str, accepted: str, shape: tuple[int | None, ...], kinds: str = "fiu") -> NDArray[Any]:
        """One field, finite; an axis of ``shape`` that is None may have any length from 1 on."""
        with reading(self.path, name, say=_FIELD):
            header = self.headers[name]
            if isinstance(header, Exception):
                raise header
            fits = len(header.shape) == len(shape) and all(
                length >= 1 if wanted is None else length == wanted
                for wanted, length in zip(shape, header.shape, strict=True)
            )
            if not fits or header.dtype.kind not in kinds:
                raise ValueError(f"dtype {header.dtype}, shape {list(header.shape)}; accepted: {accepted}")
            found = read_array(self.archive, name)
            if header.dtype.kind == "f" and not np.isfinite(found).all():
                raise ValueError(f"NaN or infinity; accepted: {accepted}, finite")
            return found

    def number(self, name: str, least: int, most: int | None = None) -> int:
        """A whole number."""
        accepted = f"a whole number from {least} " + ("on" if most is None else f"to {most}")
        found = int(self.array(name, accepted, (), "iu"))
        if found < least or (most is not None and found > most):
            raise ValueError(f"path: {self.path} [{name}]: {found}; accepted: {accepted}")
        return found

    def text(self, name: str) -> str:
        """A text."""
        return str(self.array(name, "a text", (), "U"))


@contextmanager
def _refusing_arrays(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say so where the file is not an archive but a single array."""
    try:
        yield
    except zipfile.BadZipFile as error:
        with open_regular(path) as file:
            if file.read(6) == b"\x93NUMPY":
                raise ValueError("it holds a single array (an .npy by its content); accepted: mu and sigma") from error
        raise


def _require_rows(rows: Any, mean: Any, sigma: Any, ddof: int) -> None:
    """Refuse samples whose mean and scatter are not those of the statistics beside them.

    The scatter is compared on its diagonal and along two fixed directions, in O(n·d + d²): what differs in one entry
    differs there.
    """
    n, d = rows.shape
    centred = rows - rows.mean(axis=0)
    scale = np.abs(rows).max(initial=0.0)
    probes = np.random.default_rng(0).standard_normal((d, 2))
    divided = max(n - ddof, 1)
    wanted = sigma @ probes if n > ddof else np.zeros((d, 2))
    here = centred.T @ (centred @ probes) / divided if n > ddof else np.zeros((d, 2))
    diagonal = (centred**2).sum(axis=0) / divided
    gaps = {
        "mean": np.abs(rows.mean(axis=0) - mean).max() / (scale or 1.0),
        "scatter": max(
            np.abs(wanted - here).max() / (np.sqrt(d) * (scale**2 or 1.0)),
            np.abs(diagonal - np.diagonal(sigma)).max() / (scale**2 or 1.0),
        ),
    }
    wrong = [what for what, gap in gaps.items() if not gap <= _ROWS_AGREE]
    if wrong:
        raise ValueError(f"their {' and '.join(wrong)} are not those of mu and sigma; was the file edited?")


def checked_state(state: Mapping[str, Any]) -> tuple[int | None, int | None, dict[str, torch.Tensor]]:
    """(n, dim, the tensors that are there) of what ``Moments.state`` returned; ValueError or TypeError else."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state: {type(state).__name__}; accepted: what Moments.state() returned")
    missing = [key for key in _STATE if key not in state]
    if missing:
        raise ValueError(f"state: without {', '.join(missing)}; accepted: what Moments.state() returned")
    n, d = (
        None if state[key] is None else whole_number(f"state: {key}", state[key], least=least)
        for key, least in (("n", 0), ("dim", 1))
    )
    for key, kind in (("seen", bool), ("keep_rows", bool), ("metadata", Mapping)):
        if not isinstance(state[key], kind):
            raise ValueError(f"state: {key} is {type(state[key]).__name__}; accepted: {kind.__name__.lower()}")
    shapes = {"mean": (d,), "scatter": (d, d), "cov": (d, d), "rows": (n, d)}
    given = {key: state[key] for key in shapes if state[key] is not None}
    for key, tensor in given.items():
        accepted = f"torch.float64 {list(shapes[key])}"
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"state: {key} is {type(tensor).__name__}; accepted: {accepted}")
        if tuple(tensor.shape) != shapes[key] or tensor.dtype != torch.float64:
            raise ValueError(f"state: {key} is {tensor.dtype} {list(tensor.shape)}; accepted: {accepted}")
        dense(f"state: {key}", tensor)
    held = ("mean", "cov") if n is None else ("rows",) if state["keep_rows"] else ("mean", "scatter")
    lacking = [key for key in held if key not in given and n != 0]
    if lacking or ("rows" in given and "rows" not in held):
        raise ValueError(
            f"state: n is {n} and keep_rows {state['keep_rows']} with {', '.join(given) or 'no tensor'}; accepted: "
            "what Moments.state() returned"
        )
    return n, d, given
