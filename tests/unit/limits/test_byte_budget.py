"""Permits for bytes: never more than there are, in rotation between lanes, and free again whatever ends them."""

import asyncio
from dataclasses import dataclass, field

import pytest

from broker.errors import InFlightLimitError
from broker.limits.byte_budget import ByteBudget, Permit


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@dataclass
class Shown:
    """What a budget has told its series."""

    sizes: list[int] = field(default_factory=list)
    waits: int = 0
    refusals: int = 0

    def used(self, size: int) -> None:
        self.sizes.append(size)

    def waited(self) -> None:
        self.waits += 1

    def refused(self) -> None:
        self.refusals += 1


class Bench:
    """A budget of 100 bytes; `order` tells who got a permit when."""

    def __init__(self, *, most: int = 100) -> None:
        self.shown = Shown()
        self.budget = ByteBudget(limit=100, most=most, series=self.shown)
        self.order: list[str] = []

    async def take(self, name: str, size: int, *, lane: str = "") -> Permit:
        permit = await self.budget.take(lane or name, size, seconds=60)
        self.order.append(name)
        return permit

    async def start(self, name: str, size: int, *, lane: str = "") -> asyncio.Task[Permit]:
        task = asyncio.create_task(self.take(name, size, lane=lane))
        await settle()
        return task


async def test_no_more_bytes_are_given_out_than_there_are() -> None:
    bench = Bench()
    first = await bench.take("a", 60)
    waiting = await bench.start("b", 41)
    assert (bench.budget.used, bench.budget.waiting) == (60, 1)
    first.give_back()
    assert (await waiting).size == 41
    assert max(bench.shown.sizes) <= 100


async def test_one_lane_has_no_more_than_its_share_and_keeps_nobody_else_from_the_rest() -> None:
    bench = Bench(most=50)
    held = await bench.take("greedy", 50)
    waiting = await bench.start("greedy", 10)
    assert (await bench.take("modest", 50)).size == 50
    assert not waiting.done()
    held.give_back()
    await waiting


async def test_lanes_are_served_in_rotation() -> None:
    bench = Bench()
    held = await bench.take("first", 100)
    tasks = [await bench.start(f"greedy-{number}", 50, lane="greedy") for number in range(3)]
    tasks.append(await bench.start("modest", 50))
    held.give_back()
    await settle()
    assert bench.order == ["first", "greedy-0", "modest"]
    (await tasks[0]).give_back()
    (await tasks[3]).give_back()
    await settle()
    assert bench.order[3:] == ["greedy-1", "greedy-2"]
    await asyncio.gather(*tasks)


async def test_the_small_do_not_overtake_a_large_one_for_ever() -> None:
    bench = Bench()
    held = await bench.take("a", 30)
    large = await bench.start("large", 100)
    assert bench.budget.take_at_once("small", 1) is None
    held.give_back()
    (await large).give_back()
    assert bench.budget.take_at_once("small", 1) is not None


async def test_room_that_is_not_enough_for_the_first_is_not_given_to_the_next() -> None:
    bench = Bench()
    first, second = await bench.take("a", 30), await bench.take("a", 60)
    large = await bench.start("large", 100)
    small = await bench.start("small", 20)
    second.give_back()
    await settle()
    assert not small.done()
    first.give_back()
    (await large).give_back()
    assert (await small).size == 20


async def test_within_a_lane_nobody_overtakes() -> None:
    bench = Bench(most=50)
    await bench.take("a", 40)
    waiting = await bench.start("a", 20)
    assert bench.budget.take_at_once("a", 10) is None
    waiting.cancel()
    await asyncio.wait({waiting})
    assert bench.budget.take_at_once("a", 10) is not None


async def test_who_does_not_wait_is_refused_at_once_with_a_time_to_come_again() -> None:
    bench = Bench()
    bench.budget.take_or_refuse("a", 100)
    with pytest.raises(InFlightLimitError) as caught:
        bench.budget.take_or_refuse("b", 1)
    assert caught.value.retry_after == 1.0
    assert (bench.shown.waits, bench.shown.refusals) == (0, 1)


async def test_who_waits_too_long_is_refused_and_leaves_the_line() -> None:
    bench = Bench()
    await bench.take("a", 100)
    with pytest.raises(InFlightLimitError):
        await bench.budget.take("b", 1, seconds=0.001)
    assert bench.budget.waiting == 0
    assert (bench.shown.waits, bench.shown.refusals) == (1, 1)


async def test_one_who_gives_up_lets_those_behind_have_what_is_there() -> None:
    bench = Bench()
    await bench.take("a", 30)
    large = await bench.start("large", 100)
    small = await bench.start("small", 70)
    large.cancel()
    await asyncio.wait({large})
    assert (await small).size == 70


async def test_a_permit_that_comes_in_the_moment_of_giving_up_is_given_back() -> None:
    bench = Bench()
    held = await bench.take("a", 100)
    waiting = await bench.start("b", 100)
    held.give_back()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert bench.budget.used == 0


async def test_one_who_was_cancelled_and_has_not_noticed_is_passed_over() -> None:
    bench = Bench()
    held = await bench.take("a", 100)
    gone = await bench.start("gone", 100)
    other = await bench.start("other", 100)
    gone.cancel()
    held.give_back()
    assert (await other).size == 100
    await asyncio.wait({gone})
    assert bench.budget.used == 100


async def test_a_permit_is_given_back_once() -> None:
    bench = Bench()
    permit = await bench.take("a", 60)
    await bench.take("b", 40)
    permit.give_back()
    permit.give_back()
    assert bench.budget.used == 40
