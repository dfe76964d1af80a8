"""Stand-ins that implement the production protocols, for tests of what is above them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from broker.audit.event import AuditEvent
from broker.errors import (
    AuditUnavailableError,
    IdentityRefusedError,
    MissingPart,
    SecretMissingError,
    TokenRefusedError,
    TokenRefusedReason,
)
from broker.identity import IdentityKind, PeerIdentity
from broker.leases.record import LeaseReason, LeaseRecord, LeaseState
from broker.metrics import Metrics
from broker.policy.decision import Allow, Context, Decision, Deny, DenyReason
from broker.reference import Reference, Source
from broker.secret import Reading, SecretDocument, SecretValue
from broker.tokens import TokenClaims

START = 1_800_000_000.0


class FakeClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.wall = START
        self.steady = 1000.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def fake_metrics() -> Metrics:
    return Metrics(registry=CollectorRegistry(), version="0")


def fake_peer(name: str = "spiffe://prod.example/shipper", kind: IdentityKind = IdentityKind.SPIFFE) -> PeerIdentity:
    return PeerIdentity(kind=kind, name=name, thumbprint="t" * 43, not_before=0, not_after=START + 86_400)


def fake_lease(**facts: Any) -> LeaseRecord:
    return LeaseRecord(
        **{
            "id": "lease_a",
            "provider": "vault",
            "source": "vault:database/creds/app",
            "identity_kind": IdentityKind.SPIFFE,
            "identity": "spiffe://prod.example/shipper",
            "state": LeaseState.LIVE,
            "reason": LeaseReason.NONE,
            "handle": "handle-4711",
            "parent": "",
            "renewable": True,
            "created": START,
            "expires": START + 3600,
            "due": None,
            **facts,
        }
    )


def text_reading(text: str, **facts: object) -> Reading:
    return Reading(SecretDocument.of_bytes(text.encode()), **facts)


def fields_reading(**fields: object) -> Reading:
    return Reading(SecretDocument.of_fields(fields, size=len(str(fields))), version="1", upstream_request="up-1")


@dataclass
class FakeProvider:
    """Answers from a dictionary of paths; an exception as value is raised. `gate` holds every read back."""

    sources: dict[str, Reading | Exception] = field(default_factory=dict)
    fetched: list[Source] = field(default_factory=list)
    gate: asyncio.Event | None = None
    refused: Exception | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self, source: Source) -> None:
        if self.refused is not None:
            raise self.refused

    async def fetch(self, source: Source) -> Reading:
        self.fetched.append(source)
        self.began.set()
        if self.gate is not None:
            await self.gate.wait()
        answer = self.sources.get(source.path)
        if answer is None:
            raise SecretMissingError("there is no such path", part=MissingPart.PATH)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ping(self) -> None:
        return None

    async def aclose(self) -> None:
        return None


class NoLeases:
    """Stands for leases where nothing mints."""

    async def lookup(self, *_: object, **__: object) -> None:
        return None

    async def get(self, *_: object, **__: object) -> None:
        raise AssertionError("nothing mints here")


@dataclass
class FakePolicy:
    """Allows every reference that starts with one of `allowed`; is its own holder of the policy in force."""

    allowed: dict[str, Allow] = field(default_factory=dict)
    environment: str = "production"
    known: bool = True
    administrator: bool = False
    asked: list[tuple[Reference, Context]] = field(default_factory=list)

    @property
    def current(self) -> "FakePolicy":
        return self

    def decide_all(
        self, *, identity: PeerIdentity, references: Sequence[Reference], context: Context
    ) -> list[Decision]:
        return [self._decide(reference, context) for reference in references]

    def _decide(self, reference: Reference, context: Context) -> Decision:
        self.asked.append((reference, context))
        if context.scope is not None and not any(pattern.covers_reference(reference) for pattern in context.scope):
            return Deny(DenyReason.SCOPE)
        matching = [allow for prefix, allow in self.allowed.items() if reference.text.startswith(prefix)]
        return matching[0] if matching else Deny(DenyReason.NO_RULE)

    def recognises(self, identity: PeerIdentity) -> bool:
        return self.known

    def gives_any_of(self, *, identity: PeerIdentity, reference: Reference) -> bool:
        return self.known and any(
            reference.text.startswith(prefix) or prefix.startswith(reference.text) for prefix in self.allowed
        )

    def administers(self, identity: PeerIdentity) -> bool:
        return self.administrator

    def environment_of(self, identity: PeerIdentity) -> str | None:
        return self.environment if self.known else None


@dataclass
class FakeVerifier:
    """Knows tokens by their text."""

    claims: dict[str, TokenClaims] = field(default_factory=dict)

    def verify(self, unverified_token: str, *, peer: PeerIdentity, now: float) -> TokenClaims:
        if unverified_token not in self.claims:
            raise TokenRefusedError("the token is not one of ours", reason=TokenRefusedReason.SIGNATURE)
        return self.claims[unverified_token]


@dataclass
class FakeTrail:
    """Keeps events; `full` makes every append fail, `on_append` sees each before it is durable."""

    events: list[AuditEvent] = field(default_factory=list)
    full: bool = False
    on_append: Callable[[], None] | None = None

    async def append(self, event: AuditEvent) -> None:
        if self.on_append is not None:
            self.on_append()
        if self.full:
            raise AuditUnavailableError("the audit record can't be written; look at the disk of the audit database")
        self.events.append(event)


class FakeFingerprints:
    """Names values by nothing that a value could be found by."""

    def of(self, value: SecretValue) -> str:
        return f"fp:k1:{value.size}"


@dataclass
class FakePeers:
    """Gives the same peer to every request, or refuses it."""

    peer: PeerIdentity = field(default_factory=fake_peer)
    refusal: IdentityRefusedError | None = None

    def peer_of(self, request: web.Request, *, now: float) -> PeerIdentity:
        if self.refusal is not None:
            raise self.refusal
        return self.peer
