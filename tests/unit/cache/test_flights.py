"""One read for everybody who asks meanwhile."""

import asyncio

import pytest

from broker.cache.flights import Flight
from broker.errors import SourceUnavailableError


async def test_who_asks_a_read_that_was_given_up_does_not_wait_for_it() -> None:
    flight = Flight()
    flight.end(None)
    with pytest.raises(SourceUnavailableError, match="shutting down"):
        async with asyncio.timeout(5):
            await flight.landed()


async def test_the_first_end_counts() -> None:
    flight, error = Flight(), SourceUnavailableError("the store is sealed")
    flight.end(error)
    flight.end(None)
    with pytest.raises(SourceUnavailableError, match="sealed"):
        await flight.landed()
