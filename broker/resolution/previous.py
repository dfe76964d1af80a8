"""The version before the current one, which verifiers accept too while a rotation goes through.

The owner of a secret says in its metadata how long the overlap is. Policy decides about the previous version by a
reference of its own, so that nobody gets it who might not ask for it by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.cache.remembered import Cached
from broker.errors import FetchError
from broker.grammar import PREVIOUS
from broker.reference import Reference, Source, spell

_FIRST: Final = 1


@dataclass(frozen=True, slots=True)
class Overlap:
    """One reference whose previous version still counts: its own reference, its number, and its end in wall time."""

    reference: Reference
    version: int
    until: float


def overlaps_of(
    references: Iterable[Reference], readings: Mapping[Source, Cached | FetchError], *, now: float
) -> Mapping[Reference, Overlap]:
    """Return for which of `references`, all of them allowed, the previous version counts at the wall time `now`."""
    found = {}
    for reference in references:
        cached = readings[reference.source]
        if reference.source.version is None and isinstance(cached, Cached):
            overlap = _overlap_of(reference, cached, now)
            if overlap is not None:
                found[reference] = overlap
    return found


def _overlap_of(reference: Reference, cached: Cached, now: float) -> Overlap | None:
    reading = cached.reading
    if reading.facts.overlap is None or reading.created_at is None or not (reading.version or "").isdecimal():
        return None
    version, until = int(reading.version or 0), reading.created_at + reading.facts.overlap
    if version <= _FIRST or now >= until:
        return None
    source = reference.source._replace(version=PREVIOUS)
    text = spell(source, reference.pointer, reference.decode)
    return Overlap(Reference(source, reference.pointer, reference.decode, text), version - 1, until)
