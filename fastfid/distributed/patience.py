"""How long a rank waits for the others, and what it says meanwhile."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from fastfid.errors import RankError

TIMEOUT_S = 1800.0
"""How far apart ranks may come to an exchange: the slowest share of a set may take this much longer than the others."""
ANNOUNCE_S = 30.0
"""When a rank that waits first says for whom; then after twice, four times, … as long."""

_LONGEST_S = 1e8


def seconds(name: str, given: float | None, variable: str, default: float) -> float:
    """A time to wait: as given, else from the environment, else the default.

    Raises:
        ValueError: not a number of seconds above 0 and up to 1e8; names the argument, or the variable.
    """
    told: float | str = os.environ.get(variable) or default if given is None else given
    try:
        value = float(told)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 < value <= _LONGEST_S:
        where = name if given is not None else variable
        raise ValueError(f"{where}: {told!r}; accepted: a positive number of seconds, at most {_LONGEST_S:.0e}")
    return value


class Patience:
    """One wait of one rank: announced on stderr at growing intervals, and ended after ``timeout_s``.

    Args:
        what: the exchange, for the lines.
        place: this rank and how many there are.
        timeout_s: seconds after which ``tick`` raises.
        announce_s: seconds before the first line.
        missing: the ranks that have not come yet; None where nobody can tell.
        about: what is known of a rank, as words that follow its number.
        hint: what else to do, at the end of each line.
        holder: who is silent where ``missing`` gives None.
        silent: ranks that show no sign of life; asked at the end only, as it takes seconds to tell.
    """

    def __init__(
        self,
        what: str,
        place: tuple[int, int],
        timeout_s: float,
        announce_s: float,
        missing: Callable[[], Sequence[int] | None],
        about: Callable[[int], str] = lambda _rank: "",
        hint: str = "",
        holder: str = "",
        silent: Callable[[], Sequence[int]] = lambda: (),
    ) -> None:
        self.what, self.timeout_s, self.missing, self.about, self.silent = what, timeout_s, missing, about, silent
        self.index, self.size = place
        self.hint, self.holder = hint, holder
        self._begin = time.monotonic()
        self._next = announce_s
        self._looked = False

    def tick(self) -> None:
        """To be called while waiting, at least every second.

        Raises:
            RankError: the time is over; names the rank that is waited for.
        """
        waited = time.monotonic() - self._begin
        if waited >= self.timeout_s:
            gone = self.missing()
            if gone is not None and len(gone) != 1:  # none is late, or those are that wait for it themselves
                stopped = self.silent()
                gone = [*stopped, *(rank for rank in gone if rank not in stopped)]
            raise RankError(
                gone[0] if gone else None,
                f"did not answer in time: rank {self.index} of {self.size} has waited {waited:.0f} s at {self.what!r} "
                f"for {self._whom(gone)}; a longer wait: timeout= (--timeout, FASTFID_TIMEOUT){self.hint}",
            )
        if not self._looked and waited >= min(self._next, self.timeout_s) / 2:
            self._looked = True
            self.missing()  # who shows no sign of life between now and the line
        if waited >= self._next:
            self._next, self._looked = 2 * self._next, False
            gone = self.missing()
            if gone is None or set(range(self.index)) <= set(gone):  # the first of those who wait speaks for them
                say(
                    f"rank {self.index} of {self.size} has waited {waited:.0f} s at {self.what!r} for "
                    f"{self._whom(gone)}; it gives up after {self.timeout_s:.0f} s (--timeout, FASTFID_TIMEOUT)"
                    + self.hint
                )

    def _whom(self, gone: Sequence[int] | None) -> str:
        if gone is None:
            return self.holder or "other ranks"
        if not gone:
            return "data on their way"
        told = ", ".join(f"rank {rank}{self.about(rank)}" for rank in gone[:5])
        return told + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")


def say(text: str) -> None:
    """One line on stderr, where there is one."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"fastfid: {text}\n")
        sys.stderr.flush()
