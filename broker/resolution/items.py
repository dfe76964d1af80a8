"""The references of one request on their way: what their asker is told, and what the audit keeps of each."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, replace
from json.encoder import encode_basestring_ascii
from typing import Final, Protocol

from broker.audit.event import ReferenceRecord
from broker.cache.remembered import Cached
from broker.errors import (
    FetchError,
    MalformedReferenceError,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.policy.decision import Allow, Deny, DenyReason
from broker.reference import Reference
from broker.resolution.results import WORST_FIRST, Granted, Previous, Refused, Require, Resolution, Status
from broker.secret import SecretValue

WITHHELD: Final = "withheld"
_MAX_DERIVED: Final = 1024
_SMALL_DECODED: Final = 4096
# Bytes around a value in an answer: names, clocks and a lease.
_AROUND: Final = 400
TOO_OLD_CODE: Final = "secret_too_old"
# Told only to those whom policy allows the reference: the secret is there, and has not been rotated for too long.
TOO_OLD_DETAIL: Final = "the secret is older than policy allows for you, or nobody knows how old; have it rotated"
DENIED_CODE: Final = "reference_denied"
# One text for every refusal: it must not tell whether the secret exists, nor which rule said no.
DENIED_DETAIL: Final = "policy does not give you this reference"


class Fingerprints(Protocol):
    """Names values by a keyed hash."""

    def of(self, value: SecretValue, /) -> str:
        """Return the keyed hash of a value."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One reference on its way.

    Attributes:
        scheme: The provider that it concerns, `none` when there is none; a label of a metric.
        result: What its asker is told.
        record: What the audit keeps of it.
        size: Bytes that its value takes in an answer, with what is told about it; 0 without one.
        previous: The item of the version before, whose value leaves with this one.

    """

    scheme: str
    result: Granted | Refused
    record: ReferenceRecord
    size: int = 0
    previous: "Item | None" = None

    def withheld(self) -> "Item":
        """Return the item of a value that stays here, because another reference of the request failed."""
        previous = None if self.previous is None else self.previous.withheld()
        return replace(self, record=replace(self.record, status=WITHHELD, fingerprint=""), previous=previous)

    def without_value(self, error: FetchError) -> "Item":
        """Return the item as one whose value can't leave because of `error`; it stays as it is if it has none."""
        if not isinstance(self.result, Granted):
            return self
        status, reason = _status_of(error)
        record = ReferenceRecord(reference=self.record.reference, status=status, reason=reason, rule=self.record.rule)
        return Item(self.scheme, _failed(self.result.reference, status, error), record)

    def with_previous(self, before: "Item", until: float) -> "Item":
        """Return the item with the value of `before`, the version before, which counts until the wall time `until`."""
        current, older = self.result, before.result
        if not isinstance(current, Granted) or not isinstance(older, Granted):
            return self
        previous = Previous(value=older.value, version=older.version or "", until=until)
        return replace(self, result=replace(current, previous=previous), size=self.size + before.size, previous=before)


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
    record = ReferenceRecord(reference="", status=refused.status, reason=f"malformed_at_{error.position}")
    return Item("none", refused, record)


def denied_item(text: str, reference: Reference, decision: Deny, scheme: str) -> Item:
    """Return the item of a reference that policy refuses."""
    refused = Refused(reference=text, status=Status.DENIED, code=DENIED_CODE, detail=DENIED_DETAIL)
    record = ReferenceRecord(
        reference=reference.text, status=refused.status, reason=decision.reason, rule=decision.rule or ""
    )
    return Item(scheme, refused, record)


def too_old(decision: Allow, cached: Cached, now: float) -> bool:
    """Tell whether the secret is older than the decision allows at the wall time `now`; so is one of unknown age."""
    if decision.younger_than is None:
        return False
    # What is leased was made for its asker, when it was fetched.
    written = cached.fetched_at if cached.lease is not None else cached.reading.created_at
    return written is None or now - written >= decision.younger_than


def too_old_item(text: str, reference: Reference, decision: Allow, cached: Cached, scheme: str) -> Item:
    """Return the item of an allowed reference whose secret is too old."""
    refused = Refused(reference=text, status=Status.DENIED, code=TOO_OLD_CODE, detail=TOO_OLD_DETAIL)
    record = ReferenceRecord(
        reference=reference.text,
        status=refused.status,
        reason=DenyReason.AGE,
        rule=decision.rule,
        version=cached.reading.version or "",
        owner=cached.reading.facts.owner,
        classification=cached.reading.facts.classification,
    )
    return Item(scheme, refused, record)


def failed_item(text: str, reference: Reference, decision: Allow, scheme: str, error: FetchError) -> Item:
    """Return the item of an allowed reference that gave no value."""
    status, reason = _status_of(error)
    record = ReferenceRecord(
        reference=reference.text, status=status, reason=reason, rule=decision.rule, words=error.words
    )
    return Item(scheme, _failed(text, status, error), record)


def granted_item(text: str, reference: Reference, decision: Allow, cached: Cached, fingerprints: Fingerprints) -> Item:
    """Return the item of a reference that has its value; the same one as long as the reading is the same.

    Raises:
        SecretMissingError: The secret is there, and the field is not.
        SecretUnusableError: The value can't be written in an answer, or can't be decoded as asked.

    """
    known = cached.derived.get((text, decision.rule))
    if isinstance(known, Item):
        return known
    granted = Granted(
        reference=text,
        status=Status.STALE if cached.stale else Status.OK,
        value=_value(reference, cached),
        version=cached.reading.version,
        fetched_at=cached.fetched_at,
        fresh_until=cached.fresh_until,
        stale_until=cached.stale_until,
        lease=cached.lease,
    )
    record = ReferenceRecord(
        reference=reference.text,
        status=granted.status,
        rule=decision.rule,
        version=granted.version or "",
        fingerprint=fingerprints.of(granted.value),
        upstream_request=cached.reading.upstream_request or "",
        owner=cached.reading.facts.owner,
        classification=cached.reading.facts.classification,
    )
    size = _AROUND + len(encode_basestring_ascii(text)) + granted.value.answer_size
    item = Item(reference.source.scheme, granted, record, size)
    if len(cached.derived) < _MAX_DERIVED and _is_kept(reference, cached, granted.value):
        cached.derived[text, decision.rule] = item
    return item


def _is_kept(reference: Reference, cached: Cached, value: SecretValue) -> bool:
    """Tell whether an item with `value` takes next to no memory, of which the cache counts the document alone."""
    if reference.decode is None:
        return cached.reading.document.keeps(reference.pointer)
    return value.size <= _SMALL_DECODED


def _value(reference: Reference, cached: Cached) -> SecretValue:
    value = cached.reading.document.select(reference.pointer)
    if reference.decode is None:
        return value
    try:
        return SecretValue.from_bytes(base64.b64decode(value.reveal(), validate=True))
    except (binascii.Error, ValueError):
        message = "the value is there and is no base64, so `decode=base64` can't be applied"
        raise SecretUnusableError(message) from None


def _failed(text: str, status: Status, error: FetchError) -> Refused:
    return Refused(
        reference=text,
        status=status,
        code=error.code,
        detail=error.detail,
        retry_after=error.retry_after if isinstance(error, SourceUnavailableError) else None,
    )


def _status_of(error: FetchError) -> tuple[Status, str]:
    if isinstance(error, SecretMissingError):
        return Status.MISSING, error.part
    if isinstance(error, UpstreamDeniedError):
        return Status.DENIED, error.code
    if isinstance(error, SecretUnusableError):
        return Status.INVALID, error.code
    return Status.UNAVAILABLE, error.code
