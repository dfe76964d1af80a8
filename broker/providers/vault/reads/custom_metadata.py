"""What the owner of a secret says about it in `custom_metadata`: texts and durations by fixed names."""

from typing import Final

from broker.duration import parse_duration
from broker.secret import Facts

_MAX_TEXT: Final = 256
_DURATIONS: Final = ("max_age", "rotation_age", "overlap")


def read_facts(custom: object) -> tuple[Facts, tuple[str, ...]]:
    """Return the facts, and the names of those that are there and can't be read; everything else is the owner's own."""
    if not isinstance(custom, dict):
        return Facts(), ()
    unreadable = []
    durations: dict[str, float] = {}
    for name in _DURATIONS:
        if name in custom:
            try:
                durations[name] = parse_duration(str(custom[name]))
            except ValueError:
                unreadable.append(name)
    texts = {name: str(custom.get(name, ""))[:_MAX_TEXT] for name in ("owner", "classification")}
    return Facts(
        **texts,
        max_age=durations.get("max_age"),
        rotation_age=durations.get("rotation_age"),
        overlap=durations.get("overlap"),
    ), tuple(unreadable)
