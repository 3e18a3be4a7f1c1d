"""What statistics say about themselves: read from a file, and joined when two of them are merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fastfid.errors import IncomparableError

_IDENTITY = ("fingerprint", "extractor", "weights_sha256")
_LISTS = ("source", "skipped", "skipped_reasons", "shards")
_SETS = ("unread",)
"""Lists in which shards of one set say the same."""


def parsed(text: str, *, strict: bool, where: str = "") -> dict[str, Any]:
    """The JSON object in ``text``; where that is something else, {}, or a ValueError if ``strict``.

    What says how statistics were made (there is a "fingerprint") is checked by type, since it decides what they may be
    compared with.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if strict:
            raise ValueError(f"{where} [metadata]: no JSON: {error}") from error
        return {}
    if not isinstance(found, dict):
        if strict:
            raise ValueError(f"{where} [metadata]: JSON of a {type(found).__name__}; accepted: an object")
        return {}
    if strict and "fingerprint" in found:
        _check_types(found, where)
    return found


def _check_types(metadata: Mapping[str, Any], where: str) -> None:
    for key, (accepted, check) in _TYPES.items():
        if key == "protocol" and key not in metadata:
            raise ValueError(f"{where} [metadata]: a fingerprint without a protocol")
        if key in metadata and not check(metadata[key]):
            raise ValueError(f"{where} [metadata]: {key} is {metadata[key]!r:.80}; accepted: {accepted}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_shards(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and all(type(number) is int for number in entry[1:])
        and 0 <= entry[1] < entry[2]
        for entry in value
    )


_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("fingerprint", "protocol", "extractor", "metric", "precision"), ("a text", _is_text)),
    **dict.fromkeys(("weights", "weights_sha256", "tap"), ("a text or null", _is_text_or_none)),
    "source": ("a text or a list", lambda value: isinstance(value, (str, list))),
    **{key: ("a list", lambda value: isinstance(value, list)) for key in ("skipped", "notes")},
    "n": ("a whole number or null", _is_count),
    "shards": ("a list of [set, INDEX, OF] with 0 ≤ INDEX < OF", _is_shards),
}


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
    return {key: value for key, value in theirs.items() if key not in (*_LISTS, *_SETS)}


def joined(mine: Mapping[str, Any], theirs: Mapping[str, Any], n: int | None) -> dict[str, Any]:
    """``mine`` for the union of both sets: its count ``n``, both sources, and everything that either left out."""
    result = dict(mine)
    if "n" in result:
        result["n"] = n
    for key in _LISTS:
        if key in mine or key in theirs:
            result[key] = [entry for side in (mine, theirs) for entry in _entries(side.get(key, []))]
    for key in _SETS:
        if key in mine or key in theirs:
            said = _entries(mine.get(key, []))
            result[key] = said + [entry for entry in _entries(theirs.get(key, [])) if entry not in said]
    return result


def _entries(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
