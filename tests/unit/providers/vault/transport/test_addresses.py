"""Which address of the store is asked: one at a time, and the first again only when it is steady."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.providers.vault.transport.addresses import AddressBook, Health
from tests.vaults import Seen
from tests.waiting import until

ONE, TWO, THREE = (f"https://{name}.example:8200" for name in ("one", "two", "three"))


class Cluster:
    """Addresses with a health that a test chooses."""

    def __init__(self) -> None:
        self.health = dict.fromkeys((ONE, TWO, THREE), Health.ACTIVE)
        self.probes: list[str] = []
        self.serve = True

    async def serves(self, address: str) -> bool:
        assert address == ONE
        return self.serve

    async def probe(self, address: str) -> Health:
        self.probes.append(address)
        await asyncio.sleep(0)
        return self.health[address]


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def clock() -> Seen:
    return Seen()


@pytest.fixture
async def book(cluster: Cluster, clock: Seen) -> AsyncIterator[AddressBook]:
    it = AddressBook(
        addresses=(ONE, TWO, THREE),
        probe=cluster.probe,
        serves=cluster.serves,
        clock=clock,
        probe_seconds=0.01,
        return_seconds=60,
    )
    yield it
    await it.aclose()


async def test_the_first_active_address_is_preferred_to_a_standby_before_it(
    book: AddressBook, cluster: Cluster
) -> None:
    cluster.health |= {ONE: Health.DOWN, TWO: Health.STANDBY}
    assert await book.current() == THREE


async def test_a_standby_is_used_when_nothing_is_active(book: AddressBook, cluster: Cluster) -> None:
    cluster.health |= {ONE: Health.DOWN, TWO: Health.STANDBY, THREE: Health.DOWN}
    assert await book.current() == TWO


async def test_the_first_is_used_when_nothing_is_known_to_be_better(book: AddressBook, cluster: Cluster) -> None:
    cluster.health = dict.fromkeys(cluster.health, Health.DOWN)
    assert await book.current() == ONE


async def test_a_hundred_failures_at_once_ask_every_other_address_once(book: AddressBook, cluster: Cluster) -> None:
    await book.current()
    cluster.probes.clear()
    assert set(await asyncio.gather(*(book.leave(ONE) for _ in range(100)))) == {TWO}
    assert sorted(cluster.probes) == sorted((TWO, THREE))


async def test_a_failure_of_an_address_that_was_left_asks_nobody(book: AddressBook, cluster: Cluster) -> None:
    await book.current()
    await book.leave(ONE)
    cluster.probes.clear()
    assert await book.leave(ONE) == TWO
    assert cluster.probes == []


async def test_moving_is_no_more_frequent_than_the_probes(cluster: Cluster, clock: Seen) -> None:
    book = AddressBook(
        addresses=(ONE, TWO),
        probe=cluster.probe,
        serves=cluster.serves,
        clock=clock,
        probe_seconds=5,
        return_seconds=60,
    )
    await book.current()
    assert await book.leave(ONE) == TWO
    assert await book.leave(TWO) is None
    clock.advance(5)
    assert await book.leave(TWO) == ONE
    await book.aclose()


async def test_the_first_is_used_again_when_it_was_healthy_all_the_time(
    book: AddressBook, cluster: Cluster, clock: Seen
) -> None:
    await book.current()
    cluster.health[ONE] = Health.DOWN
    assert await book.leave(ONE) == TWO

    async def probed() -> None:
        seen = cluster.probes.count(ONE)
        await until(lambda: cluster.probes.count(ONE) >= seen + 2)

    await probed()
    cluster.health[ONE] = Health.ACTIVE
    await probed()
    clock.advance(50)
    cluster.health[ONE] = Health.STANDBY
    await probed()
    cluster.health[ONE] = Health.ACTIVE
    await probed()
    clock.advance(50)
    await probed()
    assert await book.current() == TWO, "it was away in between"
    cluster.serve = False
    clock.advance(20)
    await probed()
    cluster.serve = True
    clock.advance(50)
    await probed()
    assert await book.current() == TWO, "it was healthy, and did not serve"
    clock.advance(20)
    await until(lambda: book._current == ONE)


@pytest.mark.parametrize(
    ("location", "listed"),
    [
        (f"{TWO}/v1/secret/data/x", TWO),
        ("https://TWO.example:8200", TWO),
        ("https://two.example/v1/x", None),
        ("http://two.example:8200/v1/x", None),
        ("https://user@two.example:8200/v1/x", None),
        ("https://two.example:8200.evil.example/v1/x", None),
        ("//two.example:8200/v1/x", None),
        ("/v1/x", None),
        ("https://two.example:port", None),
        ("", None),
    ],
)
async def test_only_a_whole_listed_address_is_a_place_to_be_redirected_to(
    book: AddressBook, location: str, listed: str | None
) -> None:
    assert book.listed(location) == listed
