"""What goes wrong in the life of a lease at the wrong moment: lost answers, full disks, jumping clocks, slow ends."""

import asyncio
from dataclasses import replace
from typing import NoReturn

import pytest

from broker.errors import (
    FetchError,
    LeaseLimitError,
    SecretUnusableError,
    SourceUnavailableError,
    StateUnavailableError,
    UpstreamDeniedError,
)
from broker.leases.record import LeaseReason, LeaseState
from broker.limits.fair_queue import FairQueue
from broker.providers.base import Grip, UnusableMintError
from broker.reference import Source, parse
from broker.secret import Lease
from tests.fakes import START, FakePolicy, fake_lease, fake_peer
from tests.lease_desk import HOUR, Desk, values
from tests.waiting import until

AWAY = SourceUnavailableError("the store is sealed")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def numbered(number: int) -> Source:
    return parse(f"vault:pki/issue/agent?ttl={number}s#certificate").source


async def test_what_was_renewed_without_an_answer_is_revoked_at_the_end_that_is_known(desk: Desk) -> None:
    await desk.get()
    # The back end may have renewed it, so that it lives on when it should have ended.
    desk.mint.fails["renew"] = AWAY
    await desk.work(HOUR * 0.7)
    await desk.work(HOUR * 0.3)
    await desk.work(1)
    assert desk.mint.leases == {}
    assert desk.mint.calls.count("revoke") == 1
    assert desk.trail.events[-1].references[0].reason == "ended"


async def test_what_a_lost_lease_hung_on_is_ended_until_that_succeeds(desk: Desk) -> None:
    await desk.get()
    desk.mint.leases.clear()
    desk.mint.fails["revoke"] = AWAY
    await desk.work(HOUR * 0.7)
    assert desk.count("lost") == 0
    assert [row.state for row in desk.state.rows.values()] == ["revoking"]
    assert values(await desk.get()) == (b"user-2", b"pass-2"), "nobody is given what the back end does not know"
    del desk.mint.fails["revoke"]
    await desk.work(300)
    assert len(desk.mint.parents) == 1
    assert desk.count("lost") == 1


async def test_a_doubt_that_nobody_had_time_for_is_had_again_by_who_asks_next(desk: Desk) -> None:
    gate = asyncio.Event()

    async def look_up(_grip: Grip) -> float:
        await gate.wait()
        return HOUR

    await desk.get()
    for number in range(16):
        await desk.get(source=numbered(number))
    look, desk.mint.look_up = desk.mint.look_up, look_up  # type: ignore[method-assign]  # One that takes its time.
    desk.clock.advance(301)
    for number in range(16):
        await desk.get(source=numbered(number))
    await desk.get()
    gate.set()
    await desk.leases.upkeep.idle()
    desk.mint.look_up = look  # type: ignore[method-assign]
    desk.mint.leases.clear()
    await desk.get()
    await desk.leases.upkeep.idle()
    assert desk.count("lost") == 1


async def test_one_revocation_that_hangs_holds_up_no_other_at_the_stop(desk: Desk) -> None:
    for number in range(40):
        await desk.get(source=numbered(number))
    revoke, hanging = desk.mint.revoke, asyncio.Event()

    async def hangs(grip: Grip) -> None:
        if grip.handle.endswith("/1"):
            await hanging.wait()
        await revoke(grip)

    desk.mint.revoke = hangs  # type: ignore[method-assign]  # What one of them opens does not answer.
    desk.settings = replace(desk.settings, stop_seconds=0.5)
    desk.leases._settings = desk.settings
    await desk.leases.aclose()
    assert list(desk.mint.leases) == ["database/creds/app/1"]


async def test_while_nothing_can_be_made_durable_the_back_end_is_asked_once_a_second(desk: Desk) -> None:
    desk.state.broken = True
    for number in range(50):
        with pytest.raises(StateUnavailableError):
            await desk.get(f"spiffe://prod.example/agent-{number}")
    assert desk.mint.calls == ["prepare"]
    desk.clock.advance(1)
    desk.state.broken = False
    assert values(await desk.get()) == (b"user-1", b"pass-1")


async def test_an_identity_that_asks_for_many_at_once_gets_no_more_than_one_may_have(desk: Desk) -> None:
    desk.settings = replace(desk.settings, max_per_identity=3)
    desk.queue = FairQueue(at_once=32, max_waiting=1000, max_waiting_each=500)
    desk.restart()
    keep = desk.state.keep_leases

    async def slow(*written: object) -> None:
        await asyncio.sleep(0)
        await keep(*written)  # type: ignore[arg-type]  # As it came.

    desk.state.keep_leases = slow  # type: ignore[method-assign]  # A disk.
    outcomes = await asyncio.gather(*(desk.get(source=numbered(n)) for n in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, LeaseLimitError) for outcome in outcomes) == 17
    assert len(desk.mint.leases) == 3


async def test_a_clock_that_jumps_ahead_takes_no_overlap_away(desk: Desk) -> None:
    desk.mint.renewable = False
    await desk.get()
    desk.clock.advance(HOUR * 0.7)
    desk.clock.wall += HOUR
    await desk.get()
    await desk.work(desk.settings.overlap_seconds - 1)
    await desk.work()
    assert len(desk.mint.leases) == 2
    await desk.work(1)
    await desk.work()
    assert list(desk.mint.leases) == ["database/creds/app/2"]


@pytest.mark.parametrize("state", [LeaseState.REVOKING, LeaseState.SUPERSEDED])
async def test_a_clock_that_was_ahead_before_the_restart_puts_no_revocation_off(desk: Desk, state: LeaseState) -> None:
    desk.state.rows["lease_a"] = fake_lease(state=state, reason=LeaseReason.REPLACED, due=START + HOUR)
    await desk.restart().open()
    await desk.work(0 if state is LeaseState.REVOKING else desk.settings.overlap_seconds)
    await desk.work()
    assert desk.mint.calls == ["revoke"]


async def test_a_clock_that_is_ahead_after_the_restart_lets_no_lease_be_forgotten_that_lives(desk: Desk) -> None:
    await desk.get()
    desk.clock.wall += 2 * HOUR
    await desk.restart().open()
    await desk.work()
    assert desk.mint.calls[-1] == "look_up"
    assert len(desk.state.rows) == 1
    desk.mint.leases.clear()
    await desk.work(23 * HOUR)
    assert desk.state.rows == {}


async def test_what_was_withdrawn_and_could_not_be_written_is_written_with_the_next_try(desk: Desk) -> None:
    await desk.get()
    [record] = desk.leases.of(fake_peer())
    desk.mint.fails["revoke"] = AWAY
    desk.state.broken = True
    await desk.leases.revoke(record.id, fake_peer())
    assert [row.state for row in desk.state.rows.values()] == ["live"]
    desk.state.broken = False
    await desk.work(300)
    assert [row.state for row in desk.state.rows.values()] == ["revoking"]


async def test_a_stop_takes_no_longer_than_the_settings_say(desk: Desk) -> None:
    desk.settings = replace(desk.settings, stop_seconds=0.4)
    desk.restart()
    await desk.get()
    gate = desk.mint.gate = asyncio.Event()
    asking = asyncio.create_task(desk.get("spiffe://prod.example/other"))
    await until(lambda: desk.mint.calls.count("mint") == 2)

    async def hangs(_grip: Grip) -> None:
        await gate.wait()

    desk.mint.revoke = hangs  # type: ignore[method-assign]
    given: list[float] = []
    take_back = desk.leases.upkeep.revoke_all

    async def watched(*, seconds: float) -> None:
        given.append(seconds)
        await take_back(seconds=seconds)

    desk.leases.upkeep.revoke_all = watched  # type: ignore[method-assign]
    await desk.leases.aclose()
    await asyncio.gather(asking, return_exceptions=True)
    assert given[0] <= 0.2, "what is being made has used most of it up"


@pytest.mark.parametrize("hangs", [True, False])
async def test_what_was_made_and_can_not_be_handed_out_is_revoked_until_that_succeeds(desk: Desk, hangs: bool) -> None:
    lease = Lease(handle="pki?serial_number=1f", seconds=HOUR, renewable=False, hangs=hangs)
    refusal = SecretUnusableError("the engine does not know a parameter")
    desk.mint.leases[lease.handle] = desk.clock.now() + HOUR
    desk.mint.fails = {"mint": UnusableMintError(lease=lease, reason=refusal), "revoke": AWAY}
    with pytest.raises(SecretUnusableError, match="does not know a parameter"):
        await desk.get()
    await desk.work()
    [row] = desk.state.rows.values()
    assert (row.state, row.handle, bool(row.parent)) == (LeaseState.REVOKING, lease.handle, hangs)
    del desk.mint.fails["revoke"]
    await desk.work(300)
    assert desk.mint.leases == desk.state.rows == {}


async def test_a_mint_without_an_answer_is_given_time_to_end_before_what_it_hangs_on_does(desk: Desk) -> None:
    """A store that is still at it when the parent is revoked makes a lease that nothing hangs on."""
    desk.mint.fails["mint"] = AWAY
    with pytest.raises(SourceUnavailableError):
        await desk.get()
    await desk.work(29)
    assert len(desk.mint.parents) == 1
    await desk.work(1)
    assert desk.mint.parents == set()
    assert desk.state.rows == {}


async def test_what_hangs_in_its_making_is_revoked_at_the_stop_all_the_same(desk: Desk) -> None:
    desk.mint.fails["mint"] = AWAY
    with pytest.raises(SourceUnavailableError):
        await desk.get()
    await desk.leases.aclose()
    assert desk.mint.parents == set()


@pytest.mark.parametrize("has_parent", [True, False])
async def test_what_a_mint_without_an_answer_has_made_is_looked_for_and_revoked(desk: Desk, has_parent: bool) -> None:
    desk.mint.has_parent = has_parent
    await desk.get("spiffe://prod.example/other")
    [known] = desk.mint.leases
    desk.mint.fails["mint"] = AWAY
    with pytest.raises(SourceUnavailableError):
        await desk.get()
    desk.mint.leases["made"] = desk.clock.now() + HOUR
    desk.mint.found = [known, "made"]
    await desk.work(30)
    assert list(desk.mint.leases) == [known], "what another identity got is known"
    assert len(desk.state.rows) == 1


async def test_each_of_two_that_were_cut_off_takes_one_of_what_was_found(desk: Desk) -> None:
    for name in ("lease_a", "lease_b"):
        desk.state.rows[name] = fake_lease(id=name, state=LeaseState.MINTING, handle="", parent="")
    desk.mint.found = ["first", "second"]
    desk.mint.leases = dict.fromkeys(desk.mint.found, desk.clock.now() + HOUR)
    await desk.restart().open()
    await desk.work()
    await desk.work()
    assert desk.mint.leases == desk.state.rows == {}


@pytest.mark.parametrize("broken", [False, True])
async def test_what_was_found_is_durable_before_it_is_revoked(desk: Desk, broken: bool) -> None:
    desk.state.rows["lease_a"] = fake_lease(state=LeaseState.MINTING, handle="", parent="")
    desk.mint.found, desk.mint.leases = ["made"], {"made": desk.clock.now() + HOUR}
    await desk.restart().open()
    desk.state.broken = broken
    handles: list[str] = []
    desk.mint.before = lambda _call: handles.extend(row.handle for row in desk.state.rows.values())
    await desk.work()
    assert handles == ([] if broken else ["made"])
    desk.state.broken = False
    await desk.work(300)
    assert desk.state.rows == {}


@pytest.mark.parametrize("refusal", [UpstreamDeniedError("the store denies it"), SecretUnusableError("too large")])
async def test_a_store_that_lets_nobody_look_is_told_of_and_the_rest_is_done(
    desk: Desk, caplog: pytest.LogCaptureFixture, refusal: FetchError
) -> None:
    async def denies(_source: Source, **_: object) -> list[str]:
        raise refusal

    desk.state.rows["lease_a"] = fake_lease(state=LeaseState.MINTING, handle="", parent="parent-1")
    desk.mint.parents.add("parent-1")
    desk.mint.left_behind = denies  # type: ignore[method-assign]
    await desk.restart().open()
    await desk.work()
    assert "lease_not_looked_for" in caplog.text
    assert desk.mint.parents == set()
    assert desk.state.rows == {}


async def test_a_mint_that_the_stop_cuts_off_is_looked_for_as_after_a_crash(desk: Desk) -> None:
    desk.settings = replace(desk.settings, stop_seconds=0.2)
    desk.restart()
    desk.mint.gate = asyncio.Event()
    asking = asyncio.create_task(desk.get())
    await until(lambda: "mint" in desk.mint.calls)
    desk.mint.leases["made"] = desk.clock.now() + HOUR
    desk.mint.found = ["made"]
    await desk.leases.aclose()
    await asyncio.gather(asking, return_exceptions=True)
    assert desk.mint.leases == desk.state.rows == {}


async def test_revocations_that_hang_leave_room_for_renewals(desk: Desk) -> None:
    for number in range(40):
        await desk.get(source=numbered(number))
    await desk.get()
    hanging = asyncio.Event()

    async def hangs(_grip: Grip) -> None:
        await hanging.wait()

    desk.mint.revoke = hangs  # type: ignore[method-assign]  # What they open does not answer.
    await desk.leases.take_back(lambda record: "pki" in record.source, seconds=0.05)
    desk.clock.advance(HOUR * 0.7)
    desk.leases.upkeep.step()
    await asyncio.sleep(0.01)
    assert desk.mint.calls.count("renew") == 1
    await desk.leases.upkeep.aclose()


async def test_a_bug_in_a_question_to_policy_keeps_no_lease_from_being_renewed(desk: Desk) -> None:
    class Failing(FakePolicy):
        def decide_all(self, **_: object) -> NoReturn:
            raise ArithmeticError

    await desk.get()
    policy: FakePolicy = Failing()
    desk.held = policy
    desk.clock.advance(HOUR * 0.7)
    with pytest.raises(ArithmeticError):
        await desk.leases.keep()
    await desk.leases.upkeep.idle()
    assert desk.mint.calls.count("renew") == 1


async def test_a_lease_whose_reference_nobody_can_read_any_more_is_revoked_after_the_start(desk: Desk) -> None:
    desk.state.rows["lease_a"] = fake_lease(source="vault:a//b")
    await desk.restart().open()
    await desk.work()
    assert desk.mint.calls == ["revoke"]
    assert desk.state.rows == {}


async def test_what_was_made_for_a_reference_that_nobody_can_read_any_more_is_ended_by_its_parent(desk: Desk) -> None:
    desk.state.rows["lease_a"] = fake_lease(source="vault:a//b", state=LeaseState.MINTING, handle="", parent="parent-1")
    desk.mint.parents.add("parent-1")
    await desk.restart().open()
    await desk.work()
    assert desk.mint.parents == set()
    assert desk.state.rows == {}
