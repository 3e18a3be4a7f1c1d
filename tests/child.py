"""The environment of processes that tests start: they use the package that the tests use, wherever it is installed.

A checkout before the installed package on ``PYTHONPATH`` would run these processes without the compiled core.
"""

from __future__ import annotations

import os
from pathlib import Path

import fastfid

TESTS = Path(__file__).resolve().parent


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with ``changes``, where ``import fastfid`` and the tests' own modules are found."""
    path = os.pathsep.join([str(Path(fastfid.__file__).resolve().parents[1]), str(TESTS)])
    return {**os.environ, "PYTHONPATH": path, **changes}
