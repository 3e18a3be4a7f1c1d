"""A command of fastfid in a forked process, which is quick: torch is loaded already, and may be ended at any moment."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastfid.cli import main
from fastfid.passes.store import FeatureCache, record_checkpoints

LIMIT_S = 40.0


def forked(action: Callable[[], Any], log: Path) -> int:
    """The process id of one that does ``action``, with stdout and stderr in ``log``, and exits as it says."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(2), "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = action() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # before the program has begun, or after its end
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def command(*words: Any) -> Callable[[], None]:
    """A command line, with checkpoints after every batch rather than every half minute."""

    def run() -> None:
        for function in (FeatureCache.record, record_checkpoints):
            assert function.__kwdefaults__ is not None
            function.__kwdefaults__["every_s"] = 0
        main.main(args=[str(word) for word in words], prog_name="fastfid")

    return run


def ended(pid: int, seconds: float = LIMIT_S) -> int | None:
    """Its exit code, below zero for a signal, or None where it still runs after that time (and is ended)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def text(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:] if log.exists() else ""
