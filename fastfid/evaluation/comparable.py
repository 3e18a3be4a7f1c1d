"""Whether statistics belong together: made under one protocol, by one network, with one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastfid.errors import IncomparableError
from fastfid.moments import Moments
from fastfid.protocols import Protocol


def facts_of(given: object) -> Mapping[str, Any]:
    """What statistics say of how they were made; empty where they don't, or for images."""
    return given.metadata if isinstance(given, Moments) and given.metadata.get("fingerprint") else {}


def require_protocol(role: str, description: str, facts: Mapping[str, Any], protocol: Protocol) -> None:
    """Statistics that say how they were made must have been made as this comparison asks."""
    if not facts or facts["fingerprint"] == protocol.fingerprint():
        return
    name = f"{role}={description!r}"
    if facts.get("tap") is not None and facts["tap"] != protocol.tap:
        raise IncomparableError(
            f"{name} holds features of tap {facts['tap']!r}, this comparison is of {protocol.tap!r}; "
            f"pass tap={facts['tap']!r} (--tap {facts['tap']}), or make the statistics again"
        )
    how = f"protocol {facts['protocol']!r}"
    if facts["protocol"] == protocol.name:
        how = "other parameters of that protocol"
    raise IncomparableError(
        f"{name} was made with {how}, this comparison uses {protocol.name!r}; make the statistics again with "
        "that, or compare under the protocol they were made with"
    )


def require_network(role: str, description: str, theirs: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """IncomparableError where two sides were made by different networks or weights."""
    for key, shown in (("extractor", "extractor"), ("weights_sha256", "weights")):
        if theirs.get(key) != wanted.get(key):
            raise IncomparableError(
                f"{role}={description!r} was made with {shown} {theirs.get(shown)!r}, the other side with "
                f"{wanted.get(shown)!r}; make both with the same"
            )
