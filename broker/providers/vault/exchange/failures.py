"""What goes wrong on the way to a store, in fixed words: the text of a foreign error may name hosts and paths."""

import ssl
from typing import ClassVar, Final

import aiohttp

from broker.errors import SourceUnavailableError


class HeldBackError(SourceUnavailableError):
    """Nothing was sent, because of what the store has said or failed to say before."""

    was_asked = False


class WayError(SourceUnavailableError):
    """There was no answer that can be read; `alarm` names what a person should look at, "" when time may heal it."""

    alarm: ClassVar[str] = ""


class NothingSentError(SourceUnavailableError):
    """No byte of the request has left, so it may be sent later whatever it does."""


class NoTurnError(NothingSentError):
    """Budget or connections were not free in time."""


class UnreachableError(WayError, NothingSentError):
    """The address can't be reached; another may."""


class LostError(WayError):
    """No whole answer came before the connection ended: nobody knows what the store did."""


class UntrustedError(UnreachableError):
    """Whoever listens there can't prove to be the store."""

    alarm = "certificate"


class PinError(UntrustedError):
    """The store's certificate is good, and its key is none of those that were pinned."""

    alarm = "pin"


class PinMismatchError(ssl.SSLCertVerificationError):
    """End a handshake: the peer's key is not pinned."""


# The first that fits counts: aiohttp's classes are each other's subclasses.
_FAILURES: Final[tuple[tuple[type[BaseException], type[WayError], str], ...]] = (
    (
        aiohttp.ClientConnectorCertificateError,
        UntrustedError,
        "the store's certificate is not trusted; look at providers.vault.ca_file",
    ),
    (
        ssl.SSLCertVerificationError,
        UntrustedError,
        "the store's certificate is not trusted; look at providers.vault.ca_file",
    ),
    (
        aiohttp.ClientHttpProxyError,
        UnreachableError,
        "the proxy refuses the way to the store; look at providers.vault.proxy",
    ),
    (aiohttp.ClientProxyConnectionError, UnreachableError, "the proxy can't be reached; look at providers.vault.proxy"),
    (
        aiohttp.ClientSSLError,
        UnreachableError,
        "the TLS handshake with the store fails; does it speak TLS at that port?",
    ),
    (aiohttp.ClientConnectorDNSError, UnreachableError, "the store's name can't be resolved"),
    (
        aiohttp.ClientConnectorError,
        UnreachableError,
        "the store can't be reached: nothing listens there, or a network is down",
    ),
    (aiohttp.ConnectionTimeoutError, UnreachableError, "the store does not answer in time"),
    (TimeoutError, WayError, "the store does not answer in time"),
    (aiohttp.ClientPayloadError, LostError, "the store's answer broke off"),
    (aiohttp.ServerDisconnectedError, LostError, "the connection to the store was lost"),
    (OSError, LostError, "the connection to the store was lost"),
    (
        aiohttp.ClientResponseError,
        WayError,
        "the answer is no HTTP; is something else listening at providers.vault.address?",
    ),
)


def failure_of(error: BaseException) -> WayError:
    """Return what a foreign error means."""
    cause = getattr(error, "certificate_error", error)
    if isinstance(cause, PinMismatchError):
        return PinError("the store's key is none of providers.vault.pins")
    for kind, made, text in _FAILURES:
        if isinstance(error, kind):
            return made(text)
    return WayError("the request to the store failed")
