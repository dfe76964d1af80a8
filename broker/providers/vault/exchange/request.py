"""One request to a store, and its answer, before anybody has decided what they mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from broker.providers.vault.exchange.answers import (
    BEHIND,
    TOO_MANY,
    is_error,
    is_health,
    is_outage,
    is_shut_place,
    state_of,
    stopped_by_itself,
)

Patience = Literal["read", "login", "health"]

_OPERATIONS: Final = (
    ("/v1/auth/token/renew-self", "renew"),
    ("/v1/auth/token/lookup-self", "lookup"),
    ("/v1/auth/token/create/", "lease"),
    ("/v1/auth/token/renew-accessor", "lease"),
    ("/v1/auth/token/revoke-accessor", "lease"),
    ("/v1/auth/", "login"),
    ("/v1/sys/leases/", "lease"),
    ("/v1/sys/wrapping/", "login"),
    ("/v1/sys/internal/ui/mounts", "mounts"),
    ("/v1/sys/health", "health"),
    ("/v1/sys/leader", "health"),
)
# What keeps the broker's own access alive: may use the reserve of the budget and of the connections.
_RESERVED: Final = frozenset({"renew", "lookup", "login", "health"})
# What is about the broker's token, and belongs to the namespace that it was given in.
_OF_THE_TOKEN: Final = frozenset({"renew", "lookup", "login"})
_TOKENS: Final = "/v1/auth/token/"
# The store refuses to renew the token of a certificate without that certificate.
_IDENTIFIED: Final = frozenset({"renew", "login"})
# A GET of these changes nothing at the store, whoever sends it.
_ASKS_ONLY: Final = frozenset({"lookup", "mounts", "health"})
# Paths of the store itself; anything else is a secret's.
_OF_THE_STORE: Final = ("/v1/auth/", "/v1/sys/")
_OK: Final = 200
_REDIRECTS: Final = range(300, 400)
_FAULTS_OF_THE_ASKER: Final = range(400, 500)
_KNOWN_FAULTS: Final = frozenset({400, 403, 404, 405, BEHIND, TOO_MANY})
# What something between the broker and the store would say, whatever the store was asked; a content type that is not
# there comes as the third.
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml", "application/octet-stream", "application/json"})
# What a health document is sent with by a store that serves, the last two by a standby.
_HEALTHY: Final = frozenset({200, 429, 473})


class Place(NamedTuple):
    """What may be shut or limited by itself: a mount, or one kind of requests, within a namespace."""

    namespace: str
    part: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """One request, as hvac or the provider wants it sent; `path` is percent-encoded.

    `repeatable` is said by whoever knows the engine: a GET of a secret may be sent twice, a GET that mints
    a credential may not, and both look alike. `mount` is where it goes, if it goes to a mount: its path may
    lead through namespaces, which the path of the request alone does not tell.

    `raw_types` are the content types, other than JSON, in which its engine may give a value; None where the store
    always answers with JSON, so that anything else is not its own word.

    `operation` is the name that metrics give to it, and `place` what is shut or limited when it is.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    params: Mapping[str, str] | None = None
    body: object = None
    repeatable: bool = False
    mount: str = ""
    raw_types: frozenset[str] | None = None
    # Kept, because every decision about a request on its way asks for them again.
    operation: str = field(init=False)
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        """Note what it is for, and where it goes."""
        operation = _operation_of(self.path)
        object.__setattr__(self, "operation", operation)
        # No mount begins with a slash.
        place = Place(self.headers.get("X-Vault-Namespace", ""), self.mount or f"/{operation}")
        object.__setattr__(self, "place", place)

    @property
    def may_repeat(self) -> bool:
        """Tell whether a second copy of this request does no harm."""
        return self.repeatable or (self.method == "GET" and self.operation in _ASKS_ONLY)

    @property
    def is_reserved(self) -> bool:
        """Tell whether this request keeps the broker's access alive, and so goes before the reads."""
        return self.operation in _RESERVED

    @property
    def is_about_token(self) -> bool:
        """Tell whether this request belongs to the namespace of the auth method."""
        return is_about_token(self.path)

    @property
    def is_identified(self) -> bool:
        """Tell whether the connection has to show the certificate of a login by certificate."""
        return self.operation in _IDENTIFIED

    @property
    def patience(self) -> Patience:
        """Return the class of time-outs that this request has."""
        if self.operation == "health":
            return "health"
        return "login" if self.is_about_token else "read"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreResponse:
    """Status, JSON (None when there is none), `Retry-After`, `Location` and `X-Vault-Index` of one answer.

    `raw` is the body of one in a content type that the request names, None for any other.
    """

    status: int
    document: Any
    retry_after: float | None
    location: str = ""
    index: str = ""
    content_type: str = "application/json"
    raw: bytes | None = field(default=None, repr=False)

    @property
    def is_redirect(self) -> bool:
        """Tell whether the store says that another address would answer."""
        return self.status in _REDIRECTS

    @property
    def is_outage(self) -> bool:
        """Tell whether this address can serve nothing now, so that another one may."""
        return is_outage(self.status, self.document)

    @property
    def is_of_a_shut_place(self) -> bool:
        """Tell whether the store serves, and only the namespace that was asked is shut."""
        return is_shut_place(self.status, self.document)

    @property
    def is_limit(self) -> bool:
        """Tell whether the store limits the rate of such requests; a standby's health has the same status."""
        return self.status == TOO_MANY and not is_health(self.document)

    @property
    def state(self) -> str:
        """Return what an error answer says about the store, in fixed words."""
        return state_of(self.status, self.document)

    def is_failure(self, request: StoreRequest) -> bool:
        """Tell whether this answer to `request` counts as a failure of the store, and not of one path in it."""
        # A page of HTML with 200 is the word of somebody else, and so is the way to an address that nobody listed.
        is_foreign = self._is_foreign(request)
        if request.operation == "health":
            return is_foreign or self.status not in _HEALTHY
        return is_foreign or self.is_redirect or self.is_outage or stopped_by_itself(self.status, self.document)

    def _is_foreign(self, request: StoreRequest) -> bool:
        if self.status != _OK or isinstance(self.document, dict):
            return False
        # An engine may answer with a certificate, say, and that must shut the store for nobody.
        return request.raw_types is None or self.content_type in _PAGES

    def is_unexpected(self, request: StoreRequest) -> bool:
        """Tell whether a store never answers `request` so, and something before it may have; an engine may say more."""
        if self.status not in _FAULTS_OF_THE_ASKER or request.operation == "health":
            return False
        return not is_error(self.document) or (request.raw_types is None and self.status not in _KNOWN_FAULTS)

    @property
    def was_not_processed(self) -> bool:
        """Tell whether the store surely did nothing, so that even a request that mints may be sent elsewhere."""
        # What comes from something before the store may have been passed on to it, and the answer lost.
        return self.is_outage and self.status not in {502, 504} and isinstance(self.document, dict)


def is_about_token(path: str) -> bool:
    """Tell whether a request for an encoded `path` belongs to the namespace of the auth method."""
    return _operation_of(path) in _OF_THE_TOKEN or path.startswith(_TOKENS)


def _operation_of(path: str) -> str:
    """Return the name that metrics give to a request for an encoded `path`."""
    if not path.startswith(_OF_THE_STORE):
        return "read"
    return next((name for prefix, name in _OPERATIONS if path.startswith(prefix)), "read")
