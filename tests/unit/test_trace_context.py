"""`traceparent` as the W3C recommendation has it, and nothing else."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cache.cache import Cache
from broker.reference import Source
from broker.secret import Reading
from broker.trace_context import CURRENT, TraceContext, outgoing, parse_traceparent, untraced
from tests.fakes import FakeClock, FakeProvider, fake_metrics, text_reading

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


def test_a_valid_header_is_taken_and_passed_on_as_it_is() -> None:
    parsed = parse_traceparent([VALID])
    assert parsed == TraceContext(TRACE, PARENT, sampled=True)
    assert parsed.header == VALID


@pytest.mark.parametrize(("flags", "sent"), [("00", "00"), ("01", "01"), ("02", "00"), ("ff", "01")])
def test_of_the_flags_only_the_known_one_is_passed_on(flags: str, sent: str) -> None:
    parsed = parse_traceparent([f"00-{TRACE}-{PARENT}-{flags}"])
    assert parsed is not None
    assert parsed.header == f"00-{TRACE}-{PARENT}-{sent}"


@pytest.mark.parametrize("text", [f"cc-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what.the-future.brings"])
def test_a_version_to_come_is_read_as_far_as_it_is_known_and_passed_on_as_ours(text: str) -> None:
    parsed = parse_traceparent([text])
    assert parsed is not None
    assert parsed.header == VALID


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        [VALID, VALID],
        [f"{VALID},{VALID}"],
        [VALID.upper()],
        [f" {VALID}"],
        [f"{VALID}\n"],
        [f"{VALID}-"],
        [f"{VALID}-more"],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"cc-{TRACE}-{PARENT}-01."],
        [f"cc-{TRACE}-{PARENT}-01-{'x' * 600}"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE[:-1]}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-1"],
        [f"0-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE[:-1]}g-{PARENT}-01"],
        # Digits of other scripts are digits to `int` and to \\d.
        [f"00-{TRACE[:-1]}\u0664-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-01\u2028"],
    ],
)
def test_what_is_malformed_is_ignored(lines: list[str]) -> None:
    assert parse_traceparent(lines) is None


@given(st.text(max_size=80))
def test_whatever_is_taken_goes_out_in_the_one_form(text: str) -> None:
    parsed = parse_traceparent([text])
    assert parsed is None or parse_traceparent([parsed.header]) == parsed


async def test_a_task_that_outlives_its_request_carries_no_trace() -> None:
    async def sent() -> dict[str, str]:
        return outgoing()

    token = CURRENT.set(TraceContext(TRACE, PARENT, sampled=True))
    try:
        assert await asyncio.create_task(sent()) == {"traceparent": VALID}
        assert await asyncio.create_task(sent(), context=untraced()) == {}
    finally:
        CURRENT.reset(token)


async def test_a_read_that_many_wait_for_carries_the_trace_of_the_one_that_began_it() -> None:
    sent: list[dict[str, str]] = []
    provider = FakeProvider({"secret/app": text_reading("x")}, gate=asyncio.Event())

    async def fetch(source: Source) -> Reading:
        sent.append(outgoing())
        return await provider.fetch(source)

    cache = Cache(clock=FakeClock(), metrics=fake_metrics(), max_entries=9, max_bytes=999, fetch_seconds=5.0)

    async def ask(trace: TraceContext | None) -> None:
        CURRENT.set(trace)
        await cache.get(Source("vault", "secret/app"), fresh_for=300.0, max_stale=3600.0, fetch=fetch)

    first = asyncio.create_task(ask(TraceContext(TRACE, PARENT, sampled=True)))
    await provider.began.wait()
    second = asyncio.create_task(ask(TraceContext("1" * 32, PARENT, sampled=True)))
    await asyncio.sleep(0)
    assert provider.gate is not None
    provider.gate.set()
    await asyncio.gather(first, second)
    await cache.aclose()
    assert sent == [{"traceparent": VALID}]
