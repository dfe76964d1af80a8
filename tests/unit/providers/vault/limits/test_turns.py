"""Turns at a store: a free connection and the budget, free again whatever ends the wait for them."""

import asyncio

import pytest

from broker.metrics import Metrics
from broker.providers.vault.exchange.failures import NoTurnError
from broker.providers.vault.limits.budget import Budget
from broker.providers.vault.limits.turns import Turns
from tests.fakes import FakeClock, fake_metrics

HERE = "https://one.example"
THERE = "https://two.example"
SHORT = 0.02
LONG = 60.0


class Bench:
    """Turns at two addresses with two connections each, one of them for readers; the clock stands still."""

    def __init__(self, *, per_second: float = 1000.0) -> None:
        self.metrics: Metrics = fake_metrics()
        self.clock = FakeClock()
        self.budget = Budget(per_second=per_second, clock=self.clock)
        self.turns = Turns(budget=self.budget, addresses=(HERE, THERE), max_connections=2, observer=self.metrics)

    async def read(self, address: str = HERE, *, seconds: float = LONG) -> None:
        await self.turns.take(address, reserved=False, seconds=seconds)

    def counted(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"provider": "vault"})


async def test_a_reader_waits_for_a_connection_and_gets_the_one_that_comes_back() -> None:
    bench = Bench()
    await bench.read()
    second = asyncio.create_task(bench.read())
    await asyncio.sleep(0)
    assert not second.done()
    bench.turns.give_back(HERE, reserved=False)
    await asyncio.wait_for(second, LONG)


async def test_logins_and_other_addresses_need_no_connection_that_readers_hold() -> None:
    bench = Bench()
    await bench.read(HERE)
    await bench.turns.take(HERE, reserved=True, seconds=SHORT)
    await bench.read(THERE, seconds=SHORT)


async def test_who_gets_no_connection_in_time_is_told_when_to_come_back_and_counted() -> None:
    bench = Bench()
    await bench.read()
    with pytest.raises(NoTurnError) as caught:
        await bench.read(seconds=SHORT)
    assert caught.value.retry_after == 1.0
    assert bench.counted("broker_upstream_refused_total") == 1


async def test_who_waits_for_the_budget_in_vain_gives_the_connection_back() -> None:
    bench = Bench(per_second=0.001)
    await bench.read()
    bench.turns.give_back(HERE, reserved=False)
    with pytest.raises(NoTurnError):
        await bench.read(seconds=SHORT)
    bench.clock.advance(1000.0)
    await bench.read(seconds=SHORT)


async def test_nobody_overtakes_who_waits_for_the_budget() -> None:
    bench = Bench()
    while bench.budget.take_at_once(reserved=True):
        pass
    first = asyncio.create_task(bench.read())
    await asyncio.sleep(0)
    bench.clock.advance(1.0)
    assert bench.budget.take_at_once(reserved=False) is False
    assert bench.budget.take_at_once(reserved=True) is True
    await asyncio.wait_for(first, LONG)
    assert bench.counted("broker_upstream_throttled_total") == 1
