"""Every entry of the campaign, by name; what each kind must reach, and its share of the time."""

from __future__ import annotations

from campaign import (
    ambient,
    files,
    fuzz_calls,
    fuzz_commands,
    fuzz_evaluate,
    fuzz_images,
    fuzz_moments,
    fuzz_numerics,
    kills,
    ranks,
    special,
)
from campaign.trial import Entry

_MODULES = (
    fuzz_numerics,
    fuzz_moments,
    fuzz_images,
    fuzz_calls,
    fuzz_commands,
    fuzz_evaluate,
    files,
    kills,
    ranks,
    special,
    ambient,
)
ENTRIES: dict[str, Entry] = {entry.name: entry for module in _MODULES for entry in module.ENTRIES}

FLOORS = {"fuzz": 200, "files": 500, "kills": 20, "ranks": 6, "special": 100, "ambient": 100}
"""Trials that each entry of a kind must reach, however slow the machine is."""

MOST = 100_000
"""Trials of one entry that are enough in one campaign: what is quick must not stand for what is slow."""

SHARES = {"fuzz": 45, "files": 20, "kills": 16, "ranks": 8, "special": 5, "ambient": 6}
"""Parts of the time."""
