"""A result as a JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from fastfid._atomic import replacing


def json_text(report: Mapping[str, Any]) -> str:
    """Indented JSON with a line end; NaN and infinity are refused, since JSON has neither."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Write ``json_text`` to ``path``, whole or not at all."""
    text = json_text(report)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
