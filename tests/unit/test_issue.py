import pytest
from prometheus_client import CollectorRegistry

from broker.audit.event import AuditEvent, EventKind, Outcome
from broker.errors import (
    AuditUnavailableError,
    BrokerError,
    InvalidClientError,
    ScopeRefusedError,
    UnauthorizedClientError,
)
from broker.identity import IdentityKind, PeerIdentity
from broker.issue import IssuedToken, IssueToken
from broker.metrics import Metrics
from broker.policy.current import CurrentPolicy
from broker.policy.engine import compile_policy
from broker.tokens import SigningKey, TokenVerifier

NOW = 1_795_000_000
ISSUER = "https://broker.example"
NAME = "spiffe://prod.example/shipper"
KEY = SigningKey(SigningKey.generate_pem())
POLICY = """\
identities:
  shipper: { spiffe: "spiffe://prod.example/shipper", environment: production }
rules:
  - { name: one, allow: ["vault:secret/logflux#*", "env:A"], to: [shipper] }
"""


class Clock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return NOW


class Recorder:
    def __init__(self, *, failing: bool = False) -> None:
        self.events: list[AuditEvent] = []
        self.failing = failing

    async def append(self, event: AuditEvent) -> None:
        if self.failing:
            raise AuditUnavailableError("the disk is full")
        self.events.append(event)


def peer(name: str = NAME, not_after: float = NOW + 10_000) -> PeerIdentity:
    return PeerIdentity(IdentityKind.SPIFFE, name, "t" * 43, NOW - 100, not_after)


async def issue(
    scope: str, *, recorder: Recorder | None = None, who: PeerIdentity | None = None, client_id: str = NAME
) -> IssuedToken:
    use_case = IssueToken(
        policy=CurrentPolicy(compile_policy(POLICY)),
        signer=KEY,
        trail=recorder or Recorder(),
        metrics=Metrics(registry=CollectorRegistry(), version="0"),
        clock=Clock(),
        lifetime_seconds=300,
        issuer=ISSUER,
        audience=ISSUER,
    )
    return await use_case.issue(
        peer=who or peer(), client_id=client_id, unverified_scope=scope, address="127.0.0.1", request="r"
    )


async def test_a_token_has_the_asked_scope_and_verifies_for_its_holder_alone() -> None:
    issued = await issue("env:A vault:secret/logflux#api_key")
    verifier = TokenVerifier(issuer=ISSUER, audience=ISSUER, keys={KEY.kid: KEY}, max_lifetime=3600)
    claims = verifier.verify(issued.access_token.reveal().decode(), peer=peer(), now=NOW)
    assert [pattern.text for pattern in claims.scope] == ["env:A", "vault:secret/logflux#api_key"]
    assert (issued.expires_in, claims.environment, claims.subject) == (300, "production", NAME)


@pytest.mark.parametrize(
    "scope", ["env:B", "env:A env:B", "vault:secret/logflux", "vault:secret/*#x", "vault:**", "env:*"]
)
async def test_a_scope_that_is_more_than_policy_gives_is_refused(scope: str) -> None:
    with pytest.raises(ScopeRefusedError):
        await issue(scope)


@pytest.mark.parametrize(
    "scope", ["", " ", "env:A ", "env:A  env:A", "env%3AA", "vault:a%2fb#c", "x", "env:\u00e9", "env:A\n"]
)
async def test_a_malformed_or_empty_scope_is_refused(scope: str) -> None:
    with pytest.raises(ScopeRefusedError):
        await issue(scope)


async def test_the_client_is_who_its_certificate_says() -> None:
    with pytest.raises(InvalidClientError):
        await issue("env:A", client_id="spiffe://prod.example/other")


async def test_an_identity_that_policy_does_not_know_gets_no_token() -> None:
    stranger = "spiffe://prod.example/stranger"
    with pytest.raises(UnauthorizedClientError):
        await issue("env:A", who=peer(stranger), client_id=stranger)


async def test_a_token_does_not_outlive_the_certificate() -> None:
    assert (await issue("env:A", who=peer(not_after=NOW + 60))).expires_in == 60


async def test_success_and_refusal_are_on_record() -> None:
    recorder = Recorder()
    await issue("env:A", recorder=recorder)
    with pytest.raises(BrokerError):
        await issue("env:B", recorder=recorder)
    assert [(event.kind, event.outcome, event.reason) for event in recorder.events] == [
        (EventKind.TOKEN, Outcome.SUCCESS, ""),
        (EventKind.TOKEN, Outcome.FAILURE, "invalid_scope"),
    ]
    assert recorder.events[0].token


async def test_no_token_leaves_without_its_record() -> None:
    with pytest.raises(AuditUnavailableError):
        await issue("env:A", recorder=Recorder(failing=True))
