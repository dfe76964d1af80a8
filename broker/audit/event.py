"""What the trail records: one event, a closed set of kinds, no field that can hold a value. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum


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
