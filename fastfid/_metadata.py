"""What statistics say about themselves: read from a file, and joined when two of them are merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastfid.errors import IncomparableError

_IDENTITY = ("fingerprint", "extractor", "weights_sha256")
_LISTS = ("source", "skipped", "shards")


def parsed(text: str) -> dict[str, Any]:
    """The JSON object in ``text``, or {} where that is something else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def require_alike(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse features of two protocols, networks or weights; a side that does not say passes."""
    for key in _IDENTITY:
        if key in mine and key in theirs and mine[key] != theirs[key]:
            raise IncomparableError(
                f"other: its metadata has {key}={theirs[key]!r}, these Moments have {mine[key]!r}; "
                "only features of one protocol, network and weights can be merged"
            )


def require_disjoint(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse to count a shard twice."""
    twice = [shard for shard in theirs.get("shards", []) if shard in mine.get("shards", [])]
    if twice:
        source, index, of = twice[0]
        raise IncomparableError(f"other: shard {index}/{of} of {source!r} is in these Moments already")


def missing_shards(metadata: Mapping[str, Any]) -> list[str]:
    """The shards that statistics lack of the sets they hold others of, as "INDEX/OF of 'set'"."""
    have = metadata.get("shards", [])
    wholes = dict.fromkeys((source, of) for source, _, of in have)
    wanted = [[source, index, of] for source, of in wholes for index in range(of)]
    return [f"{index}/{of} of {source!r}" for source, index, of in wanted if [source, index, of] not in have]


def of_one(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What an empty side takes over: everything but the lists, which ``joined`` fills."""
    return {key: value for key, value in theirs.items() if key not in _LISTS}


def joined(mine: Mapping[str, Any], theirs: Mapping[str, Any], n: int | None) -> dict[str, Any]:
    """``mine`` for the union of both sets: its count ``n``, both sources, and everything that either left out."""
    result = dict(mine)
    if "n" in result:
        result["n"] = n
    for key in _LISTS:
        if key in mine or key in theirs:
            result[key] = [entry for side in (mine, theirs) for entry in _entries(side.get(key, []))]
    return result


def _entries(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
