"""Turns for reads: in rotation, bounded, and free again whatever ends them."""

import asyncio

import pytest

from broker.limits.fair_queue import FairQueue, QueueFullError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Bench:
    """One read at a time; `order` tells whose turn came when."""

    def __init__(self, *, max_waiting: int = 100, max_waiting_each: int = 100) -> None:
        self.queue = FairQueue(at_once=1, max_waiting=max_waiting, max_waiting_each=max_waiting_each)
        self.order: list[str] = []
        self.gate = asyncio.Event()

    async def read(self, lane: str) -> None:
        async with self.queue.turn(lane):
            self.order.append(lane)
            await self.gate.wait()

    def start(self, *lanes: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.read(lane)) for lane in lanes]


async def test_an_identity_with_a_thousand_reads_leaves_the_next_turn_but_one_to_everybody_else() -> None:
    bench = Bench(max_waiting=2000, max_waiting_each=2000)
    greedy = bench.start(*["greedy"] * 1000)
    await settle()
    modest = bench.start("modest", "other")
    await settle()
    bench.gate.set()
    await asyncio.gather(*greedy, *modest)
    assert bench.order[:4] == ["greedy", "greedy", "modest", "other"]
    assert len(bench.order) == 1002


@pytest.mark.parametrize(
    ("bounds", "refused"), [({"max_waiting": 2}, "other"), ({"max_waiting_each": 2}, "one")], ids=["all", "one lane"]
)
async def test_a_full_queue_is_answered_at_once(bounds: dict[str, int], refused: str) -> None:
    bench = Bench(**bounds)
    tasks = bench.start("one", "one", "one")
    await settle()
    with pytest.raises(QueueFullError) as caught:
        await bench.read(refused)
    assert caught.value.retry_after == 1.0
    bench.gate.set()
    await asyncio.gather(*tasks)


async def test_a_full_lane_keeps_nobody_else_out() -> None:
    bench = Bench(max_waiting_each=1)
    tasks = bench.start("one", "one", "other")
    bench.gate.set()
    await asyncio.gather(*tasks)
    assert bench.order == ["one", "one", "other"]


async def test_who_goes_while_waiting_or_in_the_moment_of_its_turn_leaves_the_turn_to_others() -> None:
    bench = Bench()
    holder, waiting, last = bench.start("a", "b", "c")
    await settle()
    waiting.cancel()
    await settle()
    bench.gate.set()
    await settle()
    await holder
    # The turn was passed on to `last`, unless it was lost with `waiting`.
    await asyncio.wait_for(last, 1)
    bench.gate.clear()
    first, second, third = bench.start("d", "e", "f")
    await settle()
    bench.gate.set()
    first.add_done_callback(lambda _: second.cancel())
    await asyncio.wait_for(third, 1)
    async with asyncio.timeout(1):
        await bench.read("g")


async def test_a_read_that_fails_frees_its_turn() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="bug"):
        async with bench.queue.turn("a"):
            raise ValueError("bug")
    async with asyncio.timeout(1), bench.queue.turn("b"):
        pass
