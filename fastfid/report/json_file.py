"""A result as a JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from fastfid._atomic import replacing


def write_json(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Write ``report`` to ``path``, whole or not at all; NaN and infinity are refused, since JSON has neither."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
