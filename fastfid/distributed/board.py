"""Signs of life: what each rank writes on the store where the launcher's processes meet, and what it reads there.

A thread of its own talks to the store, once a second, so that neither a stopped process that holds the store nor a long
piece of work keeps a rank from saying, or from asking, which rank is where. Nothing that decides a number passes here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastfid.distributed.launch import store_of_agent

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_T = TypeVar("_T")

BEAT_S = 1.0
ANSWER_S = 2.0
"""How long the store may take for an answer before it counts as silent."""
_QUIET = 2.0  # beats that a rank must miss to count as silent


@dataclass
class Sign:
    """The last that was read of a rank: its heartbeat, the exchange it has come to, when the beat was last seen anew,
    and whether it was ever seen to change."""

    beat: int
    step: int
    what: str
    changed: float
    beats: bool = False


class Board:
    """One rank's side of the store.

    Attributes:
        ended: the rank that failed, interrupted or gave up, why, and whether it still comes to exchanges; None so far.
        signs: what ``look`` read last, by rank.
        lost: the process that holds the store is gone; nothing is asked of it any more.
    """

    def __init__(self, store: Store, index: int, size: int) -> None:
        self.index, self.size, self.store = index, size, store
        self.ended: tuple[int, str, bool] | None = None
        self.signs: dict[int, Sign] = {}
        self.lost = False
        self._number = ""
        self._step, self._what, self._beat = 0, "", 0
        self._asked: queue.Queue[tuple[Callable[[], Any], list[Any], threading.Event] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="fastfid-signs", daemon=True)
        self._thread.start()

    def ask(self, work: Callable[[], _T], within_s: float = ANSWER_S) -> _T | None:
        """What ``work()`` gives on the thread that talks to the store; None where it does not answer, or fails."""
        if self.lost:
            return None
        box: list[_T] = []
        done = threading.Event()
        self._asked.put((work, box, done))
        done.wait(within_s)
        return box[0] if box else None

    def join(self) -> bool:
        """Sign in for the next world: its number is how often this rank has come, so that it is the same on all."""

        def enter() -> bool:
            if not self._number:  # or else it was late for an earlier answer
                self._number = str(self.store.add(f"joins/{self.index}", 1))
            self._write()
            return True

        return bool(self.ask(enter))

    def all_here(self) -> bool:
        """Whether every rank has signed in."""
        keys = [self._key(rank) for rank in range(self.size)]
        return bool(self.ask(lambda: self.store.check(keys)))

    @property
    def number(self) -> str:
        """Of this world among those of these ranks."""
        return self._number

    def take_back(self) -> None:
        """The world did not come about: the next attempt has the same number."""

        def leave() -> None:
            self.store.delete_key(self._key(self.index))
            self.store.add(f"joins/{self.index}", -1)
            self._number = ""

        self.ask(leave)

    def come_to(self, step: int, what: str) -> None:
        """Where this rank is now."""
        self._step, self._what = step, what
        self._asked.put((self._write, [], threading.Event()))

    def end(self, reason: str, *, comes: bool) -> None:
        """Tell the others that this rank's work is over; ``comes``: it takes part in the next exchange all the same."""
        text = f"{self.index} {int(comes)} {reason}"
        self.ask(lambda: self.store.set(f"{self._number}/ended", text))

    def look(self) -> bool:
        """Read where the others are; False where the store does not answer."""
        return bool(self.ask(self._read))

    def missing(self, step: int) -> list[int]:
        """The ranks that had not come to ``step`` when ``look`` last read, longest silent first; where all had, those
        that have been silent since."""
        late = [rank for rank in range(self.size) if rank != self.index and self._step_of(rank) < step]
        if not late:
            late = [rank for rank, sign in self.signs.items() if time.monotonic() - sign.changed >= _QUIET * BEAT_S]
        return sorted(late, key=lambda rank: self.signs[rank].changed if rank in self.signs else 0.0)

    def about(self, rank: int) -> str:
        """What is known of a rank, as words that follow its number."""
        sign = self.signs.get(rank)
        if sign is None:
            return ""
        quiet = time.monotonic() - sign.changed
        state = "still at work; " if sign.beats else ""
        if quiet >= _QUIET * BEAT_S:
            state = f"no sign of life for {quiet:.0f} s: stopped, or dead; "
        return f" ({state}it came last to {sign.what!r})"

    def silent(self) -> list[int]:
        """Ranks whose heart does not beat between two looks; rank 0 where it holds the store, and that is gone."""
        self.look()
        if self.lost:
            return [] if store_of_agent() else [0]
        before = {rank: sign.beat for rank, sign in self.signs.items()}
        time.sleep((_QUIET + 0.2) * BEAT_S)
        if not self.look():
            return []
        return [rank for rank, sign in self.signs.items() if before.get(rank) == sign.beat]

    def close(self) -> None:
        """End the thread; one that waits for a silent store is left to itself."""
        self._asked.put(None)
        self._thread.join(ANSWER_S)

    def _step_of(self, rank: int) -> int:
        return self.signs[rank].step if rank in self.signs else -1

    def _key(self, rank: int) -> str:
        return f"{self._number}/at/{rank}"

    def _write(self) -> None:
        if self._number and not self.lost:
            self._beat += 1
            self.store.set(self._key(self.index), f"{self._beat} {self._step} {self._what}")

    def _read(self) -> bool:
        now = time.monotonic()
        for rank in range(self.size):
            if rank == self.index or not self.store.check([self._key(rank)]):
                continue
            beat, step, what = self.store.get(self._key(rank)).decode().split(" ", 2)
            known = self.signs.get(rank)
            fresh = known is None or known.beat != int(beat)
            changed = now if known is None or fresh else known.changed
            self.signs[rank] = Sign(int(beat), int(step), what, changed, known is not None and (fresh or known.beats))
        return True

    def _beat_once(self) -> None:
        self._write()
        if self._number and self.ended is None and not self.lost and self.store.check([f"{self._number}/ended"]):
            rank, comes, reason = self.store.get(f"{self._number}/ended").decode().split(" ", 2)
            if int(rank) != self.index:
                self.ended = (int(rank), reason, comes == "1")

    def _run(self) -> None:
        due = 0.0
        while True:
            try:
                asked = self._asked.get(timeout=max(due - time.monotonic(), 0.0))
                if asked is None:
                    return
                work, box, done = asked
                try:
                    box.append(work())
                finally:
                    done.set()
            except queue.Empty:
                pass
            except RuntimeError:
                self.lost = True
            if time.monotonic() >= due:
                due = time.monotonic() + BEAT_S
                try:
                    self._beat_once()
                except RuntimeError:
                    self.lost = True
