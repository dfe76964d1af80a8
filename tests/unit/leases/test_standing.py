"""What a lease stands on: the policy, and the certificates that it was given to."""

import asyncio
from dataclasses import replace

import pytest

from broker.cache.remembered import Cached
from broker.errors import SourceUnavailableError, StateUnavailableError
from broker.identity import IdentityKind, PeerIdentity
from broker.leases.record import LeaseState
from broker.policy.decision import Allow
from broker.policy.engine import compile_policy
from broker.reference import parse
from tests.fakes import FakePolicy, fake_lease
from tests.lease_desk import HOUR, PASSWORD, SOURCE, USER, Desk, FakeTrust, asker, values
from tests.waiting import until

ISSUER = "issuer of authority"


@pytest.fixture
def desk() -> Desk:
    return Desk()


def revoke(desk: Desk, *certificates: str) -> None:
    """Put another revocation list in force."""
    desk.trust = FakeTrust(revoked=frozenset(certificates))


@pytest.mark.parametrize("revoked", ["first", "second", ISSUER])
async def test_a_lease_ends_when_any_certificate_that_got_it_is_revoked_or_one_that_vouches_for_it(
    desk: Desk, revoked: str
) -> None:
    await desk.get()
    await desk.get(certificate="second")
    revoke(desk, "another")
    await desk.work()
    assert len(desk.mint.leases) == 1
    revoke(desk, "another", revoked)
    await desk.work()
    assert desk.mint.leases == {}
    assert desk.state.rows == desk.state.given == {}
    assert desk.trail.events[-1].references[0].reason == "certificate_revoked"


async def test_the_other_certificates_of_the_identity_get_another_lease(desk: Desk) -> None:
    await desk.get()
    await desk.get(certificate="second")
    revoke(desk, "first")
    await desk.work()
    assert values(await desk.get(certificate="second")) == (b"user-2", b"pass-2")
    await desk.work()
    assert list(desk.mint.leases) == ["database/creds/app/2"], "the revoked one never got it"


async def test_who_gets_a_lease_is_durable_before_it_is_handed_out_and_written_once(desk: Desk) -> None:
    await desk.get()
    assert {name for _, name in desk.state.given} == {"first", ISSUER}
    await desk.get(certificate="second")
    assert {name for _, name in desk.state.given} == {"first", "second", ISSUER}
    desk.state.broken = True
    for certificate in ("first", "second"):
        assert values(await desk.get(certificate=certificate)) == (b"user-1", b"pass-1")
    with pytest.raises(StateUnavailableError):
        await desk.get(certificate="third")


async def test_after_a_restart_it_is_known_who_got_a_lease_and_asked_what_was_revoked_meanwhile(desk: Desk) -> None:
    await desk.get()
    await desk.get(certificate="second")
    revoke(desk, "second")
    await desk.restart().open()
    await desk.work()
    assert desk.mint.leases == {}


async def test_one_that_was_replaced_ends_without_the_overlap(desk: Desk) -> None:
    desk.mint.renewable = False
    await desk.get()
    desk.clock.advance(HOUR * 0.7)
    await desk.get(certificate="second")
    revoke(desk, "first")
    await desk.work()
    assert list(desk.mint.leases) == ["database/creds/app/2"]


async def minting(desk: Desk, *certificates: str) -> "list[asyncio.Task[Cached]]":
    desk.mint.gate, began = asyncio.Event(), asyncio.Event()
    desk.mint.before = lambda call: began.set() if call == "mint" else None
    asking = [asyncio.create_task(desk.get(certificate=certificate)) for certificate in certificates]
    await began.wait()
    return asking


@pytest.mark.parametrize("revoked", ["first", "second"])
async def test_what_is_revoked_while_a_lease_is_made_counts_before_it_is_handed_out(desk: Desk, revoked: str) -> None:
    asking = await minting(desk, "first", "second")
    revoke(desk, revoked)
    await desk.leases.upkeep.heed()
    assert desk.mint.gate is not None
    desk.mint.gate.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(outcomes[("first", "second").index(revoked)], SourceUnavailableError)
    await desk.work()
    assert desk.mint.leases == {}


async def test_what_is_revoked_while_a_lease_is_made_for_someone_who_has_gone_counts_too(desk: Desk) -> None:
    [asking] = await minting(desk, "first")
    revoke(desk, "first")
    await desk.leases.upkeep.heed()
    asking.cancel()
    assert desk.mint.gate is not None
    desk.mint.gate.set()
    await until(lambda: all(row.state is not LeaseState.MINTING for row in desk.state.rows.values()))
    await desk.work()
    assert desk.mint.leases == {}


async def test_what_is_revoked_while_it_is_written_who_gets_a_lease_counts_before_it_is_handed_out(desk: Desk) -> None:
    await desk.get()
    keep = desk.state.keep_leases

    async def slow(*written: object) -> None:
        await keep(*written)  # type: ignore[arg-type]  # As it came.
        revoke(desk, "second")
        await desk.leases.upkeep.heed()

    desk.state.keep_leases = slow  # type: ignore[method-assign]  # A disk that takes its time.
    with pytest.raises(SourceUnavailableError, match="withdrawn"):
        await desk.get(certificate="second")
    desk.state.keep_leases = keep  # type: ignore[method-assign]
    await desk.work()
    assert desk.mint.leases == {}


async def test_a_lease_ends_when_no_authority_counts_any_more_that_vouched_for_those_who_got_it(desk: Desk) -> None:
    desk.trust = FakeTrust(anchors=frozenset({"old", "new"}))
    await desk.leases.get(SOURCE, asker(anchor="old"), [USER, PASSWORD], fresh_for=300.0)
    await desk.leases.get(SOURCE, asker(certificate="second", anchor="new"), [USER, PASSWORD], fresh_for=300.0)
    desk.trust = FakeTrust(anchors=frozenset({"new"}))
    await desk.work()
    assert len(desk.mint.leases) == 1, "an agent with a certificate of the next authority has it, too"
    desk.trust = FakeTrust(anchors=frozenset({"third"}))
    await desk.work()
    assert desk.mint.leases == {}
    assert desk.trail.events[-1].references[0].reason == "authority_dropped"


async def test_a_lease_from_before_holders_were_known_stands(desk: Desk) -> None:
    desk.state.rows["lease_a"] = fake_lease()
    revoke(desk, "first")
    await desk.restart().open()
    await desk.work()
    assert list(desk.state.rows) == ["lease_a"]


async def test_certificates_that_have_ended_long_ago_are_let_go_of(desk: Desk) -> None:
    desk.mint.seconds = desk.mint.max_seconds = 30 * 86_400
    await desk.get()
    old = replace(asker(certificate="short").peer, not_after=desk.clock.now() + 60)
    await desk.leases.get(SOURCE, replace(asker(), peer=old), [USER], fresh_for=300.0)
    assert len(desk.state.given) == 3
    await desk.work(6 * 86_400)
    assert "short" in {name for _, name in desk.state.given}
    await desk.work(3 * 86_400)
    assert desk.state.given == {}


async def test_a_policy_that_changed_while_the_broker_was_away_counts_after_its_start(desk: Desk) -> None:
    await desk.get()
    desk.held = FakePolicy(known=False)
    await desk.restart().open()
    await desk.work()
    assert desk.mint.leases == {}


async def test_after_a_restart_a_rule_that_is_taken_away_takes_the_lease_with_it(desk: Desk) -> None:
    await desk.get()
    await desk.restart().open()
    desk.held = FakePolicy(allowed={USER.text: Allow("r", 300.0, 3600.0)})
    await desk.work()
    assert len(desk.mint.leases) == 1, "a part of it is still allowed"
    desk.held = FakePolicy(allowed={"vault:secret/": Allow("r", 300.0, 3600.0)})
    await desk.work()
    assert desk.mint.leases == {}


POLICY = """\
identities:
  app: {{ spiffe: "spiffe://prod.example/app", environment: production }}
  admin: {{ spiffe: "spiffe://prod.example/admin", environment: production }}
environments: {{ production: {{ owns: ["vault:none/z"] }}, other: {{ owns: [{owned}] }} }}
administrators: [admin]
rules:
  - {{ name: a, allow: [{allow}], to: [app] }}
  - {{ name: d, deny: [{deny}], to: [app]{when} }}
"""
CREDS, ISSUE = "vault:database/creds/app", "vault:pki/issue/a?common_name=a.example&ttl=1h"


@pytest.mark.parametrize(
    ("facts", "reference", "gives"),
    [
        ({"allow": f'"{CREDS}#username"'}, CREDS, True),
        ({"allow": '"vault:database/creds/other#*"'}, CREDS, False),
        ({"allow": '"vault:pki/issue/a?common_name=*&ttl=*#*"'}, ISSUE, True),
        ({"allow": '"vault:pki/issue/a?common_name=*#*"'}, ISSUE, False),
        ({"deny": f'"{CREDS}"'}, CREDS, False),
        ({"deny": f'"{CREDS}#password"'}, CREDS, True),
        ({"deny": f'"{CREDS}"', "when": ', when: { networks: ["10.0.0.0/8"] }'}, CREDS, True),
        ({"owned": '"vault:database/**"'}, CREDS, False),
        ({"identity": "spiffe://prod.example/admin"}, CREDS, False),
        ({"identity": "spiffe://prod.example/nobody"}, CREDS, False),
    ],
)
def test_whether_a_policy_gives_any_part_of_what_was_given(facts: dict[str, str], reference: str, gives: bool) -> None:
    facts = {"allow": f'"{CREDS}"', "deny": '"vault:none/x"', "owned": '"vault:none/y"', "when": "", **facts}
    name = facts.pop("identity", "spiffe://prod.example/app")
    policy = compile_policy(POLICY.format(**facts))
    identity = PeerIdentity(kind=IdentityKind.SPIFFE, name=name, thumbprint="", not_before=0, not_after=0)
    assert policy.gives_any_of(identity=identity, reference=parse(reference)) is gives
