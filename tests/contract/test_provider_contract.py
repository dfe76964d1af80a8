"""What every provider of the table promises, tried on its real back end.

A provider without a harness fails the suite. What a back end can't show is no skip: its harness says so with a reason,
and `INAPPLICABLE` below is what the suite expects to be said, no more and no less.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker.errors import (
    BrokerError,
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.providers.registry import PROVIDERS
from broker.reference import Reference
from broker.secret import Encoding, Reading
from tests.contract.harness import (
    LIMIT,
    MEBIBYTE,
    EnvHarness,
    FileHarness,
    HarnessFactory,
    ProviderHarness,
    VaultHarness,
)

HARNESSES: dict[str, HarnessFactory] = {"env": EnvHarness, "file": FileHarness, "vault": VaultHarness}
INAPPLICABLE: dict[str, set[str]] = {"env": set(), "file": set(), "vault": {"binary", "empty"}}

CANARY = b"canary-4711-geheim"
BINARY = bytes(range(1, 256))
# Longer than any read of these takes on a busy machine; no test waits for it.
PATIENCE = 30.0


def each(case: str) -> pytest.MarkDecorator:
    """Run a test for every provider that can show `case`."""
    able = [scheme for scheme, harness in HARNESSES.items() if case not in harness.inapplicable]
    return pytest.mark.parametrize("harness", able, indirect=True)


@pytest.fixture
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProviderHarness]:
    async with HARNESSES[request.param](tmp_path) as ready:
        yield ready


async def fetch(harness: ProviderHarness, reference: Reference) -> Reading:
    harness.provider.check(reference.source)
    async with asyncio.timeout(PATIENCE):
        return await harness.provider.fetch(reference.source)


async def value_of(harness: ProviderHarness, reference: Reference) -> bytes:
    return (await fetch(harness, reference)).document.select(reference.pointer).reveal()


def test_every_provider_of_the_table_has_a_harness() -> None:
    assert [entry.scheme for entry in PROVIDERS] == list(HARNESSES)


@pytest.mark.parametrize("scheme", HARNESSES)
def test_what_a_back_end_can_not_show_is_exactly_what_is_expected_each_with_a_reason(scheme: str) -> None:
    said = HARNESSES[scheme].inapplicable
    assert set(said) == INAPPLICABLE[scheme]
    assert all(said.values())


@each("value")
async def test_a_value_is_returned_as_it_is_and_never_parsed_again(harness: ProviderHarness) -> None:
    for value in (CANARY, b"${LOGFLUX_PAT}", b"vault:secret/logflux#api_key", "süß".encode(), b"{{ x }} $(id) #"):
        reference = await harness.put(value)
        assert await value_of(harness, reference) == value


@each("missing")
async def test_what_is_not_there_is_missing(harness: ProviderHarness) -> None:
    await harness.put(CANARY)
    with pytest.raises(SecretMissingError):
        await fetch(harness, await harness.remove())


@each("denied")
async def test_what_the_back_end_refuses_is_denied(harness: ProviderHarness) -> None:
    await harness.put(CANARY)
    with pytest.raises(UpstreamDeniedError):
        await fetch(harness, await harness.make_denied())


@each("empty")
async def test_what_is_there_and_holds_nothing_is_missing_its_value(harness: ProviderHarness) -> None:
    reference = await harness.make_empty()
    with pytest.raises(SecretMissingError) as raised:
        await fetch(harness, reference)
    assert raised.value.part is MissingPart.VALUE


@each("binary")
async def test_bytes_that_are_no_text_are_returned_as_they_are_for_base64(harness: ProviderHarness) -> None:
    reference = await harness.put(BINARY)
    found = (await fetch(harness, reference)).document.select(reference.pointer)
    assert found.reveal() == BINARY
    assert found.encoding is Encoding.BASE64


@each("mebibyte")
async def test_a_value_of_one_mebibyte_is_returned_whole(harness: ProviderHarness) -> None:
    reference = await harness.put(b"x" * MEBIBYTE)
    assert await value_of(harness, reference) == b"x" * MEBIBYTE


@each("oversized")
async def test_a_larger_value_is_refused_and_not_cut(harness: ProviderHarness) -> None:
    reference = await harness.put(b"x" * (LIMIT + 1))
    with pytest.raises(SecretUnusableError):
        await fetch(harness, reference)


@each("slow")
async def test_a_slow_read_blocks_nothing_and_ends_at_its_askers_limit(harness: ProviderHarness) -> None:
    reference = await harness.make_slow(CANARY)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await harness.provider.fetch(reference.source)
    await harness.release()
    assert await value_of(harness, reference) == CANARY


@each("cancelled")
async def test_cancelled_reads_end_at_once_and_leave_nothing_behind(harness: ProviderHarness) -> None:
    reference = await harness.put(CANARY)
    # What the first read keeps, a connection for one, is no leak.
    await value_of(harness, reference)
    before = _descriptors()
    reference = await harness.make_slow(CANARY)
    reads = [asyncio.ensure_future(harness.provider.fetch(reference.source)) for _ in range(10)]
    await asyncio.sleep(0.05)
    for read in reads:
        read.cancel()
    ended = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), PATIENCE)
    assert [type(end) for end in ended] == [asyncio.CancelledError] * len(reads)
    await harness.release()
    assert await value_of(harness, reference) == CANARY
    await eventually(lambda: no_more_descriptors_than(before + _SPARE))


@each("unavailable")
async def test_a_back_end_that_is_away_is_unavailable_and_heals(harness: ProviderHarness) -> None:
    reference = await harness.put(CANARY)
    await harness.provider.ping()
    await harness.make_unavailable()
    with pytest.raises(SourceUnavailableError):
        await fetch(harness, reference)
    with pytest.raises(SourceUnavailableError):
        await harness.provider.ping()
    await harness.heal()
    await eventually(harness.provider.ping)
    assert await value_of(harness, reference) == CANARY


@each("changed")
async def test_a_change_between_two_reads_is_seen_by_the_second(harness: ProviderHarness) -> None:
    readings = []
    for value in (b"first", b"other"):
        reference = await harness.put(value)
        readings.append(await fetch(harness, reference))
        assert readings[-1].document.select(reference.pointer).reveal() == value
    versions = [reading.version for reading in readings]
    assert versions == [None, None] or versions[0] != versions[1]


@each("many")
async def test_many_reads_at_once_all_get_the_value(harness: ProviderHarness) -> None:
    reference = await harness.put(CANARY)
    found = await asyncio.gather(*(value_of(harness, reference) for _ in range(50)))
    assert set(found) == {CANARY}


@each("closed")
async def test_closing_twice_is_closing_once(harness: ProviderHarness) -> None:
    reference = await harness.put(CANARY)
    await value_of(harness, reference)
    await harness.provider.aclose()
    await harness.provider.aclose()


@each("canary")
async def test_no_reading_shows_its_value(harness: ProviderHarness) -> None:
    reference = await harness.put(CANARY)
    reading = await fetch(harness, reference)
    for shown in (reading, reading.document, reading.document.select(reference.pointer), harness.provider):
        assert CANARY.decode() not in repr(shown) + str(shown)


async def refused(harness: ProviderHarness) -> list[FetchError]:
    """Return the errors of every way in which a read can fail here while a canary is in the back end."""
    ways: dict[str, Callable[[], Awaitable[Reference]]] = {
        "missing": harness.remove,
        "denied": harness.make_denied,
        "oversized": lambda: harness.put(CANARY + b"x" * LIMIT),
    }
    found = []
    await harness.put(CANARY)
    for case, prepare in ways.items():
        assert case not in harness.inapplicable
        with pytest.raises(FetchError) as raised:
            await fetch(harness, await prepare())
        found.append(raised.value)
    reference = await harness.put(CANARY)
    await harness.make_unavailable()
    with pytest.raises(FetchError) as raised:
        await fetch(harness, reference)
    await harness.heal()
    return [*found, raised.value]


@each("canary")
async def test_no_error_shows_a_value_nor_carries_a_foreign_exception(harness: ProviderHarness) -> None:
    for error in await refused(harness):
        text = "".join(traceback.format_exception(error, chain=True))
        assert CANARY.decode() not in repr(error) + str(error) + text
        assert error.__cause__ is None or isinstance(error.__cause__, BrokerError)
        # `from None`: no logger prints the text of what was wrapped.
        assert error.__context__ is None or error.__suppress_context__


class TooManyDescriptorsError(Exception):
    """A read that was given up has not ended yet."""


# A pool may keep a connection more than before.
_SPARE = 2


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def no_more_descriptors_than(count: int) -> None:
    if _descriptors() > count:
        raise TooManyDescriptorsError


async def eventually(ask: Callable[[], Awaitable[None]]) -> None:
    """Ask until the answer is no longer that it is not so far."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await ask()
            except (SourceUnavailableError, TooManyDescriptorsError):
                await asyncio.sleep(0.05)
            else:
                return
