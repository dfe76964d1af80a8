"""Orders about leases over HTTP: an administrator takes back one, those of an identity or of references, or all."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from broker.leases.upkeep import Withdrawal
from broker.orders.leases import OrderLeases, Selection
from broker.web.answer import json_answer
from broker.web.body import read_model
from broker.web.routes.administrators import BODY_LIMITS, AdministratorDoor, PatternTexts, patterns_of

REVOKE_PATH: Final = "/v1/leases/revoke"
_MAX_LEFT: Final = 100
_Name = Annotated[str, Field(min_length=1, max_length=2048)]


class RevokeRequest(BaseModel):
    """The body of an order: exactly one of a lease, an identity, references, and everything."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    lease: _Name | None = None
    identity: _Name | None = None
    references: PatternTexts | None = None
    everything: Literal[True] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if sum(part is not None for part in (self.lease, self.identity, self.references, self.everything)) != 1:
            message = "name one of lease, identity and references, or write everything: true"
            raise ValueError(message)
        return self

    @property
    def selection(self) -> Selection:
        """Return what is named. Raises: MalformedPatternError."""
        return Selection(
            lease=self.lease or "",
            identity=self.identity or "",
            patterns=patterns_of(self.references or ()),
            everything=self.everything is True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RevokeHandler:
    orders: OrderLeases
    door: AdministratorDoor

    async def handle(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/leases/revoke`."""
        peer, origin = await self.door.admit(request, refuse=self.orders.refuse)
        asked = await read_model(request, RevokeRequest, BODY_LIMITS)
        done = await self.orders.revoke(asked.selection, peer=peer, origin=origin)
        return json_answer(_document(done))


def lease_order_routes(*, orders: OrderLeases, door: AdministratorDoor) -> list[web.RouteDef]:
    """Return the route for administrators."""
    return [web.post(REVOKE_PATH, _RevokeHandler(orders=orders, door=door).handle)]


def _document(done: Withdrawal) -> dict[str, object]:
    """Return how far it came; of what is left, the first hundred with the reason, null when it waits for its turn."""
    return {
        "leases": done.leases,
        "revoked": done.leases - len(done.left),
        "revoking": [
            {
                "id": record.id,
                "code": None if failure is None else failure.code,
                "detail": None if failure is None else failure.detail,
            }
            for record, failure in done.left[:_MAX_LEFT]
        ],
    }
