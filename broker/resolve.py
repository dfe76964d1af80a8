"""The use case: references in, values out, in the one order that keeps them safe (docs/one-request.md).

Policy is asked before the cache and before the provider, so a refusal never depends on whether a secret
exists. The event is durable before a value is returned. Everything else may change; these two may not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.admission import Admission, Admitted, Policy, PolicySource
from broker.audit.event import EventKind, EventSink, Outcome, ReferenceRecord
from broker.cache.remembered import Cached
from broker.errors import FetchError, MalformedReferenceError, ReferenceCountError
from broker.identity import PeerIdentity
from broker.leases.held import Asker
from broker.limits.byte_budget import UNCOUNTED
from broker.limits.in_flight import Claim
from broker.metrics import Metrics
from broker.peer_address import Address
from broker.policy.decision import Allow, Decision, Deny
from broker.reference import Reference, Source, parse
from broker.resolution.items import (
    WITHHELD,
    Fingerprints,
    Item,
    denied_item,
    failed_item,
    granted_item,
    malformed_item,
    resolution_of,
    too_old,
    too_old_item,
)
from broker.resolution.previous import overlaps_of
from broker.resolution.results import Granted, Require, Resolution
from broker.sources import Freshness, Sources

_MAX_PARSED: Final = 4096

_Parsed = Reference | MalformedReferenceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What an asker wants beyond what policy gives; it never loosens what policy says.

    Attributes:
        max_age: Seconds since the read that a value may have.
        min_versions: The least version of references, by their texts.
        previous: Whether what has an overlap running comes with the version before.

    """

    max_age: float | None = None
    min_versions: Mapping[str, int] = field(default_factory=dict)
    previous: bool = False


class ResolveReferences:
    """Answer one request of one peer."""

    def __init__(
        self,
        *,
        admission: Admission,
        policy: PolicySource,
        sources: Sources,
        trail: EventSink,
        fingerprints: Fingerprints,
        metrics: Metrics,
        max_references: int,
    ) -> None:
        """Keep the collaborators; `max_references` bounds one request."""
        self._admission = admission
        self._policy = policy
        self._sources = sources
        self._trail = trail
        self._fingerprints = fingerprints
        self._metrics = metrics
        self._max_references = max_references
        self._parsed: dict[str, Reference] = {}

    async def resolve(
        self,
        *,
        peer: PeerIdentity,
        unverified_token: str | None,
        texts: Sequence[str],
        require: Require,
        address: Address,
        request: str,
        wishes: Wishes,
        claim: Claim,
    ) -> Resolution:
        """Return what `peer` may have of `texts`, after that is on record; `claim` counts what that takes in memory.

        Raises:
            ReferenceCountError: There is no reference, or there are too many.
            IdentityRefusedError: The certificate names nobody, and policy does not know its fingerprint.
            TokenRefusedError: The token proves nothing.
            AuditUnavailableError: It can't be put on record, so nothing is revealed.
            StateUnavailableError: A source mints, and what it mints could not be remembered.

        """
        self._check_count(texts)
        asker = await self._admission.admit(
            peer=peer, unverified_token=unverified_token, address=address, request=request
        )
        parsed = {text: self._parse(text) for text in texts}
        decisions = self._decide(self._policy.current, asker, parsed.values())
        readings = await self._sources.read(
            decisions, _freshness(parsed, wishes), Asker(peer=peer, context=asker.context), claim
        )
        now = asker.context.now
        items = [self._item(text, parsed[text], decisions, readings, now=now) for text in texts]
        if wishes.previous:
            items = await self._with_previous(asker, parsed, decisions, readings, items, wishes.max_age, claim)
        resolution = resolution_of(items, require)
        size = sum([item.size for item in items])
        if size > UNCOUNTED and resolution.complete:
            items = await _with_room(items, size, readings, claim)
            resolution = resolution_of(items, require)
        await self._record(asker, items, resolution)
        return resolution

    def _check_count(self, texts: Sequence[str]) -> None:
        if not 1 <= len(texts) <= self._max_references:
            message = f"a request names 1 to {self._max_references} references; this one names {len(texts)}"
            raise ReferenceCountError(message)

    def _parse(self, text: str) -> _Parsed:
        known = self._parsed.get(text)
        if known is not None:
            return known
        try:
            reference = parse(text)
        except MalformedReferenceError as error:
            # Not remembered: a text that is no reference may be a secret at the wrong place.
            return error
        if len(self._parsed) >= _MAX_PARSED:
            self._parsed.clear()
        self._parsed[text] = reference
        return reference

    def _decide(self, policy: Policy, asker: Admitted, parsed: Iterable[_Parsed]) -> Mapping[Reference, Decision]:
        references = [reference for reference in parsed if isinstance(reference, Reference)]
        decisions = policy.decide_all(identity=asker.peer, references=references, context=asker.context)
        return dict(zip(references, decisions, strict=True))

    def _item(
        self,
        text: str,
        reference: _Parsed,
        decisions: Mapping[Reference, Decision],
        readings: Mapping[Source, Cached | FetchError],
        *,
        now: float,
    ) -> Item:
        if isinstance(reference, MalformedReferenceError):
            return malformed_item(text, reference)
        decision = decisions[reference]
        if isinstance(decision, Deny):
            return denied_item(text, reference, decision, self._sources.label_of(reference))
        reading = readings[reference.source]
        if isinstance(reading, Cached):
            if decision.younger_than is not None and too_old(decision, reading, now):
                return too_old_item(text, reference, decision, reading, self._sources.label_of(reference))
            try:
                return granted_item(text, reference, decision, reading, self._fingerprints)
            except FetchError as error:
                reading = error
        return failed_item(text, reference, decision, self._sources.label_of(reference), reading)

    async def _with_previous(
        self,
        asker: Admitted,
        parsed: Mapping[str, _Parsed],
        decisions: Mapping[Reference, Decision],
        readings: Mapping[Source, Cached | FetchError],
        items: Sequence[Item],
        max_age: float | None,
        claim: Claim,
    ) -> list[Item]:
        """Return `items`, each with the version before where that counts, is there, and may be had."""
        now = asker.context.now
        allowed = [reference for reference, decision in decisions.items() if isinstance(decision, Allow)]
        overlaps = overlaps_of(allowed, readings, now=now)
        before = {overlap.reference: overlap for overlap in overlaps.values()}
        decided = self._decide(self._policy.current, asker, before)
        # Read when the current one was, it may still be the version before that.
        versions = {overlap.reference.source: overlap.version for overlap in before.values()}
        older = await self._sources.read(
            decided, Freshness(max_age=max_age, versions=versions), Asker(peer=asker.peer, context=asker.context), claim
        )
        joined = []
        for item in items:
            reference = parsed[item.result.reference]
            overlap = overlaps.get(reference) if isinstance(reference, Reference) else None
            if overlap is not None:
                found = self._item(overlap.reference.text, overlap.reference, decided, older, now=now)
                if isinstance(found.result, Granted) and found.result.version == str(overlap.version):
                    item = item.with_previous(found, overlap.until)  # noqa: PLW2901  The same item, with one more fact.
            joined.append(item)
        return joined

    async def _record(self, asker: Admitted, items: Sequence[Item], resolution: Resolution) -> None:
        revealed = resolution.complete and any(isinstance(item.result, Granted) for item in items)
        if not revealed:
            items = [item.withheld() if isinstance(item.result, Granted) else item for item in items]
        outcome = Outcome.SUCCESS if revealed else Outcome.FAILURE
        await self._trail.append(
            asker.event(EventKind.RESOLVE, outcome, reason=resolution.worst or "", references=_records(items))
        )
        # Counted when it is durable: a withheld value was not answered.
        counts: dict[tuple[str, str], int] = {}
        for item in items:
            counted = (item.scheme, item.record.status)
            counts[counted] = counts.get(counted, 0) + 1
        for (scheme, status), count in counts.items():
            if status != WITHHELD:
                self._metrics.references(provider=scheme, outcome=status, count=count)


def _freshness(parsed: Mapping[str, _Parsed], wishes: Wishes) -> Freshness:
    versions: dict[Source, int] = {}
    for text, version in wishes.min_versions.items():
        reference = parsed.get(text)
        if isinstance(reference, Reference):
            versions[reference.source] = max(version, versions.get(reference.source, 0))
    return Freshness(max_age=wishes.max_age, versions=versions)


async def _with_room(
    items: Sequence[Item], size: int, readings: Mapping[Source, Cached | FetchError], claim: Claim
) -> list[Item]:
    """Return `items` when there is room for an answer of `size` bytes, else with no value among them."""
    documents = [reading.reading.document for reading in readings.values() if isinstance(reading, Cached)]
    try:
        await claim.answer(size, documents)
    except FetchError as error:
        return [item.without_value(error) for item in items]
    return list(items)


def _records(items: Iterable[Item]) -> list[ReferenceRecord]:
    records = []
    for item in items:
        records.append(item.record)
        if item.previous is not None:
            records.append(item.previous.record)
    return records
