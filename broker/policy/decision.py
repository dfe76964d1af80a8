"""What policy answers: `Allow` or `Deny`, and the context that a decision may look at."""

from dataclasses import dataclass
from enum import StrEnum

from broker.pattern import Pattern
from broker.peer_address import Address


class DenyReason(StrEnum):
    """Why a reference is denied: for the audit and for `explain`, never for the caller."""

    UNKNOWN_IDENTITY = "unknown_identity"
    AMBIGUOUS_IDENTITY = "ambiguous_identity"
    ADMINISTRATOR = "administrator"
    NO_RULE = "no_rule"
    DENY_RULE = "deny_rule"
    CONDITION = "condition"
    ENVIRONMENT = "environment"
    SCOPE = "scope"
    AGE = "age"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The circumstances of one request.

    Attributes:
        address: Where the connection comes from.
        now: Wall time, seconds.
        scope: The patterns of the presented token, or None when no token was presented.

    """

    address: Address
    now: float
    scope: tuple[Pattern, ...] | None = None


@dataclass(frozen=True, slots=True)
class Allow:
    """The reference may be resolved; `rule` is its name, the clocks are in seconds.

    With `younger_than` (seconds) it may be resolved only if the secret that is read was written less than that ago.
    """

    rule: str
    fresh_for: float
    max_stale: float
    younger_than: float | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """The reference may not be resolved; `rule` names the deny rule where one did it."""

    reason: DenyReason
    rule: str | None = None


Decision = Allow | Deny
