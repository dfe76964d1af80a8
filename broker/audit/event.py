"""What the trail records: one event, a closed set of kinds, no field that can hold a value. Pure.

`canonical` is the one form in which an event is hashed and kept: RFC 8785 (JCS) for integers and
strings, with every text that somebody outside chose cut and escaped first.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

MAX_REFERENCE_CHARACTERS: Final = 1024
# A SPIFFE id may have 2,048 bytes, and nothing else from outside is longer than a name.
MAX_TEXT_CHARACTERS: Final = 2048
MAX_INTEGER: Final = 2**53 - 1
CUT: Final = "\u2026"
# C0, DEL, C1 (CSI is 0x9B), zero-width and direction marks, line and paragraph separators, bidi controls,
# invisible operators, lone surrogates, the byte order mark, tags: everything that changes what a terminal
# or a log reader shows without showing itself.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class EventKind(StrEnum):
    """Everything that is ever recorded."""

    START = "start"
    STOP = "stop"
    CONFIGURATION = "configuration"
    POLICY = "policy"
    HANDSHAKE = "handshake"
    AUTHENTICATION = "auth"
    RESOLVE = "resolve"
    TOKEN = "token"  # noqa: S105  A kind of event, not a credential.
    # The trail about itself: its beginning (record 1), and each time when it could be written again.
    CHECKPOINT = "checkpoint"


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRecord:
    """What became of one reference of a request. `fingerprint` is a keyed hash of the value."""

    reference: str
    status: str
    reason: str = ""
    rule: str = ""
    version: str = ""
    fingerprint: str = ""
    upstream_request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One thing that happened. Texts from outside are cleaned by `canonical`, not by the caller.

    Attributes:
        kind: What happened.
        outcome: How it ended.
        identity: The peer's name (`PeerIdentity.name`), empty before it is known.
        environment: The identity's environment, empty when unknown.
        address: The peer's network address, empty for the broker's own events.
        request: The request id, empty outside requests.
        reason: A slug from a closed set.
        token: The `jti` of the presented or issued token.
        references: One record a reference, in the order asked.
        details: Further facts, keys and values from the broker's own code only.

    """

    kind: EventKind
    outcome: Outcome
    identity: str = ""
    environment: str = ""
    address: str = ""
    request: str = ""
    reason: str = ""
    token: str = ""
    references: tuple[ReferenceRecord, ...] = ()
    details: dict[str, str | int] = field(default_factory=dict)


def clean(text: str, *, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Return `text` cut to `limit` characters, with everything invisible or moving spelled out as an escape."""
    if len(text) > limit:
        text = text[: limit - 1] + CUT
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_spell_out, text)


def rfc3339(milliseconds: int) -> str:
    """Return the wall time as RFC 3339 text in UTC with three digits of a second."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03}Z"


def canonical(event: AuditEvent, *, trail_id: str, seq: int, prev: str, time: str) -> bytes:
    """Return the bytes of one record: what is hashed, kept, and never serialised again.

    Args:
        event: What happened.
        trail_id: The trail that it belongs to, in hex.
        seq: Its number in that trail, from 1.
        prev: The hash of the record before, in hex.
        time: When it happened, as `rfc3339` writes it.

    """
    record: dict[str, object] = {
        "kind": event.kind.value,
        "outcome": event.outcome.value,
        "prev": prev,
        "seq": seq,
        "time": time,
        "trail_id": trail_id,
    }
    for name in ("identity", "environment", "address", "request", "reason", "token"):
        if text := getattr(event, name):
            record[name] = clean(text)
    if event.references:
        record["references"] = [_reference(reference) for reference in event.references]
    if event.details:
        record["details"] = {clean(name): _detail(value) for name, value in event.details.items()}
    return _ENCODE(record).encode()


def _reference(record: ReferenceRecord) -> dict[str, str]:
    """Return the filled fields of one reference, cleaned; twenty of these are made for each request."""
    fields = {
        "reference": record.reference,
        "status": record.status,
        "reason": record.reason,
        "rule": record.rule,
        "version": record.version,
        "fingerprint": record.fingerprint,
        "upstream_request": record.upstream_request,
    }
    # One look at all the texts together decides; most records need no cleaning at all.
    together = "".join(fields.values())
    if len(together) <= MAX_REFERENCE_CHARACTERS and together.isascii() and together.isprintable():
        return {name: text for name, text in fields.items() if text}
    return {name: clean(text, limit=MAX_REFERENCE_CHARACTERS) for name, text in fields.items() if text}


def _detail(value: str | int) -> str | int:
    if isinstance(value, str):
        return clean(value)
    # JSON readers lose digits past 2^53, and RFC 8785 refuses them, so such a number is kept as text.
    return int(value) if -MAX_INTEGER <= value <= MAX_INTEGER else str(value)


def _spell_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  The end of the basic plane.
