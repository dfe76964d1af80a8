"""One lease in memory, with its values as long as it may be handed out."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from broker.cache.remembered import Cached, LeaseFacts
from broker.errors import FetchError, SourceUnavailableError
from broker.identity import IdentityKind, PeerIdentity
from broker.leases.record import Holder, LeaseRecord
from broker.policy.decision import Context
from broker.reference import Reference, Source
from broker.secret import Reading

_PART: Final = 2 / 3
_JITTER: Final = 0.1
# A lease is asked for by a handful of references: the fields of one credential.
_MAX_REFERENCES: Final = 64


class LeaseKey(NamedTuple):
    """What a lease is for: one source and one identity."""

    source: Source
    kind: IdentityKind
    name: str


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and how: enough to ask policy again later."""

    peer: PeerIdentity
    context: Context

    def key(self, source: Source) -> LeaseKey:
        """Return the key of this asker's lease of `source`."""
        return LeaseKey(source, self.peer.kind, self.peer.name)


@dataclass(slots=True, eq=False, kw_only=True)
class Held:
    """One lease. Steady times are of `Clock.monotonic`.

    Attributes:
        record: What is durable of it.
        key: What it is for; None when it was read back after a restart.
        reading: Its values; None as above, and before it is minted.
        seconds: The life that is asked for at each renewal.
        born: Steady time at which it was asked for.
        ends: Steady time at which it ends unless it is renewed.
        replace_at: Steady time from which the next one who asks gets another lease, when this one can't live longer.
        asked: Steady time at which somebody asked last.
        proved: Steady time at which the back end said last that it lives.
        asker: Who that was.
        references: What was asked for of it, by text.
        attempts: Renewals or revocations that have failed in a row.
        failure: Why the last revocation failed; None: none was tried, or none has failed.
        not_kept: Whether the store does not know yet that it is withdrawn.
        moment: Steady time at which something has to happen to it.
        answered: The answer as it stands now.
        holders: The certificates that it was given to and those that vouch for them, by their names.

    """

    record: LeaseRecord
    key: LeaseKey | None = None
    reading: Reading | None = None
    seconds: float = 0.0
    born: float = 0.0
    ends: float = 0.0
    replace_at: float = math.inf
    asked: float = -math.inf
    proved: float = -math.inf
    asker: Asker | None = None
    references: dict[str, Reference] = field(default_factory=dict)
    attempts: int = 0
    failure: FetchError | None = None
    not_kept: bool = False
    moment: float = math.inf
    answered: Cached | None = None
    holders: dict[str, Holder] = field(default_factory=dict)

    def ask(self, asker: Asker, references: Iterable[Reference], *, now: float) -> None:
        """Note that somebody who may have it asks for it at the steady time `now`."""
        self.asked, self.asker = now, asker
        for reference in references:
            if len(self.references) < _MAX_REFERENCES:
                self.references[reference.text] = reference

    def new_holders(self, peer: PeerIdentity) -> list[Holder]:
        """Return what has to be kept before `peer` gets it; nothing when its certificate got it before."""
        chain = peer.chain
        known = (self.holders.get(certificate) for certificate in chain.certificates)
        if all(holder is not None and holder.anchor == chain.anchor for holder in known):
            return []
        # All of the chain: what vouches for several certificates counts as long as the last of them.
        return [
            Holder(
                lease=self.record.id,
                certificate=certificate,
                anchor=chain.anchor,
                ends=max(peer.not_after, self.holders[certificate].ends if certificate in self.holders else 0.0),
            )
            for certificate in chain.certificates
        ]

    def is_given(self, holders: Iterable[Holder]) -> None:
        """Note `holders`, which are kept."""
        self.holders.update((holder.certificate, holder) for holder in holders)

    def let_go_of_holders(self, *, ended_before: float) -> None:
        """Forget those that ended before this wall time."""
        self.holders = {name: holder for name, holder in self.holders.items() if holder.ends >= ended_before}

    @property
    def lives_on_request(self) -> bool:
        """Tell whether it may be renewed."""
        return self.record.renewable and self.replace_at == math.inf

    def is_doubtful(self, now: float, *, fresh_for: float) -> bool:
        """Tell whether nobody has heard of it from the back end for longer than values may be fresh."""
        return bool(self.record.handle) and now - self.proved > fresh_for

    def was_asked_lately(self, now: float) -> bool:
        """Tell whether somebody asked within one of its lifetimes."""
        return now - self.asked <= self.seconds

    def lives_until(self, ends: float, *, from_: float, last: bool) -> float:
        """Set the steady end, `last` when there is no later one; return the steady time to do something about it."""
        self.ends = ends
        self.proved = from_
        self.answered = None
        act_at = from_ + (ends - from_) * _part()
        if last:
            self.replace_at = act_at
            return ends
        return act_at

    def answer(self) -> Cached:
        """Return what its identity is told. Raises: SourceUnavailableError."""
        if self.reading is None:
            message = "the lease was withdrawn while it was asked for"
            raise SourceUnavailableError(message)
        if self.answered is None:
            record = self.record
            self.answered = Cached(
                reading=self.reading,
                fetched_at=record.created,
                fresh_until=record.expires,
                stale_until=record.expires,
                stale=False,
                lease=LeaseFacts(record.id, record.expires, record.renewable and self.lives_on_request),
            )
        return self.answered


def _part() -> float:
    """Return two thirds, a little less, so that what was minted together is not renewed together."""
    return _PART * random.uniform(1 - _JITTER, 1)  # noqa: S311  A pause is no secret.
