"""Entries that fail on purpose: what tests/test_campaign_registry.py looks at the guards with. Not in the campaign."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from campaign.trial import Entry

_count = 0


def _third(action: object, at: int) -> None:
    global _count
    _count += 1
    if _count == at and callable(action):
        action()


def ends(_rng: np.random.Generator, _folder: Path) -> None:
    _third(lambda: os.kill(os.getpid(), signal.SIGSEGV), 3)


def stands(_rng: np.random.Generator, _folder: Path) -> None:
    _third(lambda: time.sleep(600), 2)


ENTRIES = [Entry("self/ends", ends), Entry("self/stands", stands)]
