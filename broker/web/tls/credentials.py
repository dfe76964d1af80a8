"""The broker's certificate and whom it admits: in force as one, and read anew for a reload.

A change means a new context, since what a context remembers must not outlive it. Connections that are open
already are asked about at each of their requests.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from broker.clock import Clock
from broker.errors import IdentityRefusedError, IdentityRefusedReason
from broker.finding import FoundError
from broker.identity import VerifiedChain
from broker.reload import Accepted, PartName, Refused
from broker.series.connections import ConnectionSeries
from broker.web.tls.certificates import ClientTrust, ServerPair, TlsFiles, build_context, read_pair, read_trust

# Readiness goes off this long before a list ends, so that the platform hears of it before the agents do.
_BEFORE_STALE_SECONDS: Final = 60.0
_HalfT = TypeVar("_HalfT", ServerPair, ClientTrust)


@dataclass(frozen=True, slots=True, kw_only=True)
class _InForce:
    """What counts at one moment. `without_lists` is what a stale list that is kept leaves of `context`."""

    pair: ServerPair
    trust: ClientTrust
    context: ssl.SSLContext
    without_lists: ssl.SSLContext


class Credentials:
    """Hold what is in force, and read it anew for a reload."""

    def __init__(self, *, files: TlsFiles, clock: Clock, metrics: ConnectionSeries) -> None:
        """Read every file. Blocks.

        Raises:
            FoundError: One can't be used.

        """
        self._files = files
        self._clock = clock
        self._metrics = metrics
        now = clock.now()
        self._in_force = self._combined(read_pair(files, now=now), read_trust(files, now=now))
        self._tell()

    @property
    def name(self) -> PartName:
        """Return what a bug in `read` is told under."""
        return PartName.CERTIFICATE

    @property
    def watched(self) -> Sequence[Path]:
        """Return the files that it is made of."""
        files = self._files
        return [
            files.certificate,
            files.key,
            files.client_ca,
            *([] if files.client_crl is None else [files.client_crl]),
        ]

    @property
    def trust(self) -> ClientTrust:
        """Return whom the broker admits now; each reload makes another one."""
        return self._in_force.trust

    def context(self) -> ssl.SSLContext:
        """Return the context of the next connection."""
        in_force = self._in_force
        # OpenSSL refuses everyone once a list has ended; where it is kept, the look-up at each request is left.
        return in_force.without_lists if self._stale() and self._files.keep_stale else in_force.context

    def require_trusted(self, chain: VerifiedChain) -> None:
        """Refuse, on an open connection, a chain that a new handshake would not accept.

        Raises:
            IdentityRefusedError: Its authority was dropped, a certificate of it was revoked, or nobody knows.

        """
        trust = self._in_force.trust
        if chain.anchor not in trust.anchors:
            message = "the authority of the client certificate is not accepted any more; get a new certificate"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.AUTHORITY_DROPPED)
        if trust.lists is None:
            return
        if not trust.revoked.isdisjoint(chain.certificates):
            message = "the client certificate, or an authority of it, was revoked"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.REVOKED)
        if self._stale() and not self._files.keep_stale:
            message = "the broker's revocation list has ended, so it can't tell whether the certificate still counts"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.REVOCATION_UNKNOWN)

    def health(self) -> str:
        """Return why no agent can connect, or soon will not; empty when they can."""
        in_force, now = self._in_force, self._clock.now()
        if now > in_force.pair.validity.not_after:
            return "the server certificate or its chain has expired"
        lists = in_force.trust.lists
        if lists is not None and lists.is_stale(now + _BEFORE_STALE_SECONDS) and not self._files.keep_stale:
            return "the revocation list has ended, or ends within a minute"
        return ""

    def read(self) -> Sequence[Accepted | Refused]:
        """Read the two halves; a bad one keeps its old value and does not hold up the other. Blocks."""
        before, now = self._in_force, self._clock.now()
        pair = _tried(PartName.CERTIFICATE, before.pair.digest, lambda: read_pair(self._files, now=now))
        trust = _tried(
            PartName.CLIENT_TRUST,
            before.trust.digest,
            lambda: read_trust(self._files, now=now, before=before.trust.lists),
        )
        combined = self._combined(
            before.pair if isinstance(pair, Refused) else pair, before.trust if isinstance(trust, Refused) else trust
        )

        def apply() -> None:
            self._in_force = combined
            self._tell()

        def accepted(part: PartName, old: str, new: str) -> Accepted:
            return Accepted(part=part, apply=apply, before=old, after=new)

        return [
            pair if isinstance(pair, Refused) else accepted(PartName.CERTIFICATE, before.pair.digest, pair.digest),
            trust if isinstance(trust, Refused) else accepted(PartName.CLIENT_TRUST, before.trust.digest, trust.digest),
        ]

    def _combined(self, pair: ServerPair, trust: ClientTrust) -> _InForce:
        minimum = self._files.minimum
        context = build_context(pair=pair, trust=trust, minimum=minimum)
        without = context
        if trust.lists is not None:
            without = build_context(pair=pair, trust=trust, minimum=minimum, ask_lists=False)
        return _InForce(pair=pair, trust=trust, context=context, without_lists=without)

    def _stale(self) -> bool:
        lists = self._in_force.trust.lists
        return lists is not None and lists.is_stale(self._clock.now())

    def _tell(self) -> None:
        in_force = self._in_force
        self._metrics.certificate(certificate="server", **in_force.pair.validity._asdict())
        self._metrics.certificate(certificate="client_ca", **in_force.trust.validity._asdict())
        if in_force.trust.lists is not None:
            self._metrics.revocation_list(next_update=in_force.trust.lists.next_update)


def _tried(part: PartName, in_force: str, read: Callable[[], _HalfT]) -> _HalfT | Refused:
    try:
        return read()
    except FoundError as error:
        return Refused(part=part, code=error.finding.code, detail=error.detail, in_force=in_force)
