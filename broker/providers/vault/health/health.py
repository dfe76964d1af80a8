"""Whether a store could serve a read: it is up and unsealed, has a leader, and takes the broker's token."""

from typing import Final

from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.providers.base import UpstreamObserver
from broker.providers.vault.adapter import make_client
from broker.providers.vault.exchange.answers import StoreAnswerError, bad_answer, is_health, unavailable
from broker.providers.vault.health.clocks import ClockComparison
from broker.providers.vault.health.leader import LeaderWatch
from broker.providers.vault.own_token.login import StoreLogin
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.transport import StoreTransport

# A standby serves reads: 429 in OpenBao, 473 in Vault. Whether it really does is for the token's look-up to prove.
_STANDBY: Final = frozenset({429, 473})


class StoreHealth:
    """Look after the health of one store."""

    def __init__(
        self,
        *,
        settings: VaultSettings,
        transport: StoreTransport,
        login: StoreLogin,
        leader: LeaderWatch,
        clock: Clock,
        observer: UpstreamObserver,
    ) -> None:
        """Keep the collaborators."""
        self._settings = settings
        self._transport = transport
        self._login = login
        self._leader = leader
        self._clocks = ClockComparison(clock=clock, observer=observer)

    async def check(self) -> None:
        """Return when the store could serve a read.

        Raises:
            SourceUnavailableError: It could not.

        """
        if self._transport.is_away:
            # The probe: a healthy document is no proof that reads are served, and a good token is.
            await self._prove()
        client = make_client(settings=self._settings, transport=self._transport, token=None)
        # Health is a matter of the server: in a namespace it answers 400.
        client.adapter.namespace = None
        standby = False
        began = self._clocks.begin()
        try:
            health = await client.adapter.get("/v1/sys/health")
        except StoreAnswerError as error:
            standby, health = error.status in _STANDBY, error.document
            # A quota that does not exempt health refuses it with the status of a standby.
            if not standby or not is_health(health):
                raise unavailable(error) from None
        if not isinstance(health, dict):
            raise bad_answer()
        self._clocks.compare(began, health)
        if standby:
            await self._transport.prefer_active()
            await self._leader.look(client)
        else:
            self._leader.leads()
        try:
            await self._login.prove()
        except StoreAnswerError as error:
            raise unavailable(error) from None
        except SourceUnavailableError as error:
            if standby:
                message = f"the store is a standby without a working leader: {error.detail}"
                raise SourceUnavailableError(message, retry_after=error.retry_after) from None
            raise

    async def _prove(self) -> None:
        try:
            await self._login.prove(recent_proof_will_do=False)
        except StoreAnswerError as error:
            raise unavailable(error) from None
