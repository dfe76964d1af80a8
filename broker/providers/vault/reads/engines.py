"""Reads of engines other than KV: what they compute, what they keep, and what they make for one asker."""

from dataclasses import replace
from typing import Any, Final

from broker.clock import Clock
from broker.errors import FetchError, MissingPart, SecretMissingError, SourceMintsError
from broker.providers.base import Parent, UnusableMintError
from broker.providers.vault.engines.calls import EngineCall, call_of, check_heeded, engine_error
from broker.providers.vault.engines.mounts import Mount
from broker.providers.vault.exchange.answers import NO_CONTENT, StoreAnswerError, bad_answer
from broker.providers.vault.leasing.certificates import Certificate, life_of
from broker.providers.vault.leasing.leases import StoreLeases
from broker.providers.vault.own_token.login import StoreLogin
from broker.providers.vault.reads.documents import reading_of, reading_of_bytes, seconds_of
from broker.reference import Source
from broker.secret import Lease, Reading

_STATIC: Final = "static-creds/"


class EngineReads:
    """Ask the engines of one store."""

    def __init__(self, *, login: StoreLogin, leases: StoreLeases, clock: Clock, limit: int) -> None:
        """Keep the collaborators; `limit` is the size of a secret in bytes."""
        self._login = login
        self._leases = leases
        self._clock = clock
        self._limit = limit

    async def read(self, mount: Mount, source: Source) -> Reading:
        """Return what the engine answers to a read that makes nothing new.

        Raises:
            SourceMintsError: It would make something new; nothing was sent.
            FetchError: As `Provider.fetch`.

        """
        call = call_of(mount, source)
        if call.mints:
            message = "what is read there is made for its asker alone"
            raise SourceMintsError(message)
        began = self._clock.now()
        try:
            document = await self._login.call(lambda client: _ask(client, call))
        except StoreAnswerError as error:
            raise engine_error(error, mount) from None
        if isinstance(document, bytes):
            return reading_of_bytes(document, limit=self._limit)
        if document == NO_CONTENT:
            message = "there is nothing at this path yet"
            raise SecretMissingError(message, part=MissingPart.PATH)
        if not isinstance(document, dict):
            raise bad_answer()
        check_heeded(document)
        reading = reading_of(document, document.get("data"), limit=self._limit)
        if mount.kind == "database" and mount.below(source.path).startswith(_STATIC):
            # The engine tells when it will have changed the password.
            return replace(reading, not_after=began + seconds_of(document["data"].get("ttl")))
        return reading

    async def mint(self, mount: Mount, source: Source, parent: Parent) -> Reading:
        """Return what the engine makes for one asker. Raises: as `Leasing.mint`."""
        call = call_of(mount, source)
        try:
            document = await self._leases.send(call, parent)
        except StoreAnswerError as error:
            raise engine_error(error, mount) from None
        lease = await self._leases.lease_of(document, parent) or self._certificate_of(document, mount)
        try:
            check_heeded(document)
            reading = reading_of(document, document.get("data"), limit=self._limit)
        except FetchError as error:
            if lease is not None:
                raise UnusableMintError(lease=lease, reason=error) from None
            raise
        ends = document["data"].get("expiration") if mount.kind == "pki" and lease is None else None
        return replace(reading, lease=lease, not_after=None if ends is None else seconds_of(ends))

    def _certificate_of(self, document: dict[str, Any], mount: Mount) -> Lease | None:
        """Return what stands for the lease of a certificate that has none."""
        data = document.get("data") or {}
        certificate = Certificate.issued(mount.path, data) if mount.kind == "pki" else None
        if certificate is None:
            return None
        seconds = life_of(data, now=self._clock.now())
        return Lease(handle=certificate.handle, seconds=seconds, renewable=False, hangs=False)


async def _ask(client: Any, call: EngineCall) -> Any:  # noqa: ANN401  hvac has no types.
    way = {"repeatable": True, "mount": call.mount, "raw_types": call.raw_types}
    if call.posted:
        return await client.adapter.post(call.path, json=dict(call.parameters), **way)
    return await client.adapter.get(call.path, **way)
