"""What may leave of the references of one request: a value or a precise error each, in the order asked."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.cache.remembered import LeaseFacts
from broker.secret import SecretValue


class Require(StrEnum):
    """What an answer needs: every value, or as many as there are."""

    ALL = "all"
    ANY = "any"


class Status(StrEnum):
    """What became of one reference."""

    OK = "ok"
    STALE = "stale"
    DENIED = "denied"
    MISSING = "missing"
    UNAVAILABLE = "unavailable"
    INVALID = "invalid"


# The order in which the failures of one request compete for its one status.
WORST_FIRST: Final = (Status.INVALID, Status.DENIED, Status.MISSING, Status.UNAVAILABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """The version before, which counts until the wall time `until`."""

    value: SecretValue
    version: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A value, with its clocks in wall seconds. `reference` is as it was asked."""

    reference: str
    status: Status
    value: SecretValue
    version: str | None
    fetched_at: float
    fresh_until: float
    stale_until: float
    lease: LeaseFacts | None = None
    previous: Previous | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A precise error. `reference` is as it was asked; `position` only where its text is malformed."""

    reference: str
    status: Status
    code: str
    detail: str
    position: int | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What may leave: one result a reference in the order asked, or only what failed when `complete` is false."""

    complete: bool
    results: tuple[Granted | Refused, ...]
    worst: Status | None
