"""What is kept of a lease beyond the life of the process; never a value."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from broker.identity import IdentityKind, PeerIdentity
from broker.providers.base import Grip


def new_lease_id() -> str:
    """Return a name that tells nothing."""
    return f"lease_{secrets.token_urlsafe(16)}"


class LeaseState(StrEnum):
    """Where a lease is in its life."""

    # Its request may have been sent, and its name is not known yet.
    MINTING = "minting"
    LIVE = "live"
    # Handed out no longer; lives on for those who have it.
    SUPERSEDED = "superseded"
    REVOKING = "revoking"


class LeaseReason(StrEnum):
    """Why a lease is handed out no longer."""

    NONE = ""
    REPLACED = "replaced"
    RESTART = "restart"
    ASKED = "asked"
    # By an administrator.
    ORDERED = "ordered"
    POLICY = "policy"
    SHUTDOWN = "shutdown"
    DENIED = "denied"
    # A certificate that it was given to was revoked, or one that vouches for such a certificate.
    CERTIFICATE_REVOKED = "certificate_revoked"
    # The broker accepts no authority any more that vouched for those that it was given to.
    AUTHORITY_DROPPED = "authority_dropped"
    # Its end has come, and a renewal before that had no answer: it may live on.
    ENDED = "ended"
    # The back end does not know it any more, and may still know what it hung on.
    LOST = "lost"
    # The mint gave no answer, or one that can't be handed out.
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """One lease, as the state store keeps it. Times are wall seconds.

    Attributes:
        id: The broker's own name of it, opaque, the only one that leaves the broker.
        provider: The scheme of its source.
        source: The source as a reference without field.
        identity_kind: Of the identity that it was made for.
        identity: The name of that identity.
        state: Where it is in its life.
        reason: Why it is handed out no longer.
        handle: The back end's name of it; empty when it is not known, or there is none.
        parent: The accessor of what it hangs on; empty when that is the provider's own access.
        renewable: Whether it may be made to live longer.
        created: When it was asked for.
        expires: When it ends, as last told to its identity.
        due: When it is to be revoked; None when it may end by itself.

    """

    id: str
    provider: str
    source: str
    identity_kind: IdentityKind
    identity: str
    state: LeaseState
    reason: LeaseReason
    handle: str
    parent: str
    renewable: bool
    created: float
    expires: float
    due: float | None

    @property
    def grip(self) -> Grip:
        """Return by what it is held at the back end."""
        return Grip(handle=self.handle, parent=self.parent)

    @property
    def can_be_revoked(self) -> bool:
        """Tell whether the back end knows anything that could be revoked."""
        return bool(self.handle or self.parent)

    def belongs_to(self, peer: PeerIdentity) -> bool:
        """Tell whether it was made for `peer`."""
        return (self.identity_kind, self.identity) == (peer.kind, peer.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A certificate that a lease was given to, or that vouches for one.

    Attributes:
        lease: The id of the lease.
        certificate: Its name, by `certificate_ids`.
        anchor: The authority at the end of the chain, by `key_id`.
        ends: When nobody may show it any more, in wall seconds.

    """

    lease: str
    certificate: str
    anchor: str
    ends: float


class LeaseStore(Protocol):
    """Keeps records; what it has returned from is durable."""

    async def leases(self) -> Sequence[LeaseRecord]:
        """Return every record. Raises: StateUnavailableError."""
        ...

    async def holders(self) -> Sequence[Holder]:
        """Return every holder of every lease. Raises: StateUnavailableError."""
        ...

    async def keep_leases(self, records: Sequence[LeaseRecord], holders: Sequence[Holder] = (), /) -> None:
        """Keep all of them, or none, each in place of the one with the same name. Raises: StateUnavailableError."""
        ...

    async def forget_holders(self, *, ended_before: float) -> None:
        """Let go of the holders that ended before this wall time. Raises: StateUnavailableError."""
        ...

    async def forget_lease(self, lease_id: str, /) -> None:
        """Let go of one record and its holders. Raises: StateUnavailableError."""
        ...
