"""The write before an absence is believed: one for all who wait, and never one that began before the question."""

import asyncio

import pytest

from broker.errors import SourceUnavailableError
from broker.providers.vault.reads.latest import LatestState
from tests.vaults import Seen


class Store:
    """The login and the transport of a store whose write ends when the test lets it."""

    def __init__(self) -> None:
        self.tells_states = True
        self.can_renew = True
        self.answer: bool | Exception = True
        self.writes = 0
        self.under_way = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def write(self) -> bool:
        self.writes += 1
        self.under_way.set()
        await self.may_end.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
def latest(store: Store) -> LatestState:
    return LatestState(login=store, transport=store, clock=Seen())  # type: ignore[arg-type]  # All that is called.


async def test_all_who_ask_at_once_wait_for_one_write(latest: LatestState, store: Store) -> None:
    assert await asyncio.gather(*(latest.reach() for _ in range(50))) == [True] * 50
    assert store.writes == 1


async def test_a_write_that_had_begun_before_the_question_does_not_count(latest: LatestState, store: Store) -> None:
    store.may_end.clear()
    early = asyncio.create_task(latest.reach())
    await store.under_way.wait()
    late = asyncio.create_task(latest.reach())
    await asyncio.sleep(0)
    store.may_end.set()
    assert await early
    assert await late
    assert store.writes == 2


@pytest.mark.parametrize("lacking", ["tells_states", "can_renew"])
async def test_nothing_is_written_where_it_would_tell_nothing(latest: LatestState, store: Store, lacking: str) -> None:
    setattr(store, lacking, False)
    assert not await latest.reach()
    assert store.writes == 0


async def test_a_store_that_takes_no_write_of_the_broker_tells_nothing(latest: LatestState, store: Store) -> None:
    store.answer = False
    assert not await latest.reach()


async def test_a_leader_that_can_not_be_asked_is_told(latest: LatestState, store: Store) -> None:
    store.answer = SourceUnavailableError("no leader")
    with pytest.raises(SourceUnavailableError, match="no leader"):
        await latest.reach()
