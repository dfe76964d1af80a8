"""Reads under way: they end for everybody who waits, whatever ends them."""

import asyncio

import pytest

from broker.cache.flights import Flight, Flights
from broker.cache.remembered import Entry
from broker.errors import SecretMissingError, SourceUnavailableError
from broker.reference import Source

SOURCE = Source("vault", "secret/app")


async def test_a_read_that_is_ended_before_its_first_step_tells_who_waits() -> None:
    flights = Flights()

    async def never(_flight: Flight) -> Entry | SecretMissingError:
        raise AssertionError

    waiter = asyncio.create_task(flights.begin(SOURCE, never).landed())
    await flights.aclose()
    with pytest.raises(SourceUnavailableError, match="shutting down"):
        await asyncio.wait_for(waiter, 10)
    with pytest.raises(SourceUnavailableError, match="shutting down"):
        flights.begin(SOURCE, never)


async def test_a_defect_reaches_all_who_wait_and_the_next_one_begins_anew() -> None:
    flights = Flights()

    async def defect(_flight: Flight) -> Entry | SecretMissingError:
        await asyncio.sleep(0)
        message = "a defect"
        raise ValueError(message)

    flight = flights.begin(SOURCE, defect)
    found = await asyncio.gather(flight.landed(), flight.landed(), return_exceptions=True)
    assert [str(one) for one in found] == ["a defect", "a defect"]
    assert flights.find(SOURCE) is None
    with pytest.raises(ValueError, match="a defect"):
        await flight.landed()
