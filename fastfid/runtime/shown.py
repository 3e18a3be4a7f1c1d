"""Names and messages as they may stand on a terminal, in a log or in a table."""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    r"""``text`` on one line that can't act on a terminal: control characters, the marks that change the direction of
    writing, and bytes that were no UTF-8 become ``\n``, ``\x1b``, ``\u202e``, ``\udcff``. All else stays as it is.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
