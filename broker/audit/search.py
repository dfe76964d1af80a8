"""Find records of a trail: by kind, outcome, time, identity and reference."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from broker.audit.chain import TrailRecord
from broker.audit.event import MAX_REFERENCE_CHARACTERS, EventKind, Outcome
from broker.escape import clean

_ANY_END: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a record must be like; None and empty ask for nothing.

    Attributes:
        kind: The event's kind.
        outcome: How it ended.
        since_ms: Not before this wall time, in milliseconds.
        until_ms: Before this wall time, in milliseconds.
        identity: The peer's name; with `*` at its end, any name that begins so.
        reference: A canonical reference that the event is about; `*` as for `identity`.
        request: The id of the request that the event belongs to.
        after: Only records with a larger number.
        limit: Only so many, the newest ones.

    """

    kind: EventKind | None = None
    outcome: Outcome | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    identity: str = ""
    reference: str = ""
    request: str = ""
    after: int = 0
    limit: int | None = None


class TrailReader(Protocol):
    """Read a trail beside the broker that writes it."""

    def records(self, query: Query, /, *, newest_first: bool = False) -> Iterator[TrailRecord]:
        """Return the records that fit, by number; `reference`, `request` and `limit` are left to the caller.

        Raises:
            SettingsInvalidError: The store can't be read.

        """
        ...

    def checkpoints(self) -> Iterator[bytes]:
        """Return every signed checkpoint in the order in which they were kept. Raises: SettingsInvalidError."""
        ...


def search(reader: TrailReader, *, query: Query) -> Iterator[TrailRecord]:
    """Return the records that fit `query`, newest last.

    Raises:
        SettingsInvalidError: The store can't be read.

    """
    if query.limit is None:
        return (record for record in reader.records(query) if _fits(record, query))
    newest: list[TrailRecord] = []
    if query.limit > 0:
        for record in reader.records(query, newest_first=True):
            if _fits(record, query):
                newest.append(record)
                if len(newest) == query.limit:
                    break
    return reversed(newest)


def matches(text: str, wanted: str) -> bool:
    """Tell whether `text` is `wanted`, or begins like it where that ends with `*`."""
    if wanted.endswith(_ANY_END):
        return text.startswith(wanted[:-1])
    return text == wanted


def _fits(record: TrailRecord, query: Query) -> bool:
    return _is_about(record, query.reference) and _belongs_to(record, query.request)


def _belongs_to(record: TrailRecord, request: str) -> bool:
    if not request:
        return True
    if json.dumps(request, ensure_ascii=False).encode() not in record.body:
        return False
    try:
        return bool(json.loads(record.body).get("request") == request)
    except (ValueError, AttributeError):
        return False


def _is_about(record: TrailRecord, reference: str) -> bool:
    if not reference:
        return True
    wanted = clean(reference, limit=MAX_REFERENCE_CHARACTERS)
    needle = json.dumps(wanted.removesuffix(_ANY_END), ensure_ascii=False)[1:-1].encode()
    # Most bodies are ruled out by their bytes, without being parsed.
    if needle not in record.body:
        return False
    try:
        entries = json.loads(record.body).get("references", [])
        return any(matches(entry["reference"], wanted) for entry in entries)
    except (ValueError, TypeError, KeyError, AttributeError):
        # A body that is no longer what was written is for `verify` to report.
        return False
