"""Certificates of the store's PKI, which have no lease there by default: revoked and looked at by serial number."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from hvac.utils import format_url

from broker.errors import MissingPart, SecretMissingError, UpstreamDeniedError
from broker.providers.vault.exchange.answers import BAD_REQUEST, NOT_FOUND, StoreAnswerError, bad_answer, unavailable

_SERIAL: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){0,31}")
# The engine dates certificates back by so much, unless its role says otherwise.
DATED_BACK_SECONDS: Final = 30.0
# No lease of the store has a question mark in its name.
_MARK: Final = "?serial_number="

Call = Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[dict[str, Any]]]


def life_of(data: Mapping[str, Any], *, now: float) -> float:
    """Return the seconds that a certificate lives which a PKI engine has just issued; 0 when nobody can tell."""
    try:
        ends = float(data["expiration"])
        if ends > now:
            return ends - now
        # A certificate that has ended at its birth: the two clocks are apart, and it knows its own life.
        begins = x509.load_pem_x509_certificate(data["certificate"].encode()).not_valid_before_utc.timestamp()
    except (AttributeError, KeyError, TypeError, ValueError):
        return 0.0
    return max(0.0, ends - begins - DATED_BACK_SECONDS)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate: the mount that issued it, and its serial number there."""

    mount: str
    serial: str

    @property
    def handle(self) -> str:
        """Return the name by which it is held in place of a lease."""
        return f"{self.mount}{_MARK}{self.serial}"

    @classmethod
    def issued(cls, mount: str, data: Any) -> "Certificate | None":  # noqa: ANN401  JSON can be anything.
        """Return the certificate in the data that a PKI engine has answered with, None when there is none."""
        serial = data.get("serial_number") if isinstance(data, dict) else None
        return cls(mount, serial) if isinstance(serial, str) and _SERIAL.fullmatch(serial) else None

    @classmethod
    def held(cls, handle: str) -> "Certificate | None":
        """Return the certificate of that handle, None when it is that of a lease."""
        mount, mark, serial = handle.partition(_MARK)
        return cls(mount, serial) if mark else None

    async def revoke(self, call: Call) -> None:
        """Return when it is on the engine's revocation list, or has expired.

        Raises:
            UpstreamDeniedError: The store does not let the broker revoke it, or does not keep it.
            SourceUnavailableError: It could not be done now.

        """
        path, body = format_url("/v1/{}/revoke", self.mount), {"serial_number": self.serial}
        try:
            await call(lambda client: client.adapter.post(path, json=body, repeatable=True, mount=self.mount))
        except StoreAnswerError as error:
            if error.status != BAD_REQUEST or not error.says("not found"):
                raise unavailable(error) from None
            message = "the store keeps no such certificate (its role has no_store), so it can't revoke it"
            raise UpstreamDeniedError(message, words=error.words) from None
        except UpstreamDeniedError as error:
            message = (
                f"the store does not let the broker revoke certificates; its role needs update on {self.mount}/revoke"
            )
            raise UpstreamDeniedError(message, words=error.words) from None

    async def check(self, call: Call) -> None:
        """Return when it is not revoked, as far as the store can tell.

        Raises:
            SecretMissingError: It is revoked.
            FetchError: The store can't tell.

        """
        path = format_url("/v1/{}/cert/{}", self.mount, self.serial)
        try:
            document = await call(lambda client: client.adapter.get(path, repeatable=True, mount=self.mount))
            revoked = float(document["data"]["revocation_time"])
        except StoreAnswerError as error:
            if error.status == NOT_FOUND:
                # A role with no_store leaves none behind.
                return
            raise unavailable(error) from None
        except (KeyError, TypeError, ValueError):
            raise bad_answer() from None
        if revoked:
            message = "the certificate is revoked"
            raise SecretMissingError(message, part=MissingPart.DELETED)
