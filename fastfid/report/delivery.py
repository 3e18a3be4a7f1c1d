"""How results reach people: every way out is tried whatever becomes of the others, and the number comes first.

Text goes to stdout. Where stdout is closed, full or broken, the number goes to stderr; where a table can't be drawn,
the number stands in its place. Streams that can't hold a character get it spelled out.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from fastfid.errors import OutputError
from fastfid.runtime.shown import shown

_PLAIN = {"é": "e", "−": "-", "…": "...", "×": "x", "²": "^2", "³": "^3", "½": "^(1/2)", "·": "*", "±": "+-", "μ": "u"}
_HANDLER = "fastfid.plain"


class PipeClosedError(Exception):
    """Nobody reads stdout any more."""


class Delivery:
    """The ways out of one result.

    Args:
        number: the result in a line or two, where it can't be shown better.

    Attributes:
        troubles: what failed so far.
    """

    def __init__(self, number: str) -> None:
        self.number = number
        self.troubles: list[Exception] = []

    def show(self, make: Callable[[], str]) -> None:
        """Put ``make()`` on stdout."""
        try:
            text = make()
        except Exception as error:
            self.troubles.append(error)
            text = self.number + "\n"
        except BaseException:
            self._put(self.number + "\n")
            raise
        self._put(text)

    def attempt(self, work: Callable[[], object]) -> None:
        """Whatever else is to be done with it."""
        try:
            work()
        except Exception as error:
            self.troubles.append(error)

    def _put(self, text: str) -> None:
        try:
            say(text)
        except (PipeClosedError, OutputError) as error:
            self.troubles.append(error)
            complain(self.number)


def say(text: str) -> None:
    """``text`` to stdout, at once.

    Raises:
        PipeClosedError: nobody reads it, or it was closed from the start.
        OutputError: it can't be written to (a full disk).
    """
    if sys.stdout is None:
        raise PipeClosedError("stdout is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        _give_up_stdout()
        raise PipeClosedError("stdout: nobody reads it any more") from error
    except (OSError, ValueError) as error:
        _give_up_stdout()
        raise OutputError("stdout", str(error)) from error


def complain(text: str) -> None:
    """A message to stderr, if it is there; what follows its first line is set in, so that names can't pose as one."""
    first, *others = text.splitlines() or [""]
    lines = [shown(first), *(f"  {shown(line)}" for line in others)]
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def drawn(renderable: Any) -> str:
    """What rich makes of a table, for stdout; wide enough not to fold where no terminal says how wide it is."""
    from rich.console import Console

    class Sink(io.StringIO):
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # which decides whether boxes are drawn in ASCII

    stdout, sink = Console(), Sink()
    width = stdout.width if stdout.is_terminal else 220
    Console(file=sink, width=width, force_terminal=stdout.is_terminal).print(renderable)
    return sink.getvalue()


def open_streams() -> None:
    """Make stdout and stderr take every character, and see that no file gets the number of a stream that is closed."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    codecs.register_error(_HANDLER, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """Characters that an encoding lacks: ours by a plain one, others as an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or ascii(one)[1:-1] for one in lacking), error.end


def _give_up_stdout() -> None:
    """Drop what stdout still holds, so that the end of the process does not try, and fail, to write it."""
    stream: IO[str] = sys.stdout
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
