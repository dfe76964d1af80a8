"""The life of a lease, with a provider that mints in memory and a clock that stands still."""

import asyncio
from dataclasses import replace
from typing import NoReturn

import pytest

from broker.audit.event import AuditEvent
from broker.cache.remembered import Cached
from broker.errors import (
    FetchError,
    LeaseUnknownError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    StateUnavailableError,
    UpstreamDeniedError,
)
from broker.leases.record import Holder, LeaseRecord, LeaseState
from broker.policy.decision import Allow
from broker.providers.base import Extension, Grip, Leasing
from tests.fakes import START, FakePolicy, fake_lease, fake_peer
from tests.lease_desk import HOUR, USER, Desk, values


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_fake_and_the_real_provider_are_told_to_be_leasing(desk: Desk) -> None:
    assert isinstance(desk.mint, Leasing)


async def test_an_identity_is_answered_from_its_one_lease(desk: Desk) -> None:
    first = await desk.get()
    desk.clock.advance(60)
    again = await desk.get()
    assert values(again) == values(first) == (b"user-1", b"pass-1")
    assert again.lease == first.lease
    assert first.lease is not None
    assert first.lease.expires_at == START + HOUR
    assert desk.mint.calls == ["prepare", "mint"]


async def test_no_two_identities_share_a_lease(desk: Desk) -> None:
    mine, theirs = await desk.get(), await desk.get("spiffe://prod.example/other")
    assert values(mine) != values(theirs)
    assert desk.mint.calls.count("mint") == 2


async def test_a_thousand_that_ask_at_once_cost_one_mint(desk: Desk) -> None:
    desk.mint.gate = asyncio.Event()
    waiting = [asyncio.create_task(desk.get()) for _ in range(1000)]
    await asyncio.sleep(0)
    desk.mint.gate.set()
    answers = await asyncio.gather(*waiting)
    assert {values(answer) for answer in answers} == {(b"user-1", b"pass-1")}
    assert desk.mint.calls.count("mint") == 1


async def test_an_asker_that_gives_up_costs_the_others_nothing(desk: Desk) -> None:
    desk.mint.gate = asyncio.Event()
    first, second = asyncio.create_task(desk.get()), asyncio.create_task(desk.get())
    await asyncio.sleep(0)
    first.cancel()
    desk.mint.gate.set()
    assert values(await second) == (b"user-1", b"pass-1")


async def test_that_something_may_be_minted_is_durable_before_it_is_asked_for(desk: Desk) -> None:
    seen: list[list[tuple[str, str]]] = []
    desk.mint.before = lambda call: seen.append(
        [(row.state.value, row.parent) for row in desk.state.rows.values()] if call == "mint" else []
    )
    await desk.get()
    assert seen[-1] == [("minting", "parent-1")]
    assert [row.state for row in desk.state.rows.values()] == ["live"]


async def test_nothing_is_minted_when_it_can_not_be_made_durable(desk: Desk) -> None:
    desk.state.broken = True
    with pytest.raises(StateUnavailableError):
        await desk.get()
    assert "mint" not in desk.mint.calls


async def test_what_was_minted_and_can_not_be_made_durable_is_revoked(desk: Desk) -> None:
    desk.mint.before = lambda call: setattr(desk.state, "broken", call == "mint" or desk.state.broken)
    with pytest.raises(StateUnavailableError):
        await desk.get()
    await desk.work()
    assert desk.mint.leases == {}


async def test_a_lease_that_is_asked_for_is_renewed_at_two_thirds(desk: Desk) -> None:
    await desk.get()
    await desk.work(HOUR * 0.59)
    assert "renew" not in desk.mint.calls
    await desk.work(HOUR * 0.08)
    assert desk.mint.calls.count("renew") == 1
    renewed = await desk.get()
    assert renewed.lease is not None
    assert renewed.lease.expires_at == desk.clock.now() + HOUR
    assert values(renewed) == (b"user-1", b"pass-1")
    assert next(iter(desk.state.rows.values())).expires == desk.clock.now() + HOUR


async def test_a_lease_that_nobody_asks_for_ends_by_itself(desk: Desk) -> None:
    await desk.get()
    await desk.work(HOUR * 0.67)
    assert desk.mint.calls.count("renew") == 1
    for _ in range(20):
        await desk.work(HOUR / 8)
    assert desk.mint.calls.count("renew") == 1
    assert desk.state.rows == {}
    assert desk.count("ended") == 1


@pytest.mark.parametrize("overlap", [60.0, 600.0])
async def test_one_that_can_live_no_longer_is_replaced_with_an_overlap(desk: Desk, overlap: float) -> None:
    desk.settings = replace(desk.settings, overlap_seconds=overlap)
    desk.restart()
    desk.mint.max_seconds = 1.5 * HOUR
    await desk.get()
    await desk.work(HOUR * 0.67)
    capped = await desk.get()
    assert capped.lease is not None
    assert capped.lease.renewable is False
    assert capped.lease.expires_at == pytest.approx(START + 1.5 * HOUR)
    await desk.work(HOUR * 0.6)
    new = await desk.get()
    assert values(new) == (b"user-2", b"pass-2")
    assert [row.state for row in desk.state.rows.values()] == ["superseded", "live"]
    replaced, _ = desk.leases._book.all()
    assert (replaced.reading, replaced.answered) == (None, None), "nobody gets its values any more, so none are kept"
    await desk.work(overlap - 1)
    # One step finds that it is due, and the next revokes it.
    await desk.work()
    assert len(desk.mint.leases) == 2
    await desk.work(1)
    await desk.work()
    assert list(desk.mint.leases) == ["database/creds/app/2"]
    assert desk.count("revoked") == 1


async def test_the_old_lease_answers_while_no_new_one_can_be_minted(desk: Desk) -> None:
    desk.mint.renewable = False
    first = await desk.get()
    desk.mint.fails["mint"] = SourceUnavailableError("the store is sealed")
    desk.clock.advance(HOUR * 0.7)
    assert values(await desk.get()) == values(first)
    asked = len(desk.mint.calls)
    assert values(await desk.get()) == values(first)
    assert len(desk.mint.calls) == asked, "the store was asked again at once"
    desk.clock.advance(HOUR * 0.3)
    with pytest.raises(SourceUnavailableError):
        await desk.get()


async def test_a_denial_ends_what_was_given_before(desk: Desk) -> None:
    desk.mint.renewable = False
    await desk.get()
    desk.mint.fails["mint"] = UpstreamDeniedError("the store denies it")
    desk.clock.advance(HOUR * 0.7)
    with pytest.raises(UpstreamDeniedError):
        await desk.get()
    await desk.work()
    assert desk.mint.leases == {}


async def test_a_lease_revoked_behind_our_back_is_dropped_and_minted_anew(desk: Desk) -> None:
    await desk.get()
    desk.mint.leases.clear()
    await desk.work(HOUR * 0.67)
    assert desk.count("lost") == 1
    assert desk.mint.parents == set(), "what it hung on is of no use any more"
    assert values(await desk.get()) == (b"user-2", b"pass-2")


async def test_a_lease_that_was_not_heard_of_for_long_is_looked_at_behind(desk: Desk) -> None:
    first = await desk.get()
    desk.clock.advance(300)
    await desk.get()
    assert "look_up" not in desk.mint.calls
    desk.clock.advance(1)
    for _ in range(50):
        assert values(await desk.get()) == values(first)
    await desk.leases.upkeep.idle()
    assert desk.mint.calls.count("look_up") == 1
    desk.mint.leases.clear()
    desk.clock.advance(301)
    # Whoever asks first need not wait for the word of the back end; the next one has it.
    await desk.get()
    await desk.leases.upkeep.idle()
    assert desk.count("lost") == 1
    assert desk.mint.parents == set(), "what it hung on is of no use any more"
    assert values(await desk.get()) == (b"user-2", b"pass-2")


async def test_while_the_back_end_says_nothing_a_lease_lives(desk: Desk) -> None:
    first = await desk.get()
    desk.mint.fails["look_up"] = SourceUnavailableError("the store is sealed")
    desk.clock.advance(301)
    await desk.get()
    await desk.leases.upkeep.idle()
    assert values(await desk.get()) == values(first)


async def test_a_renewal_that_fails_is_tried_again_while_the_lease_lives(desk: Desk) -> None:
    await desk.get()
    desk.mint.fails["renew"] = SourceUnavailableError("the store is sealed")
    await desk.work(HOUR * 0.67)
    for _ in range(5):
        await desk.work(60)
    assert desk.count("renew_failed") >= 3
    del desk.mint.fails["renew"]
    await desk.work(120)
    assert desk.count("renewed") == 1


async def test_without_a_right_to_renew_the_next_asker_gets_another(desk: Desk) -> None:
    await desk.get()
    desk.mint.fails["renew"] = UpstreamDeniedError("the store denies it")
    await desk.work(HOUR * 0.67)
    assert desk.mint.calls.count("renew") == 1
    desk.clock.advance(HOUR * 0.25)
    assert values(await desk.get()) == (b"user-2", b"pass-2")


async def test_a_revocation_that_fails_is_tried_until_it_succeeds(desk: Desk) -> None:
    await desk.get()
    [record] = desk.leases.of(fake_peer())
    desk.mint.fails["revoke"] = SourceUnavailableError("the database is away")
    revocation = await desk.leases.revoke(record.id, fake_peer())
    assert (revocation.gone, revocation.failure) == (False, desk.mint.fails["revoke"])
    for _ in range(10):
        await desk.work(300)
    assert desk.mint.calls.count("revoke") == 11
    assert [row.state for row in desk.state.rows.values()] == ["revoking"]
    del desk.mint.fails["revoke"]
    await desk.work(300)
    assert desk.mint.leases == {}
    assert desk.state.rows == {}


async def test_a_revoked_lease_is_handed_out_no_more_and_another_is_minted(desk: Desk) -> None:
    await desk.get()
    [record] = desk.leases.of(fake_peer())
    desk.mint.fails["revoke"] = SourceUnavailableError("the database is away")
    await desk.leases.revoke(record.id, fake_peer())
    assert values(await desk.get()) == (b"user-2", b"pass-2")


async def test_nobody_revokes_or_sees_the_lease_of_another(desk: Desk) -> None:
    await desk.get()
    other = fake_peer("spiffe://prod.example/other")
    [record] = desk.leases.of(fake_peer())
    assert desk.leases.of(other) == []
    for lease_id in (record.id, "lease_nothing"):
        with pytest.raises(LeaseUnknownError, match="you have no such lease"):
            await desk.leases.revoke(lease_id, other)
    assert "revoke" not in desk.mint.calls


async def test_a_new_policy_that_allows_it_no_more_revokes_it(desk: Desk) -> None:
    await desk.get()
    desk.held = FakePolicy(allowed={"vault:secret/": Allow("r", 300.0, 3600.0)})
    await desk.work()
    assert desk.mint.leases == {}
    assert desk.trail.events[-1].references[0].reason == "policy"


@pytest.mark.parametrize("error", [UpstreamDeniedError("no"), SourceUnavailableError("away", retry_after=200.0)])
async def test_a_renewal_that_fails_does_not_put_off_what_policy_has_withdrawn(desk: Desk, error: FetchError) -> None:
    await desk.get()
    answered = asyncio.Event()

    async def renew(_grip: Grip, *, seconds: float) -> Extension:
        await answered.wait()
        raise error

    desk.mint.renew = renew  # type: ignore[method-assign]  # A back end that takes its time to say no.
    desk.clock.advance(HOUR * 0.7)
    desk.leases.upkeep.step()
    await asyncio.sleep(0)
    desk.held = FakePolicy()
    await desk.leases.upkeep.heed()
    answered.set()
    await desk.leases.upkeep.idle()
    await desk.work(2)
    assert desk.mint.leases == {}


async def test_a_new_policy_counts_for_what_was_being_minted_when_it_came(desk: Desk) -> None:
    desk.mint.gate, minting = asyncio.Event(), asyncio.Event()
    desk.mint.before = lambda call: minting.set() if call == "mint" else None
    asking = asyncio.create_task(desk.get())
    await minting.wait()
    desk.held = FakePolicy(known=False)
    await desk.work()
    assert "revoke" not in desk.mint.calls, "nothing is known yet that could be revoked"
    desk.mint.gate.set()
    await asking
    await desk.work()
    assert desk.mint.leases == {}
    assert desk.state.rows == {}


async def replacing(desk: Desk) -> "tuple[asyncio.Task[Cached], asyncio.Event]":
    """Have a lease replaced, and stop while that is written; return who asks, and what lets the writing end."""
    desk.mint.renewable = False
    await desk.get()
    desk.clock.advance(HOUR * 0.8)
    keep, writing, go_on = desk.state.keep_leases, asyncio.Event(), asyncio.Event()

    async def slow(records: list[LeaseRecord], *holders: list[Holder]) -> None:
        await keep(records, *holders)
        if len(records) > 1 and not writing.is_set():
            writing.set()
            await go_on.wait()

    desk.state.keep_leases = slow  # type: ignore[method-assign]  # A disk that takes its time.
    asking = asyncio.create_task(desk.get())
    await writing.wait()
    return asking, go_on


async def test_what_policy_withdraws_while_it_is_being_replaced_is_revoked_without_the_overlap(desk: Desk) -> None:
    asking, go_on = await replacing(desk)
    desk.held = FakePolicy()
    await desk.leases.upkeep.heed()
    go_on.set()
    with pytest.raises(SourceUnavailableError, match="withdrawn"):
        await asking
    await desk.work()
    assert desk.mint.leases == {}


async def test_a_lease_taken_back_before_it_was_handed_out_does_not_stand_in_the_way_of_the_next(desk: Desk) -> None:
    asking, go_on = await replacing(desk)
    await desk.leases.take_back(lambda _: True, seconds=1.0)
    assert desk.mint.leases == {}
    go_on.set()
    with pytest.raises(SourceUnavailableError, match="withdrawn"):
        await asking
    assert values(await desk.get()) == (b"user-3", b"pass-3")


async def test_a_new_policy_that_could_not_be_asked_is_asked_again(desk: Desk) -> None:
    class Failing(FakePolicy):
        def decide_all(self, **_: object) -> NoReturn:
            raise ArithmeticError

    await desk.get()
    policy: FakePolicy = Failing()
    desk.held = policy
    with pytest.raises(ArithmeticError):
        await desk.work()
    del Failing.decide_all
    await desk.work()
    assert desk.mint.leases == {}


async def test_a_new_policy_that_still_allows_a_part_of_it_keeps_it(desk: Desk) -> None:
    await desk.get()
    desk.held = FakePolicy(allowed={USER.text: Allow("r", 300.0, 3600.0)})
    await desk.work()
    assert len(desk.mint.leases) == 1


async def test_after_a_restart_the_leases_of_an_identity_that_is_gone_are_revoked(desk: Desk) -> None:
    await desk.get()
    await desk.restart().open()
    desk.held = FakePolicy(known=False)
    await desk.work()
    assert desk.mint.leases == {}


async def test_a_stop_revokes_every_lease(desk: Desk) -> None:
    for number in range(40):
        await desk.get(f"spiffe://prod.example/agent-{number}")
    await desk.leases.aclose()
    assert desk.mint.leases == {}
    assert desk.mint.parents == set()
    assert desk.state.rows == {}


async def test_a_stop_keeps_the_leases_where_the_settings_say_so(desk: Desk) -> None:
    desk.settings = replace(desk.settings, revoke_at_stop=False)
    desk.restart()
    await desk.get()
    await desk.leases.aclose()
    assert len(desk.mint.leases) == 1


async def test_what_a_stop_could_not_revoke_is_revoked_after_the_next_start(desk: Desk) -> None:
    await desk.get()
    desk.mint.fails["revoke"] = SourceUnavailableError("the database is away")
    await desk.leases.aclose()
    assert [row.state for row in desk.state.rows.values()] == ["revoking"]
    del desk.mint.fails["revoke"]
    await desk.restart().open()
    await desk.work()
    assert desk.mint.leases == {}


async def test_after_a_restart_the_old_lease_lives_until_its_identity_has_another(desk: Desk) -> None:
    await desk.get()
    await desk.restart().open()
    assert [(row.state, row.reason, row.due) for row in desk.state.rows.values()] == [("superseded", "restart", None)]
    await desk.work(600)
    await desk.work()
    assert len(desk.mint.leases) == 1
    assert desk.mint.calls == ["prepare", "mint"], "nobody renews what nobody can be given"
    await desk.get()
    await desk.work(desk.settings.overlap_seconds)
    await desk.work()
    assert list(desk.mint.leases) == ["database/creds/app/2"]


async def test_after_a_restart_what_nobody_asks_for_ends_by_itself(desk: Desk) -> None:
    await desk.get()
    await desk.restart().open()
    desk.mint.leases.clear()
    await desk.work(HOUR)
    assert desk.state.rows == {}
    assert "revoke" not in desk.mint.calls


@pytest.mark.parametrize("has_parent", [True, False])
async def test_a_mint_that_was_cut_off_is_revoked_by_its_parent_or_forgotten(desk: Desk, has_parent: bool) -> None:
    parent = "parent-1" if has_parent else ""
    desk.mint.parents.add("parent-1")
    desk.state.rows["lease_a"] = fake_lease(state=LeaseState.MINTING, handle="", parent=parent)
    await desk.restart().open()
    await desk.work()
    assert desk.state.rows == {}
    assert desk.mint.parents == (set() if has_parent else {"parent-1"})


@pytest.mark.parametrize(
    ("error", "revokes"),
    [
        (SourceUnavailableError("no answer"), 1),
        (SecretUnusableError("the engine does not know a parameter"), 1),
        (SecretMissingError("no such role", part=MissingPart.PATH), 0),
        (UpstreamDeniedError("the store denies it"), 0),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_mint_that_fails_leaves_nothing_behind(desk: Desk, error: FetchError, revokes: int) -> None:
    desk.mint.fails["mint"] = error
    with pytest.raises(type(error)):
        await desk.get()
    await desk.work(30)
    assert desk.mint.calls.count("revoke") == revokes
    assert desk.state.rows == {}
    assert desk.count("mint_failed") == 1


async def test_a_failing_back_end_is_asked_once_a_second_however_often_agents_ask(desk: Desk) -> None:
    desk.mint.fails["prepare"] = SourceUnavailableError("the store is sealed")
    for _ in range(50):
        with pytest.raises(SourceUnavailableError):
            await desk.get()
    assert desk.mint.calls == ["prepare"]
    desk.clock.advance(1)
    del desk.mint.fails["prepare"]
    assert values(await desk.get()) == (b"user-1", b"pass-1")


async def test_an_answer_without_lease_and_end_is_for_one_request_alone(desk: Desk) -> None:
    desk.mint.seconds = 0
    first = await desk.get()
    assert first.lease is None
    await desk.get()
    assert desk.mint.calls.count("mint") == 2
    assert desk.state.rows == {}


async def test_a_certificate_is_kept_to_two_thirds_of_its_life_and_then_made_anew(desk: Desk) -> None:
    desk.mint.seconds, desk.mint.not_after = 0, START + HOUR
    first = await desk.get()
    assert first.lease is not None
    assert first.lease.expires_at == START + HOUR
    desk.clock.advance(HOUR * 0.59)
    assert (await desk.get()).lease == first.lease
    desk.clock.advance(HOUR * 0.08)
    desk.mint.not_after = desk.clock.now() + HOUR
    assert (await desk.get()).lease != first.lease
    assert "revoke" not in desk.mint.calls


async def test_the_trail_tells_the_life_of_a_lease_and_never_the_stores_name_of_it(desk: Desk) -> None:
    await desk.get()
    [record] = desk.leases.of(fake_peer())
    await desk.leases.revoke(record.id, fake_peer())
    events: list[AuditEvent] = desk.trail.events
    assert [(event.kind, event.reason, event.identity) for event in events] == [
        ("lease", "minted", "spiffe://prod.example/shipper"),
        ("lease", "revoked", "spiffe://prod.example/shipper"),
    ]
    assert events[1].details == {"lease": record.id}
    assert "database/creds/app/1" not in repr(events)
    assert "database/creds/app/1" not in repr(await desk.get())
