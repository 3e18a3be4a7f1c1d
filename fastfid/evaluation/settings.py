"""Every option once: its name, its type, what it is by itself, and its check."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import torch

from fastfid.extractors import PRECISIONS, TAPS, Extractor
from fastfid.protocols import DEFAULT, Protocol
from fastfid.protocols import protocol as find_protocol
from fastfid.runtime.checks import whole_number
from fastfid.sources import WHOLE, Key, Shard


class Options(TypedDict, total=False):
    """What ``fid``, ``stats`` and ``Evaluator`` take by keyword; ``fastfid.fid`` describes each."""

    protocol: str | Protocol
    tap: str | None
    extractor: Any
    weights: str | os.PathLike[str] | None
    precision: str
    device: str | torch.device
    batch_size: int
    num_workers: int | None
    limit: int | None
    seed: int
    skip_bad: bool
    certify: bool | None
    progress: bool | None
    distributed: bool | str
    timeout: float | None
    cache: str | os.PathLike[str] | None
    checkpoint: str | os.PathLike[str] | None
    shard: Shard | str | tuple[int, int] | None
    key: Key


@dataclass(frozen=True)
class Settings:
    """The options of one call, checked by ``of``: a Protocol with the tap that is read, a Shard, whole numbers."""

    protocol: Protocol
    tap: str | None = None
    extractor: Any = None
    weights: str | os.PathLike[str] | None = None
    precision: str = "fp32"
    device: str | torch.device = "auto"
    batch_size: int = 50
    num_workers: int | None = None
    limit: int | None = None
    seed: int = 0
    skip_bad: bool = False
    certify: bool | None = None
    progress: bool | None = None
    distributed: bool | str = False
    timeout: float | None = None
    cache: str | os.PathLike[str] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    shard: Shard = WHOLE
    key: Key = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """The options that were given, checked, and the others as they are by themselves."""
        made = cls(**{**options, "protocol": find_protocol(options.get("protocol", DEFAULT))})
        if made.extractor is not None and (
            made.weights is not None or made.tap is not None or made.precision != "fp32"
        ):
            raise ValueError(
                "extractor replaces the Inception network; weights, tap and precision belong to that; leave them out"
            )
        tap = made.tap
        if tap is not None and (not isinstance(tap, str) or tap not in TAPS):
            raise ValueError(f"tap={tap!r} is not a layer that can be read; accepted: {', '.join(TAPS)}")
        if not isinstance(made.precision, str) or made.precision not in PRECISIONS:
            raise ValueError(f"precision={made.precision!r} is not known; accepted: {', '.join(PRECISIONS)}")
        if isinstance(made.extractor, Extractor) and made.extractor.taps != ("",):
            tap = made.extractor.taps[0]
        numbers: dict[str, Any] = {name: _whole(name, getattr(made, name), least) for name, least in _WHOLE.items()}
        chosen = made.protocol if tap is None else replace(made.protocol, tap=tap)
        return replace(made, protocol=chosen, shard=Shard.parse(made.shard), **numbers)


_WHOLE = {"batch_size": 1, "num_workers": 0, "limit": 1, "seed": 0}
"""Options that are whole numbers, and the least that each may be."""

_BY_ITSELF = {field.name: field.default for field in fields(Settings)}


def _whole(name: str, value: Any, least: int) -> int | None:
    return None if value is None and _BY_ITSELF[name] is None else whole_number(name, value, least=least)


def require_known(function: str, options: Collection[str], *, without: Collection[str] = ()) -> None:
    """TypeError where a name is no option of a function; the message has the nearest that is."""
    accepted = [name for name in _BY_ITSELF if name not in without]
    for name in options:
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() has no option {name!r}.{hint} Accepted: {', '.join(accepted)}")
