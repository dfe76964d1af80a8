"""What every order of an administrator over HTTP has in common: who gives it, and patterns of references."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Protocol

from aiohttp import web
from pydantic import Field

from broker.errors import MalformedPatternError, NotAdministratorError
from broker.identity import PeerIdentity
from broker.orders.administration import MAX_PATTERNS, Administration, Origin
from broker.pattern import Pattern, parse_pattern
from broker.web.body import BodyLimits
from broker.web.callers import AgentDoor
from broker.web.problems import HttpRefusedError, WebCode

BODY_LIMITS: Final = BodyLimits(max_bytes=64 * 1024)

PatternTexts = Annotated[list[str], Field(min_length=1, max_length=MAX_PATTERNS)]


class Refuse(Protocol):
    """Puts on record that somebody may not give an order."""

    async def __call__(self, *, reason: str, origin: Origin) -> None:
        """Return when it is on record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdministratorDoor:
    """Lets administrators in before a byte of their orders is read."""

    administration: Administration
    agents: AgentDoor

    async def admit(self, request: web.Request, *, refuse: Refuse) -> tuple[PeerIdentity, Origin]:
        """Return who gives an order, and where it comes from.

        Raises:
            IdentityRefusedError: The certificate names nobody.
            NotAdministratorError: Policy does not name the peer as an administrator.
            OrderRateError: Too many were refused lately.
            HttpRefusedError: A token was presented.
            AuditUnavailableError: A refusal can't be put on record.

        """
        caller = await self.agents.identify(request)
        peer = caller.peer
        origin = Origin(identity=peer.name, address=str(caller.address), request=caller.request)
        try:
            self.administration.require(peer)
        except NotAdministratorError as error:
            await refuse(reason=error.code, origin=origin)
            raise
        if "Authorization" in request.headers:
            # A token narrows what its holder may do, and has no words for orders.
            message = "administrators prove themselves by their certificate alone; leave out Authorization"
            raise HttpRefusedError(WebCode.AUTHORIZATION_MALFORMED, message)
        return peer, origin


def patterns_of(texts: Sequence[str]) -> tuple[Pattern, ...]:
    """Return the patterns that an order names.

    Raises:
        MalformedPatternError: One is none; names which, and the position.

    """
    return tuple(map(_pattern, range(len(texts)), texts))


def _pattern(index: int, text: str) -> Pattern:
    try:
        return parse_pattern(text)
    except MalformedPatternError as error:
        detail = f"references[{index}], character {error.position + 1}: {error.detail}"
        raise MalformedPatternError(detail, position=error.position) from None
