"""The way to one store: within the budget, at the address that serves, and nothing that mints sent twice."""

import asyncio
import random
from dataclasses import replace
from typing import Final

from broker.errors import SecretUnusableError, SourceUnavailableError
from broker.providers.base import ProviderTools
from broker.providers.vault.exchange.answers import BEHIND
from broker.providers.vault.exchange.failures import LostError, NothingSentError, NoTurnError, WayError
from broker.providers.vault.exchange.request import StoreRequest, StoreResponse
from broker.providers.vault.limits.breaker import Breaker, Permit, PlaceBreakers
from broker.providers.vault.limits.budget import Budget
from broker.providers.vault.limits.rate_limits import RateLimitedError, RateLimits
from broker.providers.vault.limits.turns import Turns
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.addresses import AddressBook, Health
from broker.providers.vault.transport.connection import StoreConnection
from broker.providers.vault.transport.progress import SeenProgress
from broker.providers.vault.transport.sessions import SessionPool

_OUTCOMES: Final = {200: "ok", 204: "ok", 400: "invalid", 403: "denied", 404: "missing"}
_HEALTH: Final = StoreRequest(method="GET", path="/v1/sys/health", headers={"X-Vault-Request": "true"})
# Which mounts anybody may see: the store answers without a token, and not without writing it down.
_VISIBLE: Final = StoreRequest(
    method="GET", path="/v1/sys/internal/ui/mounts", headers={"X-Vault-Request": "true"}, repeatable=True
)
_SERVED: Final = frozenset({200, 403})
# A standby says 429 in OpenBao, and 473 in Vault when it serves reads.
_SEALED: Final = frozenset({501, 503})
# How often a request is sent again to a node that lags, and after how long.
_BEHIND_RETRIES: Final = 3
_BEHIND_SECONDS: Final = (0.05, 0.2)
_HEALTHS: Final = {200: Health.ACTIVE, 429: Health.STANDBY, 473: Health.STANDBY}


class StoreTransport:
    """Send requests to one store."""

    def __init__(self, *, settings: VaultSettings, tools: ProviderTools) -> None:
        """Keep the settings; connections are made in the running loop, at the first request."""
        clock, observer = tools.clock, tools.observer
        self._clock = clock
        self._observer = observer
        self._seconds = {patience: limits.total_seconds for patience, limits in settings.timeouts.items()}
        self._turns = Turns(
            budget=Budget(per_second=settings.requests_per_second, clock=clock),
            addresses=settings.endpoints,
            max_connections=settings.max_connections,
            observer=observer,
        )
        self._sessions = SessionPool(settings=settings, own=tools.own, clock=clock, observer=observer)
        self._progress = SeenProgress()
        self._connection = StoreConnection(settings=settings, sessions=self._sessions, clock=clock, room=tools.answers)
        self._addresses = AddressBook(
            addresses=settings.endpoints,
            probe=self._probe,
            serves=self._serves,
            clock=clock,
            probe_seconds=settings.probe_seconds,
            return_seconds=settings.return_seconds,
        )
        self._breaker = Breaker(probe_seconds=settings.probe_seconds, clock=clock)
        self._places = PlaceBreakers(probe_seconds=settings.probe_seconds, clock=clock)
        self._limits = RateLimits(
            per_second=settings.requests_per_second,
            max_waiting=max(1, settings.max_connections // 4),
            wait_seconds=settings.total_seconds,
            clock=clock,
        )
        self._told: tuple[bool, int, float] | None = None
        self._tell_state()

    @property
    def is_away(self) -> bool:
        """Tell whether the store serves nobody, so that only a probe now and then is sent."""
        return self._breaker.is_open

    @property
    def tells_states(self) -> bool:
        """Tell whether the store's answers name the state that they are made from, as those of a cluster do."""
        return self._progress.is_told

    async def send(self, request: StoreRequest) -> StoreResponse:
        """Return the answer to `request`, which is sent only while its place is served, or when a probe is due.

        Raises:
            HeldBackError: The store or the place is away, or limits the rate of such requests; nothing was sent.
            SourceUnavailableError: There is no answer, or none that can be read.
            SecretUnusableError: The secret is larger than an answer may be.

        """
        await self._enter(request)
        # A place that is shut must not use up the one probe of a store that is away.
        self._places.check(request.place)
        permit = self._breaker.admit()
        of_place: Permit | None = None
        try:
            of_place = self._places.admit(request.place)
            sent_at = self._clock.monotonic()
            response = await self._caught_up(request)
            self._judge(permit, request, response)
            return self._judge_place(of_place, request, response, sent_at=sent_at)
        except WayError as error:
            self._breaker.failed(permit, reason=error.detail, retry_after=error.retry_after)
            raise
        finally:
            # Does nothing after a verdict; without one, the next request may be the probe.
            self._breaker.undecided(permit)
            self._places.undecided(request.place, of_place)
            self._tell_state()

    async def _enter(self, request: StoreRequest) -> None:
        """Wait where the store has limited such requests."""
        try:
            await self._limits.enter(request.place, reserved=request.is_reserved)
        except RateLimitedError:
            self._turns.refused()
            raise

    def _judge(self, permit: Permit, request: StoreRequest, response: StoreResponse) -> None:
        """Tell the breaker what an answer says about the store as a whole."""
        if response.is_unexpected(request):
            self._observer.upstream_alarm(provider="vault", alarm="unexpected_status")
        if response.is_failure(request):
            # The store's own word that it can serve nobody; from something before it, one such answer may be a slip.
            at_once = response.status in _SEALED and isinstance(response.document, dict)
            self._breaker.failed(permit, reason=response.state, at_once=at_once, retry_after=response.retry_after)
        elif request.operation != "health":
            self._breaker.passed(permit)

    def _judge_place(
        self, permit: Permit | None, request: StoreRequest, response: StoreResponse, *, sent_at: float
    ) -> StoreResponse:
        """Note what an answer says about its place alone; return it, with the pause that begins there."""
        if response.is_of_a_shut_place:
            self._places.shut(request.place, permit, reason=response.state)
        elif response.is_limit:
            self._observer.upstream_limited(provider="vault", named=response.retry_after is not None)
            pause = self._limits.limited(request.place, sent_at=sent_at, retry_after=response.retry_after)
            return replace(response, retry_after=pause)
        elif not response.is_failure(request):
            self._places.passed(request.place, permit)
            self._limits.answered(request.place)
        return response

    def _tell_state(self) -> None:
        state = (self._breaker.is_open, self._places.open, self._limits.lowest)
        if state != self._told:
            self._told = state
            is_open, places, lowest = state
            self._observer.upstream_breaker(provider="vault", is_open=is_open, places=places)
            self._observer.upstream_lowest_budget(provider="vault", per_second=lowest)

    async def _caught_up(self, request: StoreRequest) -> StoreResponse:
        """Return what `_route` returns, sent again while a node is behind what was told: it has done nothing then."""
        for _ in range(_BEHIND_RETRIES):
            response = await self._route(request)
            if response.status != BEHIND:
                return response
            await asyncio.sleep(random.uniform(*_BEHIND_SECONDS))  # noqa: S311  A pause is no secret.
        return await self._route(request)

    async def _route(self, request: StoreRequest) -> StoreResponse:
        """Return the answer of the address that serves.

        It is sent a second time in three cases: to another address when the first surely did nothing, there or
        here when `request.may_repeat`, and to a listed address that the store redirects to.

        Raises:
            SourceUnavailableError: There is no answer, or none that can be read.
            SecretUnusableError: The secret is larger than an answer may be.

        """
        address = await self._addresses.current()
        try:
            response = await self._send_once(address, request)
        except NoTurnError:
            # Connections that hang keep everybody else waiting; another address may be free of them.
            other = await self._addresses.reconsider(address)
            if other is None:
                raise
            return await self._send_once(other, request)
        except WayError as error:
            # What was lost may have been done: only what does no harm is asked again.
            if not (isinstance(error, NothingSentError) or request.may_repeat):
                raise
            other = await self._addresses.leave(address)
            if other is None and not isinstance(error, LostError):
                raise
            return await self._send_once(other or address, request)
        if response.is_redirect:
            listed = self._addresses.listed(response.location)
            return response if listed in {None, address} else await self._send_once(str(listed), request)
        if response.is_failure(request):
            other = await self._addresses.leave(address)
            if other is not None and (response.was_not_processed or request.may_repeat):
                return await self._send_once(other, request)
        return response

    async def prefer_active(self) -> None:
        """Go over to an active address when there is one: the current one has said that it is a standby."""
        await self._addresses.reconsider(await self._addresses.current())

    async def aclose(self) -> None:
        """Close the connections for good; a second call does nothing."""
        await self._addresses.aclose()
        await self._sessions.aclose()

    async def _probe(self, address: str) -> Health:
        try:
            response = await self._send_once(address, _HEALTH)
        except (SourceUnavailableError, SecretUnusableError):
            return Health.DOWN
        # A page of something before the store has the status of a healthy one.
        return _HEALTHS.get(response.status, Health.DOWN) if isinstance(response.document, dict) else Health.DOWN

    async def _serves(self, address: str) -> bool:
        try:
            response = await self._send_once(address, _VISIBLE)
        except (SourceUnavailableError, SecretUnusableError):
            return False
        return response.status in _SERVED and isinstance(response.document, dict)

    async def _send_once(self, address: str, request: StoreRequest) -> StoreResponse:
        reserved = request.is_reserved
        await self._turns.take(address, reserved=reserved, seconds=self._seconds[request.patience])
        try:
            return await self._exchange(address, request)
        finally:
            self._turns.give_back(address, reserved=reserved)

    async def _exchange(self, address: str, request: StoreRequest) -> StoreResponse:
        began = self._clock.monotonic()
        outcome = "unavailable"
        try:
            sent = self._progress.require(request)
            response = await self._connection.exchange(address, sent)
            self._progress.saw(sent, response)
            outcome = _OUTCOMES.get(response.status, "unavailable")
        except SecretUnusableError:
            outcome = "invalid"
            raise
        except WayError as error:
            if error.alarm:
                self._observer.upstream_alarm(provider="vault", alarm=error.alarm)
            raise
        finally:
            seconds = self._clock.monotonic() - began
            self._observer.upstream_request(
                provider="vault", operation=request.operation, outcome=outcome, seconds=seconds
            )
        return response
