"""Whether leases may still stand: the word of the policy, and of those who vouch for the certificates that got them."""

import asyncio
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final, Protocol

from broker.clock import Clock
from broker.errors import MalformedReferenceError
from broker.identity import PeerIdentity
from broker.leases.book import LeaseBook
from broker.leases.held import Held
from broker.leases.record import LeaseReason, LeaseState
from broker.policy.decision import Allow, Context, Decision
from broker.reference import Reference, parse

# How many leases are asked about before others get their turn.
_STEP: Final = 200


class Policy(Protocol):
    """What is asked of a policy."""

    def decide_all(
        self, *, identity: PeerIdentity, references: Sequence[Reference], context: Context
    ) -> Sequence[Decision]:
        """Decide about each reference."""
        ...

    def gives_any_of(self, *, identity: PeerIdentity, reference: Reference) -> bool:
        """Tell whether `identity` may have any part of `reference` in some circumstances."""
        ...


class PolicySource(Protocol):
    """Holds the policy in force."""

    @property
    def current(self) -> Policy:
        """Return the policy in force now."""
        ...


class Trust(Protocol):
    """Whose certificates count. Immutable: a reload makes another one."""

    @property
    def revoked(self) -> AbstractSet[str]:
        """Return the certificates that were revoked, by `certificate_ids`."""
        ...

    @property
    def anchors(self) -> AbstractSet[str]:
        """Return the authorities that count, by `key_id`."""
        ...


class TrustSource(Protocol):
    """Holds the trust in force."""

    @property
    def trust(self) -> Trust:
        """Return the trust in force now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What leases stand on: the policy in force, and the trust in force."""

    policy: PolicySource
    trust: TrustSource


class Standing:
    """Withdraw the leases of one book that policy or trust do not bear any more."""

    def __init__(self, *, book: LeaseBook, grounds: Grounds, clock: Clock) -> None:
        """Keep the collaborators. Nothing was asked yet: an earlier process may have ended before it could ask."""
        self._book = book
        self._policy = grounds.policy
        self._trust = grounds.trust
        self._clock = clock
        self._asked: tuple[Policy, Trust] | None = None
        # Being minted when a new word came.
        self._minting: set[str] = set()

    async def heed(self) -> None:
        """Withdraw what a new policy, or a new trust, does not bear any more."""
        born = [lease_id for lease_id in self._minting if not self._is_minting(lease_id)]
        await self._withdraw([held for lease_id in born if (held := self._book.get(lease_id)) is not None])
        self._minting.difference_update(born)
        word = (self._policy.current, self._trust.trust)
        if self._asked is not None and self._asked[0] is word[0] and self._asked[1] is word[1]:
            return
        every = self._book.all()
        for start in range(0, len(every), _STEP):
            await self._withdraw(every[start : start + _STEP])
            await asyncio.sleep(0)
        # Not before all of them were asked about: what fails on the way is done again.
        self._asked = word

    async def check(self, held: Held) -> None:
        """Withdraw `held` if trust does not bear it, after another certificate has got it."""
        reason = self._distrust(held)
        if reason is not None and held.record.state is not LeaseState.REVOKING:
            await self._book.withdraw(held, reason)

    async def _withdraw(self, leases: Iterable[Held]) -> None:
        found: dict[LeaseReason, list[Held]] = {}
        for held in leases:
            reason = self._objection(held)
            if reason is not None:
                found.setdefault(reason, []).append(held)
        for reason, withdrawn in found.items():
            await self._book.withdraw_all(withdrawn, reason)

    def _objection(self, held: Held) -> LeaseReason | None:
        match held.record.state:
            case LeaseState.MINTING:
                # There is nothing to revoke yet, and it may be handed out in a moment: asked about then.
                self._minting.add(held.record.id)
                return None
            case LeaseState.LIVE | LeaseState.SUPERSEDED:
                return self._distrust(held) or (None if self._is_allowed(held) else LeaseReason.POLICY)
            case LeaseState.REVOKING:
                return None

    def _distrust(self, held: Held) -> LeaseReason | None:
        trust = self._trust.trust
        if not trust.revoked.isdisjoint(held.holders):
            # Whoever has the key has the credential, whichever other certificates have it too.
            return LeaseReason.CERTIFICATE_REVOKED
        if held.holders and all(holder.anchor not in trust.anchors for holder in held.holders.values()):
            # Agents that have come with a certificate of the next authority keep it.
            return LeaseReason.AUTHORITY_DROPPED
        return None

    def _is_allowed(self, held: Held) -> bool:
        policy, asker, record = self._policy.current, held.asker, held.record
        if asker is None:
            # Read back after a restart: what was asked of it, and how, is not known any more.
            peer = PeerIdentity(
                kind=record.identity_kind, name=record.identity, thumbprint="", not_before=0.0, not_after=0.0
            )
            try:
                return policy.gives_any_of(identity=peer, reference=parse(record.source))
            except MalformedReferenceError:
                # A broker with another grammar has written it, and no rule of this one can speak about it.
                return False
        context = replace(asker.context, now=self._clock.now())
        references = tuple(held.references.values())
        decisions = policy.decide_all(identity=asker.peer, references=references, context=context)
        return any(isinstance(decision, Allow) for decision in decisions)

    def _is_minting(self, lease_id: str) -> bool:
        held = self._book.get(lease_id)
        return held is not None and held.record.state is LeaseState.MINTING
