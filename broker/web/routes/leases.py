"""The routes of leases: an identity sees and ends its own, and no other's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import web

from broker.audit.event import EventKind
from broker.identity import PeerIdentity
from broker.leases.record import LeaseRecord
from broker.leases.upkeep import Revocation
from broker.web.answer import json_answer, rfc3339
from broker.web.callers import AgentDoor

LEASES_PATH: Final = "/v1/leases"
LEASE_PATH: Final = "/v1/leases/{id}"


class Leases(Protocol):
    """What is asked of the leases."""

    def of(self, peer: PeerIdentity) -> Sequence[LeaseRecord]:
        """Return the leases of `peer`, the oldest first."""
        ...

    async def revoke(self, lease_id: str, peer: PeerIdentity) -> Revocation:
        """Revoke a lease of `peer`, now or behind. Raises: LeaseUnknownError."""
        ...


def lease_routes(*, leases: Leases, door: AgentDoor) -> list[web.RouteDef]:
    """Return the routes of leases."""
    handler = _LeaseHandler(leases=leases, door=door)
    return [web.get(LEASES_PATH, handler.show, allow_head=False), web.delete(LEASE_PATH, handler.revoke)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _LeaseHandler:
    leases: Leases
    door: AgentDoor

    async def show(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/leases`."""
        peer = await self._peer(request)
        document = {"leases": [lease_document(record) for record in self.leases.of(peer)]}
        return json_answer(document)

    async def revoke(self, request: web.Request) -> web.Response:
        """Answer `DELETE /v1/leases/{id}`."""
        peer = await self._peer(request)
        lease_id = request.match_info["id"]
        revocation = await self.leases.revoke(lease_id, peer)
        if revocation.gone:
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        failure = revocation.failure
        document = {
            "id": lease_id,
            "state": "revoking",
            "code": None if failure is None else failure.code,
            "detail": None if failure is None else failure.detail,
        }
        return json_answer(document, status=202)

    async def _peer(self, request: web.Request) -> PeerIdentity:
        return (await self.door.admit(request, EventKind.LEASE)).peer


def lease_document(record: LeaseRecord) -> dict[str, Any]:
    """Return what may be told of a lease; the store's own name of it never is."""
    return {
        "id": record.id,
        "reference": record.source,
        "state": record.state.value,
        "reason": record.reason.value,
        "renewable": record.renewable,
        "created_at": rfc3339(record.created),
        "expires_at": rfc3339(record.expires),
        "revoked_from": None if record.due is None else rfc3339(record.due),
    }
