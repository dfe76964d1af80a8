"""What becomes of the references of one request: the results that may leave, and what the audit needs of each."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from broker.cache import Cached
from broker.errors import (
    FetchError,
    MalformedReferenceError,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.policy.decision import Allow, Deny
from broker.reference import Reference
from broker.secret import SecretValue

DENIED_CODE: Final = "reference_denied"
# One text for every refusal: it must not tell whether the secret exists, nor which rule said no.
DENIED_DETAIL: Final = "policy does not give you this reference"


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
class Granted:
    """A value, with its clocks in wall seconds. `reference` is as it was asked."""

    reference: str
    status: Status
    value: SecretValue
    version: str | None
    fetched_at: float
    fresh_until: float
    stale_until: float


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


@dataclass(frozen=True, slots=True)
class Item:
    """One reference on its way: its result, and what its record says beside that.

    Attributes:
        scheme: The provider that it concerns, `none` when there is none; a label of a metric.
        result: What its asker is told.
        reference: Its canonical text; empty when it is malformed, because that may be a secret at the wrong place.
        reason: Why it failed, as a slug.
        rule: The rule of the policy that decided.
        upstream_request: The source's own id of the read.

    """

    scheme: str
    result: Granted | Refused
    reference: str
    reason: str = ""
    rule: str = ""
    upstream_request: str = ""


def resolution_of(items: Sequence[Item], require: Require) -> Resolution:
    """Return what may leave of `items`."""
    refused = tuple(item.result for item in items if isinstance(item.result, Refused))
    worst = next((status for status in WORST_FIRST for result in refused if result.status is status), None)
    if require is Require.ALL and refused:
        return Resolution(complete=False, results=refused, worst=worst)
    return Resolution(complete=True, results=tuple(item.result for item in items), worst=worst)


def malformed_item(text: str, error: MalformedReferenceError) -> Item:
    """Return the item of a text that is no reference."""
    refused = Refused(
        reference=text, status=Status.INVALID, code=error.code, detail=error.detail, position=error.position
    )
    return Item("none", refused, "", reason=f"malformed_at_{error.position}")


def denied_item(text: str, reference: Reference, decision: Deny | None, scheme: str) -> Item:
    """Return the item of a reference that policy refuses."""
    refused = Refused(reference=text, status=Status.DENIED, code=DENIED_CODE, detail=DENIED_DETAIL)
    reason = "" if decision is None else decision.reason
    return Item(scheme, refused, reference.text, reason=reason, rule="" if decision is None else decision.rule or "")


def failed_item(text: str, reference: Reference, decision: Allow, scheme: str, error: FetchError) -> Item:
    """Return the item of an allowed reference that gave no value."""
    status, reason = _status_of(error)
    refused = Refused(
        reference=text,
        status=status,
        code=error.code,
        detail=error.detail,
        retry_after=error.retry_after if isinstance(error, SourceUnavailableError) else None,
    )
    return Item(scheme, refused, reference.text, reason=reason, rule=decision.rule)


def granted_item(text: str, reference: Reference, decision: Allow, scheme: str, cached: Cached) -> Item:
    """Return the item of a reference that has its value.

    Raises:
        SecretMissingError: The secret is there, and the field is not.
        SecretUnusableError: The value can't be written in an answer, or can't be decoded as asked.

    """
    granted = Granted(
        reference=text,
        status=Status.STALE if cached.stale else Status.OK,
        value=_value(reference, cached),
        version=cached.reading.version,
        fetched_at=cached.fetched_at,
        fresh_until=cached.fresh_until,
        stale_until=cached.stale_until,
    )
    return Item(
        scheme,
        granted,
        reference.text,
        rule=decision.rule,
        upstream_request=cached.reading.upstream_request or "",
    )


def _value(reference: Reference, cached: Cached) -> SecretValue:
    value = cached.reading.document.select(reference.pointer)
    if reference.decode is None:
        return value
    try:
        return SecretValue.from_bytes(base64.b64decode(value.reveal(), validate=True))
    except (binascii.Error, ValueError):
        message = "the value is there and is no base64, so `decode=base64` can't be applied"
        raise SecretUnusableError(message) from None


def _status_of(error: FetchError) -> tuple[Status, str]:
    if isinstance(error, SecretMissingError):
        return Status.MISSING, error.part
    if isinstance(error, UpstreamDeniedError):
        return Status.DENIED, error.code
    if isinstance(error, SecretUnusableError):
        return Status.INVALID, error.code
    return Status.UNAVAILABLE, error.code
