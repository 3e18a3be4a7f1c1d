"""Every error and warning that fastfid raises on purpose.

Bad arguments raise plain ``ValueError``/``TypeError`` whose message names the argument, says what came and what is
accepted. The types below exist where a caller may want to react to one kind of trouble: catch it, count it, or turn it
into a failure with ``warnings.simplefilter("error", fastfid.NumericalWarning)``.
"""

from __future__ import annotations

from typing import Any


class FastFIDError(Exception):
    """Base of all errors that are specific to fastfid."""


class BackendUnavailableError(FastFIDError, RuntimeError):
    """A backend was asked for by name and cannot run here; the message says why and what can."""


class BadImageError(FastFIDError, ValueError):
    """A member of an image set is truncated, not an image, or of a kind that the protocol does not accept.

    Attributes:
        name: the member's name (path relative to the set, or archive member, or index).
        reason: what the decoder said.
    """

    def __init__(self, name: str, reason: str, source: str = "") -> None:
        where = f" in {source}" if source else ""
        super().__init__(
            f"cannot read image {name!r}{where}: {reason}. Remove or repair the file, or pass skip_bad=True "
            "(--skip-bad) to go on without it; the result then lists what was left out."
        )
        self.name = name
        self.reason = reason
        self.source = source

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str, str]]:
        return (type(self), (self.name, self.reason, self.source))


class EmptySourceError(FastFIDError, ValueError):
    """An image set holds nothing that the protocol would read."""


class NotPSDError(FastFIDError, ValueError):
    """A matrix that must be positive semi-definite has an eigenvalue below what rounding explains."""


class WeightsNotFoundError(FastFIDError, FileNotFoundError):
    """Network weights were found nowhere; the message lists where they were looked for and what else works."""


class WeightsCorruptError(FastFIDError, ValueError):
    """A weights file does not have the hash or the content that its name promises."""


class IncomparableError(FastFIDError, ValueError):
    """Two statistics were made by different protocols, networks or weights, so their distance means nothing."""


class RankError(FastFIDError, RuntimeError):
    """Another process of a distributed run failed, died or did something else; the message says which, and why.

    Attributes:
        rank: its number; None where only its silence is known.
        reason: its own error, or what was seen from here.
        result: the distance, where ``fid`` had come to it here when the other process was lost; else None.
    """

    result: Any = None

    def __init__(self, rank: int | None, reason: str) -> None:
        super().__init__(reason if rank is None else f"rank {rank} failed: {reason}")
        self.rank = rank
        self.reason = reason

    def __reduce__(self) -> tuple[type[RankError], tuple[int | None, str]]:
        return (type(self), (self.rank, self.reason))


class OutputError(FastFIDError, OSError):
    """A result can't be written where it was asked for; raised before the work wherever that can be known.

    Attributes:
        path: the place.
        reason: what is against it.
        moments: what ``stats`` or ``merge`` had made when writing failed, so that it is not lost; else None.
    """

    def __init__(self, path: str, reason: str, moments: Any = None) -> None:
        super().__init__(f"cannot write {path!r}: {reason}")
        self.path = path
        self.reason = reason
        self.moments = moments

    def __reduce__(self) -> tuple[type[OutputError], tuple[str, str, Any]]:
        return (type(self), (self.path, self.reason, self.moments))


class WorkerError(FastFIDError, ChildProcessError):
    """A decoding process died; the message says which image it was reading."""


class CacheError(FastFIDError, ValueError):
    """A file of the cache, or a checkpoint, is damaged, of another format, or belongs to another run."""


class FastFIDWarning(UserWarning):
    """Base of all warnings that are specific to fastfid."""


class NumericalWarning(FastFIDWarning):
    """A number is right but carries less than the usual accuracy, or needed help (jitter, a fallback)."""


class ConvergenceWarning(NumericalWarning):
    """An iteration stopped before it met its tolerance; the enclosure in the result is as wide as it says."""


class SmallSampleWarning(FastFIDWarning):
    """Fewer samples than feature dimensions, or too few for the distance to be comparable with published ones."""


class BadImageWarning(FastFIDWarning):
    """Images were left out because they could not be read."""


class SetWarning(FastFIDWarning):
    """An image set was not read as it lies there: part of it was left unread, or some of it came more than once."""


class NotFIDWarning(FastFIDWarning):
    """The result is a Fréchet distance, but not of the published Inception weights, so it is not a FID."""


class SlowPathWarning(FastFIDWarning):
    """The result is the same, but part of the work runs on a slower engine than this machine could have."""


class ProtocolWarning(FastFIDWarning):
    """The protocol could not be followed or verified in every detail (statistics of unknown origin, say)."""


class CacheWarning(FastFIDWarning):
    """Something could not be taken from the cache or put there; the result is the same, but was, or will be, redone."""
