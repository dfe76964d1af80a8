"""The use case: an agent names its references once, and is told which change. Names and versions, never values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from broker.admission import Admission, Admitted, PolicySource
from broker.audit.event import EventKind, EventSink, Outcome, ReferenceRecord
from broker.cache.remembered import Clocks
from broker.changes.feed import ChangeFeed
from broker.changes.naming import Naming, texts_by_source
from broker.changes.subscription import LeaseOf, Subscription
from broker.clock import Clock
from broker.errors import ReferenceCountError
from broker.identity import PeerIdentity
from broker.leases.held import Asker
from broker.peer_address import Address
from broker.policy.decision import Allow, Deny
from broker.reference import Reference, Source
from broker.resolution.items import WITHHELD, Item, denied_item, malformed_item, resolution_of
from broker.resolution.results import Require, Resolution
from broker.watch_limits import Watchers, WatchLimits


@dataclass(slots=True, kw_only=True, eq=False)
class Watch:
    """One watch: who watches, what, and what is still to be told.

    Attributes:
        asker: Who watches.
        references: What is watched, by the texts that were asked.
        texts: Those texts, by their source.
        subscription: What is still to be told.
        decided_by: The policy that allowed it last.
        resumed: Whether the agent has missed nothing since it watched before.

    """

    asker: Admitted
    references: tuple[Reference, ...]
    texts: Mapping[Source, tuple[str, ...]]
    subscription: Subscription
    decided_by: object
    resumed: bool = False


class WatchedLeases(Protocol):
    """Knows who has which lease."""

    def watched(self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float) -> str | None:
        """Return the name of the lease of an asker who watches, "" when it should be replaced, None without one."""
        ...


class WatchReferences:
    """Begin and end watches."""

    def __init__(
        self,
        *,
        admission: Admission,
        policy: PolicySource,
        feed: ChangeFeed,
        leases: WatchedLeases,
        trail: EventSink,
        clock: Clock,
        limits: WatchLimits,
    ) -> None:
        """Keep the collaborators."""
        self._admission = admission
        self._policy = policy
        self._feed = feed
        self._leases = leases
        self._trail = trail
        self._clock = clock
        self._limits = limits
        self._watchers = Watchers(limits)
        self._naming = Naming()

    async def start(
        self,
        *,
        peer: PeerIdentity,
        unverified_token: str | None,
        texts: Sequence[str],
        versions: Mapping[str, str],
        after: str,
        address: Address,
        request: str,
    ) -> Watch | Resolution:
        """Return the watch, after it is on record, or what of `texts` is refused; then nothing is watched.

        `versions` are those that the agent has, by text; `after` is the last change that it was told of.

        Raises:
            ReferenceCountError: There is no reference, or there are too many.
            ThrottledError: The identity watches as much as one may.
            IdentityRefusedError: The certificate names nobody, and policy does not know its fingerprint.
            TokenRefusedError: The token proves nothing.
            AuditUnavailableError: It can't be put on record.

        """
        if not 1 <= len(texts) <= self._limits.max_references:
            message = f"a watch names 1 to {self._limits.max_references} references; this one names {len(texts)}"
            raise ReferenceCountError(message)
        asker = await self._admission.admit(
            peer=peer, unverified_token=unverified_token, address=address, request=request
        )
        named, malformed = self._naming.read(texts)
        refused = {text: malformed_item(text, error) for text, error in malformed.items()}
        references = {text: one.reference for text, one in named.items()}
        watched = tuple(references.values())
        policy = self._policy.current
        decided = self._decide(asker, watched)
        decisions = dict(zip(references, decided, strict=True))
        refused |= _denied(references, decisions)
        records = _records(texts, references, decisions, refused)
        if refused:
            resolution = resolution_of(tuple(refused.values()), Require.ALL)
            await self._record(asker, records, reason=resolution.worst or "")
            return resolution
        subscription = Subscription(
            _seconds_by_source(references, decisions),
            {references[text].source: version for text, version in versions.items() if text in references},
            lease_of=self._lease_of(Asker(peer=peer, context=asker.context), watched, decided),
        )
        watch = Watch(
            asker=asker,
            references=watched,
            texts=texts_by_source(named),
            subscription=subscription,
            decided_by=policy,
        )
        # Before the record, or it would tell of a watch that there is no room for.
        self._watchers.enter(peer.name, watch.texts)
        try:
            await self._record(asker, records)
            watch.resumed = self._feed.subscribe(subscription, after=after)
        except BaseException:
            self._watchers.leave(peer.name, watch.texts)
            raise
        return watch

    def stop(self, watch: Watch) -> None:
        """End a watch."""
        self._feed.unsubscribe(watch.subscription)
        self._watchers.leave(watch.asker.peer.name, watch.texts)

    def reason_to_end(self, watch: Watch) -> str:
        """Return why a watch may not go on, "" when it may: its token or certificate ended, or policy changed."""
        if self._clock.now() >= watch.asker.ends_at:
            return "expired"
        policy = self._policy.current
        if policy is not watch.decided_by:
            if any(isinstance(decision, Deny) for decision in self._decide(watch.asker, watch.references)):
                return "denied"
            watch.decided_by = policy
        return watch.subscription.ended

    def _lease_of(self, asker: Asker, references: Sequence[Reference], decisions: Sequence[Allow | Deny]) -> LeaseOf:
        # Hardly any watch follows a lease, so that this is in memory for those alone.
        @cache
        def asked() -> tuple[dict[Source, list[Reference]], dict[Source, float]]:
            of_source: dict[Source, list[Reference]] = {}
            fresh_for: dict[Source, float] = {}
            for reference, decision in zip(references, decisions, strict=True):
                if isinstance(decision, Allow):
                    source = reference.source
                    of_source.setdefault(source, []).append(reference)
                    fresh_for[source] = min(decision.fresh_for, fresh_for.get(source, decision.fresh_for))
            return of_source, fresh_for

        def lease_of(source: Source) -> str | None:
            of_source, fresh_for = asked()
            return self._leases.watched(source, asker, of_source[source], fresh_for=fresh_for[source])

        return lease_of

    def _decide(self, asker: Admitted, references: Sequence[Reference]) -> Sequence[Allow | Deny]:
        return self._policy.current.decide_all(identity=asker.peer, references=references, context=asker.context)

    async def _record(self, asker: Admitted, records: Sequence[ReferenceRecord], *, reason: str = "") -> None:
        outcome = Outcome.FAILURE if reason else Outcome.SUCCESS
        await self._trail.append(asker.event(EventKind.WATCH, outcome, reason=reason, references=records))


def _denied(references: Mapping[str, Reference], decisions: Mapping[str, Allow | Deny]) -> dict[str, Item]:
    return {
        text: denied_item(text, references[text], decision, references[text].source.scheme)
        for text, decision in decisions.items()
        if isinstance(decision, Deny)
    }


def _records(
    texts: Sequence[str],
    references: Mapping[str, Reference],
    decisions: Mapping[str, Allow | Deny],
    refused: Mapping[str, Item],
) -> list[ReferenceRecord]:
    """Return what becomes of each reference; one that is refused keeps all others from being watched."""
    status = WITHHELD if refused else "watched"
    return [
        refused[text].record
        if text in refused
        else ReferenceRecord(reference=references[text].text, status=status, rule=decisions[text].rule or "")
        for text in dict.fromkeys(texts)
    ]


def _seconds_by_source(
    references: Mapping[str, Reference], decisions: Mapping[str, Allow | Deny]
) -> dict[Source, float]:
    """Return for how long what is read of each source, in order to compare it, may be remembered."""
    seconds: dict[Source, float] = {}
    for text, decision in decisions.items():
        if isinstance(decision, Allow):
            gone_after = Clocks.of(decision.fresh_for, decision.max_stale).gone_after
            source = references[text].source
            seconds[source] = min(gone_after, seconds.get(source, gone_after))
    return seconds
