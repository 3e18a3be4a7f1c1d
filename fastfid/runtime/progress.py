"""Progress bars on stderr, so that stdout holds results only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


def wanted(asked: bool | None) -> bool:
    """The caller's word, else: only where a person looks at stderr."""
    return sys.stderr is not None and sys.stderr.isatty() if asked is None else asked


@contextmanager
def bar(label: str, total: int | None, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar that counts images and shows images/s and the time left; a no-op where ``show`` is false.

    It ends no run: where stderr can't be written to, there is nothing to see.
    """
    if not show or sys.stderr is None:
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: object) -> Text:
            elapsed, done = getattr(task, "elapsed", None), getattr(task, "completed", 0)
            return Text(f"{done / elapsed:.1f} images/s" if elapsed and done else "")

    class Forgiving:
        """stderr, for which it is no trouble that nobody reads it or that its disk is full."""

        def __init__(self, stream: TextIO) -> None:
            self.stream = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, text: str) -> int:
            with suppress(OSError, ValueError):
                return self.stream.write(text)
            return len(text)

        def flush(self) -> None:
            with suppress(OSError, ValueError):
                self.stream.flush()

    stream = cast("TextIO", Forgiving(sys.stderr))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), refresh_per_second=5) as shown:
        task = shown.add_task(label, total=total)
        yield lambda count: shown.update(task, advance=count)
