"""A result as a JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from fastfid.runtime.output import Target


def json_text(report: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """Indented JSON with a line end. JSON has no NaN and no infinity: they become null.

    Args:
        report: strings, numbers of Python or NumPy, None, mappings and sequences of these; anything else as its text.
        ascii_only: escape the rest, for streams of which nobody knows what they can hold.
    """
    return json.dumps(_plain(report), indent=2, ensure_ascii=ascii_only, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str] | Target, report: Mapping[str, Any]) -> None:
    """Write ``json_text`` to ``path``. A name's bytes that are no UTF-8 become JSON's own escapes (``\\udcff``).

    Raises:
        OutputError: it can't be written.
    """
    content = json_text(report).encode("utf-8", "backslashreplace")
    with (path if isinstance(path, Target) else Target(path)).writing() as file:
        file.write(content)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's and torch's own
        value = value.tolist()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    return str(value)
