"""Processes that tests start: they use the package that the tests use, wherever it is installed.

A checkout before the installed package on ``PYTHONPATH`` would run these processes without the compiled core.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fastfid

TESTS = Path(__file__).resolve().parent


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with ``changes``, where ``import fastfid`` and the tests' own modules are found."""
    path = os.pathsep.join([str(Path(fastfid.__file__).resolve().parents[1]), str(TESTS)])
    return {**os.environ, "PYTHONPATH": path, **changes}


def processes() -> Any:
    """A multiprocessing context whose processes are forks of one that has imported torch, this package and pytest.

    One such server serves a whole session. It looks for modules in the folder that it starts in first, where a checkout
    may lie; so it starts in the tests' own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "click.testing", "images", "fastfid.api"])
    here = Path.cwd()
    os.chdir(TESTS)
    try:
        with patch.dict(os.environ, environment()):
            forkserver.ensure_running()
    finally:
        os.chdir(here)
    return context
