"""What lies in a set and is not read: counted by reason, and told where images are lost by it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

from fastfid.sources.decode import LOOKS_LIKE_IMAGE

HIDDEN, BELOW, LINKS, SPECIAL = "hidden", "subfolders", "links to folders", "special files"
CLOSED, FORKS, TWICE, OTHER = "folders that can't be opened", "macOS forks", "duplicates", "other kinds"
_KINDS = 30  # extensions that are counted apart


def extension_of(name: str, any_case: bool = True) -> str:
    """As ".txt", where case counts as it is written, or "no extension"."""
    extension = os.path.splitext(name)[1] or "no extension"  # noqa: PTH122  # of many names
    return extension.lower() if any_case else extension


def looks_like_image(name: str) -> bool:
    """Whether people would call a file of this name an image."""
    return name.rpartition(".")[2].lower() in LOOKS_LIKE_IMAGE


def by_reason(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts in descending order, those of many rare extensions as one."""
    ordered = sorted(((reason, n) for reason, n in counts.items() if n), key=lambda one: (-one[1], one[0]))
    rare = [one for one in ordered if one[0].startswith(".")][_KINDS:]
    kept = {reason: n for reason, n in ordered if (reason, n) not in rare}
    return {**kept, OTHER: sum(n for _, n in rare)} if rare else kept


def listed(counts: Mapping[str, int], most: int = 6) -> str:
    """ ".avif (35), subfolders (56)"."""
    shown = [f"{reason} ({n})" for reason, n in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} other kinds" if len(counts) > most else "")


def images_lost(counts: Mapping[str, int]) -> Counter[str]:
    """Of what was not read, what are images or may hold some."""
    apart = (HIDDEN, BELOW, LINKS, CLOSED, TWICE)
    return Counter({reason: n for reason, n in counts.items() if reason in apart or looks_like_image(reason)})
