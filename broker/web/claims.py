"""What a request has in memory, kept with the request until its answer has been taken."""

from typing import Final

from aiohttp import web

from broker.limits.in_flight import Claim, InFlight

_CLAIM: Final = web.RequestKey("claim", Claim)


def begin_claim(request: web.Request, in_flight: InFlight, lane: str) -> Claim:
    """Return what counts for `request`, which is the identity `lane`'s; its connection closes it."""
    claim = request[_CLAIM] = in_flight.claim(lane)
    return claim


def claim_of(request: web.BaseRequest) -> Claim | None:
    """Return what counts for `request`, None where nobody has been let in by an identity."""
    return request.get(_CLAIM)
