"""What every provider of the table promises, tried on its real back end."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import (
    FetchError,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.providers.registry import PROVIDERS
from broker.secret import Encoding
from tests.contract.harness import HARNESSES, LIMIT, Harness, opened

CANARY = b"canary-4711-geheim"


@pytest.fixture(params=[entry.scheme for entry in PROVIDERS])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    with HARNESSES[request.param](tmp_path) as it:
        yield it


def test_every_provider_of_the_table_has_a_harness_and_each_scheme_is_there_once() -> None:
    schemes = [entry.scheme for entry in PROVIDERS]
    assert sorted(schemes) == sorted(HARNESSES)


async def read(harness: Harness, value: bytes) -> bytes:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        source = await asyncio.to_thread(harness.put, value)
        provider.check(source)
        return (await provider.fetch(source)).document.select(harness.pointer).reveal()


async def test_a_value_is_returned_byte_for_byte_and_never_parsed_again(harness: Harness) -> None:
    for value in (CANARY, b"${LOGFLUX_PAT}", b"vault:secret/logflux#api_key", "süß".encode(), b"{{ x }} $(id) #"):
        assert await read(harness, value) == value


async def test_a_binary_value_is_returned_as_it_is(harness: Harness) -> None:
    if "binary" in harness.inapplicable:
        assert harness.pointer  # Only a back end with named fields holds no bytes.
        return
    if "binary with NUL or line ends" in harness.inapplicable:
        # A line-based file is UTF-8 by its dialect, so anything else is refused whole, and says so.
        with pytest.raises(FetchError):
            await read(harness, b"\xff\xfe")
        return
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        source = await asyncio.to_thread(harness.put, b"\xff\x00\n\xfe\n")
        found = (await provider.fetch(source)).document.select(())
        assert (found.reveal(), found.encoding) == (b"\xff\x00\n\xfe\n", Encoding.BASE64)


async def test_one_mebibyte_is_returned(harness: Harness) -> None:
    value = b"x" * (LIMIT - 100)
    assert await read(harness, value) == value


async def test_more_than_the_limit_is_refused_and_not_cut(harness: Harness) -> None:
    with pytest.raises(SecretUnusableError):
        await read(harness, b"x" * (LIMIT + 1))


async def test_an_empty_value_is_missing(harness: Harness) -> None:
    if "empty" in harness.inapplicable:
        assert await read(harness, b"") == b""  # A field that was written empty is a value of its store.
        return
    with pytest.raises(SecretMissingError):
        await read(harness, b"")


async def test_what_is_not_there_is_missing(harness: Harness) -> None:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        await asyncio.to_thread(harness.put, CANARY)
        with pytest.raises(SecretMissingError):
            await provider.fetch(await asyncio.to_thread(harness.missing))


async def test_what_the_back_end_refuses_is_denied(harness: Harness) -> None:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        with pytest.raises(UpstreamDeniedError):
            await provider.fetch(await asyncio.to_thread(harness.denied))


async def test_a_change_between_two_reads_is_seen(harness: Harness) -> None:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        for value in (b"first", b"second"):
            source = await asyncio.to_thread(harness.put, value)
            assert (await provider.fetch(source)).document.select(harness.pointer).reveal() == value


async def test_a_back_end_that_is_away_is_unavailable_for_fetch_and_ping(harness: Harness) -> None:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        source = await asyncio.to_thread(harness.put, CANARY)
        await provider.ping()
        if "unavailable" in harness.inapplicable:
            return
        await asyncio.to_thread(harness.break_it)
        with pytest.raises(SourceUnavailableError) as raised:
            await provider.fetch(source)
        assert CANARY.decode() not in str(raised.value)
        with pytest.raises(SourceUnavailableError):
            await provider.ping()


async def test_a_cancelled_read_leaves_the_provider_usable(harness: Harness) -> None:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        source = await asyncio.to_thread(harness.put, CANARY)
        for _ in range(5):
            task = asyncio.ensure_future(provider.fetch(source))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await provider.fetch(source)).document.select(harness.pointer).reveal() == CANARY


async def test_many_reads_at_once_all_get_the_value(harness: Harness) -> None:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        source = await asyncio.to_thread(harness.put, CANARY)
        found = await asyncio.gather(*(provider.fetch(source) for _ in range(50)))
        assert {reading.document.select(harness.pointer).reveal() for reading in found} == {CANARY}


async def test_closing_twice_is_closing_once(harness: Harness) -> None:
    provider = await asyncio.to_thread(harness.provider)
    await provider.aclose()
    await provider.aclose()


async def test_no_reading_shows_its_value(harness: Harness) -> None:
    async with opened(await asyncio.to_thread(harness.provider)) as provider:
        reading = await provider.fetch(await asyncio.to_thread(harness.put, CANARY))
        assert CANARY.decode() not in repr(reading) + str(reading)
