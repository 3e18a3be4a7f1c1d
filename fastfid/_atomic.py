"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def require_folder(target: str | os.PathLike[str]) -> None:
    """Raise where ``target`` can't be written for want of its folder; to be asked before long work, not after."""
    folder = Path(target).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {os.fspath(target)!r}: the folder {str(folder)!r} does not exist")


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its place when the block ends well, and else is removed.

    KeyboardInterrupt counts as not ending well, so Ctrl-C leaves the old file, or none.
    """
    require_folder(target)
    final = Path(target)
    handle, name = tempfile.mkstemp(prefix=f".{final.stem}-", suffix=final.suffix, dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; a result should be as readable as any other
        temporary.replace(final)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
