import pytest
from prometheus_client import CollectorRegistry

from broker.audit.event import EventKind, Outcome
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
from tests.fakes import FakeTrail

NOW = 1_795_000_000
ISSUER = "https://broker.example"
NAME = "spiffe://prod.example/shipper"
KEY = SigningKey(SigningKey.generate_pem())
POLICY = """\
identities:
  shipper: { spiffe: "spiffe://prod.example/shipper", environment: production }
rules:
  - { name: one, allow: ["vault:secret/logflux#*", "env:A", "file:/var/secrets/**"], to: [shipper] }
"""


class Clock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return NOW


def peer(name: str = NAME, not_after: float = NOW + 10_000) -> PeerIdentity:
    return PeerIdentity(IdentityKind.SPIFFE, name, "t" * 43, NOW - 100, not_after)


async def issue(
    scope: str,
    *,
    recorder: FakeTrail | None = None,
    who: PeerIdentity | None = None,
    client_id: str = NAME,
    registry: CollectorRegistry | None = None,
) -> IssuedToken:
    use_case = IssueToken(
        policy=CurrentPolicy(compile_policy(POLICY)),
        signer=KEY,
        trail=recorder or FakeTrail(),
        metrics=Metrics(registry=registry or CollectorRegistry(), version="0"),
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
    "scope",
    [
        "",
        " ",
        "env:A ",
        "env:A  env:A",
        "env%3AA",
        "vault:a%2fb#c",
        "vault:secret/%2e%2e#c",
        "vault:secret/logflux#%c0%af",
        "vault:secret/logflux#%00",
        'vault:secret/logflux#"',
        "vault:secret/logflux#\\",
        "x",
        "env:\u00e9",
        "env:A\n",
        "env:A\0",
        " ".join(f"vault:secret/logflux#{number:0>1000}" for number in range(256)),
    ],
    ids=range(16),
)
async def test_a_malformed_or_empty_scope_is_refused(scope: str) -> None:
    with pytest.raises(ScopeRefusedError):
        await issue(scope)


async def test_a_whole_part_of_what_policy_gives_may_be_asked() -> None:
    assert (
        await issue("vault:secret/logflux#* file:/var/secrets/a/*")
    ).scope == "vault:secret/logflux#* file:/var/secrets/a/*"


async def test_a_pattern_that_is_asked_twice_is_given_once() -> None:
    assert (await issue("env:A env:A")).scope == "env:A"


async def test_a_scope_that_makes_the_token_too_long_to_be_sent_is_refused() -> None:
    # Each character of two bytes is six in the scope, and eight in the token.
    names = [f"file:/var/secrets/{number}{'%C3%A9' * 10}" for number in range(50)]
    assert len(" ".join(names)) <= 4096
    assert (await issue(" ".join(names))).access_token.size <= 7000
    stretched = peer("spiffe://prod.example/" + "s" * 1500)
    policy = POLICY.replace("spiffe://prod.example/shipper", stretched.name)
    recorder = FakeTrail()
    use_case = IssueToken(
        policy=CurrentPolicy(compile_policy(policy)),
        signer=KEY,
        trail=recorder,
        metrics=Metrics(registry=CollectorRegistry(), version="0"),
        clock=Clock(),
        lifetime_seconds=300,
        issuer=ISSUER,
        audience=ISSUER,
    )
    with pytest.raises(ScopeRefusedError, match="too long"):
        await use_case.issue(
            peer=stretched, client_id=stretched.name, unverified_scope=" ".join(names), address="", request=""
        )
    assert [event.reason for event in recorder.events] == ["invalid_scope"]


async def test_the_client_is_who_its_certificate_says() -> None:
    with pytest.raises(InvalidClientError):
        await issue("env:A", client_id="spiffe://prod.example/other")


async def test_an_identity_that_policy_does_not_know_gets_no_token() -> None:
    stranger = "spiffe://prod.example/stranger"
    with pytest.raises(UnauthorizedClientError):
        await issue("env:A", who=peer(stranger), client_id=stranger)


async def test_a_token_does_not_outlive_the_certificate() -> None:
    assert (await issue("env:A", who=peer(not_after=NOW + 60))).expires_in == 60


async def test_each_token_has_a_name_of_its_own_and_it_is_on_record() -> None:
    recorder = FakeTrail()
    verifier = TokenVerifier(issuer=ISSUER, audience=ISSUER, keys={KEY.kid: KEY}, max_lifetime=3600)
    for _ in range(3):
        issued = await issue("env:A", recorder=recorder)
        claims = verifier.verify(issued.access_token.reveal().decode(), peer=peer(), now=NOW)
        assert recorder.events[-1].token == claims.token_id
    assert len({event.token for event in recorder.events}) == 3


async def test_a_record_says_who_asked_from_where_and_never_the_token() -> None:
    recorder = FakeTrail()
    issued = await issue("env:A", recorder=recorder)
    [event] = recorder.events
    assert (event.identity, event.environment, event.address, event.request) == (NAME, "production", "127.0.0.1", "r")
    assert event.details == {"scope": "env:A", "expires": NOW + 300}
    assert issued.access_token.reveal().decode().rpartition(".")[2] not in repr(event)
    assert "***" in repr(issued)


async def test_a_refused_scope_says_the_same_whatever_exists() -> None:
    details = set()
    for scope in ("vault:secret/other#api_key", "vault:nowhere/at-all#x", "env:UNSET"):
        with pytest.raises(ScopeRefusedError) as raised:
            await issue(scope)
        details.add(raised.value.detail)
    assert len(details) == 1


async def test_every_answer_is_counted_by_its_outcome() -> None:
    registry = CollectorRegistry()
    await issue("env:A", registry=registry)
    assert registry.get_sample_value("broker_tokens_total", {"outcome": "issued"}) == 1
    registry = CollectorRegistry()
    with pytest.raises(ScopeRefusedError):
        await issue("env:B", registry=registry)
    assert registry.get_sample_value("broker_tokens_total", {"outcome": "invalid_scope"}) == 1
    registry = CollectorRegistry()
    with pytest.raises(AuditUnavailableError):
        await issue("env:A", recorder=FakeTrail(full=True), registry=registry)
    assert registry.get_sample_value("broker_tokens_total", {"outcome": "issued"}) is None


async def test_success_and_refusal_are_on_record() -> None:
    recorder = FakeTrail()
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
        await issue("env:A", recorder=FakeTrail(full=True))
