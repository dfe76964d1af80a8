"""What the trail records: one event, a closed set of kinds, no field that can hold a value. Pure.

`canonical` is the one form in which an event is hashed and kept: RFC 8785 (JCS) for integers and
strings, with every text that somebody outside chose cut and escaped first.
"""

import json
import json.encoder
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final, Protocol

from broker.escape import clean
from broker.source_words import SourceWords

MAX_REFERENCE_CHARACTERS: Final = 1024
MAX_INTEGER: Final = 2**53 - 1
_REFERENCE_MEMBERS: Final = (
    *("reference", "status", "reason", "rule", "version"),
    *("fingerprint", "upstream_request", "owner", "classification"),
)
_QUOTE: Final = json.encoder.encode_basestring
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
    LEASE = "lease"
    CACHE = "cache"
    WATCH = "watch"
    TOKEN = "token"  # noqa: S105  A kind of event, not a credential.
    # The trail about itself: its beginning (record 1), and each time when it could be written again.
    CHECKPOINT = "checkpoint"


class Outcome(StrEnum):
    """How it ended."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRecord:
    """What became of one reference of a request.

    Attributes:
        reference: Its canonical text; empty when it is malformed, because that may be a secret at the wrong place.
        status: What its asker was told, or `withheld`.
        reason: Why it failed, as a slug.
        rule: The rule of the policy that decided.
        version: The source's name of what was read.
        fingerprint: A keyed hash of the value.
        upstream_request: The source's own id of the read.
        owner: Who answers for the secret, in its own metadata.
        classification: How much harm it can do, in its own metadata.
        words: What the source was asked and what it said, where it refused; that type can hold no value.
        json: Its canonical form, made here once: the same answer is recorded again and again.

    """

    reference: str
    status: str
    reason: str = ""
    rule: str = ""
    version: str = ""
    fingerprint: str = ""
    upstream_request: str = ""
    owner: str = ""
    classification: str = ""
    words: SourceWords | None = None
    json: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the canonical form."""
        texts = {name: getattr(self, name) for name in _REFERENCE_MEMBERS}
        if self.words is not None:
            texts |= {"upstream_asked": self.words.asked, "upstream_said": self.words.said}
            texts["upstream_request"] = self.words.request
        filled = {name: clean(text, limit=MAX_REFERENCE_CHARACTERS) for name, text in texts.items() if text}
        object.__setattr__(self, "json", _ENCODE(filled))


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


class EventSink(Protocol):
    """Makes events durable."""

    async def append(self, event: AuditEvent, /) -> None:
        """Return when `event` is durable. Raises: AuditUnavailableError."""
        ...


def rfc3339(milliseconds: int) -> str:
    """Return the wall time as RFC 3339 text in UTC with three digits of a second."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{rest:03}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Return a whole second as text; thousands of records share one."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def canonical(event: AuditEvent, *, trail_id: str, seq: int, prev: str, time: str) -> bytes:
    """Return the bytes of one record: what is hashed, kept, and never serialised again.

    Args:
        event: What happened.
        trail_id: The trail that it belongs to, in hex.
        seq: Its number in that trail, from 1.
        prev: The hash of the record before, in hex.
        time: When it happened, as `rfc3339` writes it.

    """
    # The members in the order of their names, as RFC 8785 wants them.
    members = (
        _member("address", event.address),
        f'"details":{_details(event.details)}' if event.details else "",
        _member("environment", event.environment),
        _member("identity", event.identity),
        f'"kind":"{event.kind.value}","outcome":"{event.outcome.value}","prev":"{prev}"',
        _member("reason", event.reason),
        f'"references":[{",".join([reference.json for reference in event.references])}]' if event.references else "",
        _member("request", event.request),
        f'"seq":{seq},"time":"{time}"',
        _member("token", event.token),
        f'"trail_id":"{trail_id}"',
    )
    return f"{{{','.join([member for member in members if member])}}}".encode()


def _member(name: str, text: str) -> str:
    return f'"{name}":{_QUOTE(clean(text))}' if text else ""


def _details(details: Mapping[str, str | int]) -> str:
    return _ENCODE({clean(name): _detail(value) for name, value in details.items()})


def _detail(value: str | int) -> str | int:
    if isinstance(value, str):
        return clean(value)
    # JSON readers lose digits past 2^53, and RFC 8785 refuses them, so such a number is kept as text.
    return int(value) if -MAX_INTEGER <= value <= MAX_INTEGER else str(value)
