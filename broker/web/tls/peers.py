"""Who is at the other end of a request's connection: read out of its certificate once, and asked about each time."""

import ssl
import weakref
from dataclasses import replace
from typing import Protocol

from aiohttp import web
from cryptography import x509

from broker.errors import IdentityRefusedError, IdentityRefusedReason
from broker.identity import PeerIdentity, VerifiedChain, certificate_ids, identity_of, key_id, require_valid
from broker.web.tls.revocation import key_of


class Trust(Protocol):
    """Tells whether a chain that was good in the handshake still is."""

    def require_trusted(self, chain: VerifiedChain) -> None:
        """Return if it is. Raises: IdentityRefusedError."""
        ...


class Peers:
    """Tell who is at the other end of a request's connection; a certificate is parsed once a connection."""

    def __init__(self, *, trust: Trust, allow_no_eku: bool = False) -> None:
        """Ask `trust` at each request; accept certificates without extended key usage only if `allow_no_eku`."""
        self._trust = trust
        self._allow_no_eku = allow_no_eku
        # By the connection's TLS object, which lives as long as the connection and can be referred to weakly.
        self._known: weakref.WeakKeyDictionary[ssl.SSLObject, PeerIdentity] = weakref.WeakKeyDictionary()

    def peer_of(self, request: web.Request, *, now: float) -> PeerIdentity:
        """Return the peer, as its certificate proves it at `now`.

        Raises:
            IdentityRefusedError: It has no certificate, or one that names no identity, has expired since, was
                revoked since, or comes from an authority that was dropped since.

        """
        transport = request.transport
        connection = None if transport is None else transport.get_extra_info("ssl_object")
        if connection is None:
            message = "the connection has no client certificate, or is closed"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.NO_CERTIFICATE)
        peer = self._peer_at(connection)
        require_valid(peer, now=now)
        self._trust.require_trusted(peer.chain)
        return peer

    def name_at(self, connection: ssl.SSLObject) -> str:
        """Return the name of the peer as its certificate has it, whether it counts or not; empty when it has none."""
        try:
            return self._peer_at(connection).name
        except (IdentityRefusedError, ValueError):
            # A chain that can't be read is found at the first request, which is answered.
            return ""

    def _peer_at(self, connection: ssl.SSLObject) -> PeerIdentity:
        peer = self._known.get(connection)
        if peer is None:
            peer = self._known[connection] = self._look(connection)
        return peer

    def _look(self, connection: ssl.SSLObject) -> PeerIdentity:
        leaf = connection.getpeercert(binary_form=True)
        if not leaf:
            message = "the client showed no certificate"
            raise IdentityRefusedError(message, reason=IdentityRefusedReason.NO_CERTIFICATE)
        return replace(identity_of(leaf, allow_no_eku=self._allow_no_eku), chain=_chain_of(connection))


def _chain_of(connection: ssl.SSLObject) -> VerifiedChain:
    # Public from Python 3.13 on, where it returns DER.
    if hasattr(connection, "get_verified_chain"):
        encoded = connection.get_verified_chain()
    else:
        encoded = [ssl.PEM_cert_to_DER_cert(found.public_bytes()) for found in connection._sslobj.get_verified_chain()]  # type: ignore[attr-defined]  # noqa: SLF001  As above: there is no other way to it.
    chain = [x509.load_der_x509_certificate(der) for der in encoded]
    return VerifiedChain(
        certificates=frozenset(
            name for found in chain for name in certificate_ids(found.issuer.public_bytes(), (found.serial_number,))
        ),
        anchor=key_id(key_of(chain[-1])),
    )
