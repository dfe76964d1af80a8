"""What leases cost a back end goes through the same lines as reads, so that no identity pays for another's."""

import asyncio
from dataclasses import replace

import pytest

from broker.errors import (
    FetchError,
    LeaseLimitError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.limits.fair_queue import FairQueue, QueueFullError
from broker.providers.base import Parent
from broker.reference import Source, parse
from broker.secret import Reading
from tests.fakes import fake_peer
from tests.lease_desk import HOUR, Desk
from tests.waiting import until

GREEDY, MODEST = "spiffe://prod.example/greedy", "spiffe://prod.example/modest"


@pytest.fixture
def desk() -> Desk:
    return Desk()


def numbered(number: int) -> Source:
    return parse(f"vault:pki/issue/agent?ttl={number}s#certificate").source


async def begun(desk: Desk) -> None:
    await until(lambda: "prepare" in desk.mint.calls)


async def test_an_identity_that_asks_for_many_leases_keeps_no_other_waiting(desk: Desk) -> None:
    desk.queue = FairQueue(at_once=1, max_waiting=1000, max_waiting_each=500)
    desk.restart()
    order: list[str] = []
    real = desk.mint.mint

    async def mint(source: Source, parent: Parent) -> Reading:
        order.append(source.path)
        return await real(source, parent)

    desk.mint.mint = mint  # type: ignore[method-assign]  # The same back end, watched.
    gate = desk.mint.gate = asyncio.Event()
    many = [asyncio.create_task(desk.get(GREEDY, numbered(number))) for number in range(200)]
    await begun(desk)
    one = asyncio.create_task(desk.get(MODEST))
    await asyncio.sleep(0)
    gate.set()
    await one
    assert order.index("database/creds/app") <= 2
    await asyncio.gather(*many)


async def test_a_full_line_of_leases_is_answered_at_once(desk: Desk) -> None:
    desk.queue = FairQueue(at_once=1, max_waiting=1000, max_waiting_each=3)
    desk.restart()
    gate = desk.mint.gate = asyncio.Event()
    waiting = [asyncio.create_task(desk.get(GREEDY, numbered(number))) for number in range(4)]
    await begun(desk)
    for _ in range(5):
        await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await desk.get(GREEDY, numbered(99))
    gate.set()
    await asyncio.gather(*waiting, desk.get(MODEST))


async def test_who_gets_no_turn_in_time_is_told_to_come_again_and_nothing_is_begun(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.queue = FairQueue(at_once=1, max_waiting=1000, max_waiting_each=500)
    desk.restart()
    monkeypatch.setattr(desk.leases._minting, "_mint_seconds", 0.01)
    async with desk.queue.turn(GREEDY):
        with pytest.raises(SourceUnavailableError, match="more ask the source than it answers") as caught:
            await desk.get(MODEST)
    assert caught.value.retry_after is not None
    assert (desk.mint.calls, desk.state.rows) == ([], {})


@pytest.mark.parametrize(
    "refusal",
    [
        UpstreamDeniedError("the store denies it"),
        SecretMissingError("no such role", part=MissingPart.PATH),
        SecretUnusableError("the engine refuses it"),
    ],
)
async def test_an_identity_that_is_refused_a_lease_and_asks_in_a_loop_costs_one_try_in_the_time_it_is_remembered(
    desk: Desk, refusal: FetchError
) -> None:
    desk.mint.fails["mint"] = refusal
    for _ in range(290):
        desk.clock.advance(0.01)
        with pytest.raises(type(refusal)):
            await desk.get()
    assert desk.mint.calls.count("prepare") == 1
    assert desk.mint.calls.count("mint") == 1
    desk.clock.advance(0.2)
    del desk.mint.fails["mint"]
    await desk.get()


async def test_an_identity_gets_no_more_leases_than_one_may_have_until_one_of_them_is_given_back(desk: Desk) -> None:
    desk.settings = replace(desk.settings, max_per_identity=3)
    desk.restart()
    for number in range(3):
        await desk.get(GREEDY, numbered(number))
    with pytest.raises(LeaseLimitError, match="max_per_identity") as caught:
        await desk.get(GREEDY, numbered(3))
    assert caught.value.retry_after == 30.0
    assert desk.mint.calls.count("prepare") == 3, "the store is not asked"
    await desk.get(MODEST, numbered(3))
    # What it has goes on, and may be replaced.
    await desk.get(GREEDY, numbered(0))
    [first, *_] = desk.leases.of(fake_peer(GREEDY))
    assert (await desk.leases.revoke(first.id, fake_peer(GREEDY))).gone
    await desk.get(GREEDY, numbered(3))


async def test_a_lease_is_replaced_also_for_an_identity_that_has_as_many_as_it_may(desk: Desk) -> None:
    desk.settings = replace(desk.settings, max_per_identity=1)
    desk.mint.renewable = False
    desk.restart()
    first = await desk.get()
    desk.clock.advance(HOUR * 0.7)
    assert (await desk.get()).lease != first.lease


async def test_an_identity_in_a_crash_loop_costs_the_store_one_lease(desk: Desk) -> None:
    for _ in range(500):
        desk.clock.advance(0.1)
        await desk.get()
    assert desk.mint.calls == ["prepare", "mint"]


async def test_revocations_on_request_wait_for_their_turn_and_are_done_behind_without_one(desk: Desk) -> None:
    desk.queue = FairQueue(at_once=1, max_waiting=1000, max_waiting_each=1)
    desk.restart()
    for number in range(3):
        await desk.get(source=numbered(number))
    first, second, third = desk.leases.of(fake_peer())
    async with desk.queue.turn("somebody else"):
        asked = [asyncio.create_task(desk.leases.revoke(one.id, fake_peer())) for one in (first, second)]
        await asyncio.sleep(0.01)
        assert "revoke" not in desk.mint.calls
        # The line is full: it is promised, and kept.
        assert not (await desk.leases.revoke(third.id, fake_peer())).gone
        assert [record.state for record in desk.leases.of(fake_peer())] == ["revoking"] * 3
    await desk.work()
    await asyncio.gather(*asked)
    assert desk.leases.of(fake_peer()) == []
