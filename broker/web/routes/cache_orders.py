"""Orders to the cache over HTTP: by administrators to the agents' listener, by signed webhooks to the other one."""

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, model_validator

from broker.clock import Clock
from broker.errors import BrokerError, WebhookRefusedError
from broker.orders.administration import Origin
from broker.orders.cache import Action, Order, OrderCache, Way
from broker.orders.webhook import HEADERS, WebhookVerifier, read_headers
from broker.pattern import Pattern
from broker.web.answer import json_answer
from broker.web.body import model_of, read_bytes, read_model
from broker.web.callers import address_of
from broker.web.middleware import request_id_of
from broker.web.routes.administrators import BODY_LIMITS, AdministratorDoor, PatternTexts, patterns_of

INVALIDATE_PATH: Final = "/v1/cache/invalidate"
REFRESH_PATH: Final = "/v1/cache/refresh"
WEBHOOK_PATH: Final = "/v1/cache/webhook"


class OrderRequest(BaseModel):
    """The body of an administrator's order: patterns of references, or everything."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    references: PatternTexts | None = None
    everything: Literal[True] | None = None

    @model_validator(mode="after")
    def _names_one_of_both(self) -> Self:
        if (self.references is None) == (self.everything is None):
            message = "name references, or write everything: true"
            raise ValueError(message)
        return self

    @property
    def patterns(self) -> tuple[Pattern, ...] | None:
        """Return the patterns, None for everything.

        Raises:
            MalformedPatternError: One is none; names which, and the position.

        """
        return None if self.references is None else patterns_of(self.references)


class WebhookRequest(OrderRequest):
    """The body of a webhook: an order that names its action."""

    action: Literal["invalidate", "refresh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _AdministratorHandler:
    orders: OrderCache
    door: AdministratorDoor

    async def invalidate(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/cache/invalidate`."""
        return await self._handle(request, Action.INVALIDATE)

    async def refresh(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/cache/refresh`."""
        return await self._handle(request, Action.REFRESH)

    async def _handle(self, request: web.Request, action: Action) -> web.Response:
        refuse = partial(self.orders.refuse, Way.ADMINISTRATOR)
        peer, origin = await self.door.admit(request, refuse=refuse)
        asked = await read_model(request, OrderRequest, BODY_LIMITS)
        order = Order(action=action, patterns=asked.patterns)
        return _answer(await self.orders.by_administrator(order, peer=peer, origin=origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class _WebhookHandler:
    orders: OrderCache
    verifier: WebhookVerifier
    clock: Clock

    async def handle(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/cache/webhook`."""
        instance, address = request_id_of(request), str(address_of(request))
        try:
            message = read_headers({name: request.headers.getall(name, []) for name in HEADERS})
            body = await read_bytes(request, BODY_LIMITS)
            key = self.verifier.verify(message, body, now=self.clock.now())
        except WebhookRefusedError as error:
            origin = Origin(address=address, request=instance)
            await self.orders.refuse(Way.WEBHOOK, reason=error.reason, origin=origin)
            raise
        asked = model_of(body, WebhookRequest)
        order = Order(action=Action(asked.action), patterns=asked.patterns)
        # Before the first await, so that two copies at once are still taken once.
        self.verifier.take(message)
        try:
            count = await self.orders.by_webhook(order, origin=Origin(key=key, address=address, request=instance))
        except BrokerError:
            self.verifier.give_back(message)
            raise
        return _answer(count)


def cache_order_routes(*, orders: OrderCache, door: AdministratorDoor) -> list[web.RouteDef]:
    """Return the routes for administrators."""
    handler = _AdministratorHandler(orders=orders, door=door)
    return [web.post(INVALIDATE_PATH, handler.invalidate), web.post(REFRESH_PATH, handler.refresh)]


def webhook_route(*, orders: OrderCache, verifier: WebhookVerifier, clock: Clock) -> web.RouteDef:
    """Return the route for webhooks."""
    return web.post(WEBHOOK_PATH, _WebhookHandler(orders=orders, verifier=verifier, clock=clock).handle)


def _answer(count: int) -> web.Response:
    return json_answer({"sources": count})
