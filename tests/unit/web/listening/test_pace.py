"""How many handshakes go on side by side."""

import asyncio

from broker.web.listening.pace import Pace

FOREVER = 60.0


async def waits(pace: Pace) -> bool:
    waiting = asyncio.create_task(pace.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    done = waiting.done()
    waiting.cancel()
    return not done


async def test_one_more_begins_when_one_has_ended() -> None:
    pace = Pace(at_once=2, stuck_seconds=FOREVER)
    turns = []
    for _ in range(2):
        assert not await waits(pace)
        turns.append(pace.take())
    assert await waits(pace)
    waiting = asyncio.create_task(pace.wait())
    await asyncio.sleep(0)
    pace.end(turns[0])
    await waiting
    pace.take()
    assert await waits(pace)


async def test_those_that_do_not_end_soon_count_no_more() -> None:
    pace = Pace(at_once=2, stuck_seconds=0.01)
    for _ in range(2):
        pace.take()
    await pace.wait()
    pace.take()
    assert not await waits(pace)


async def test_the_end_of_one_that_counts_no_more_makes_no_room() -> None:
    pace = Pace(at_once=1, stuck_seconds=0.01)
    stuck = pace.take()
    await pace.wait()
    pace.take()
    pace.end(stuck)
    assert await waits(pace)
