"""Refusals of strangers: each on record at first, and then by their number."""

import asyncio

import pytest

from broker.audit.event import AuditEvent, EventKind, Outcome
from broker.audit.strangers import Strangers
from broker.errors import AuditUnavailableError
from tests.fakes import FakeClock, FakeTrail


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.trail = FakeTrail()
        self.strangers = Strangers(trail=self.trail, clock=self.clock)

    async def refuse(self, times: int, *, reason: str = "unknown_ca", address: str = "192.0.2.1") -> None:
        for number in range(times):
            await self.strangers.append(
                AuditEvent(
                    kind=EventKind.HANDSHAKE,
                    outcome=Outcome.FAILURE,
                    reason=reason,
                    address=address,
                    request=f"request-{number}",
                )
            )

    @property
    def told(self) -> list[tuple[str, str, object]]:
        return [(event.reason, event.address, event.details.get("repeated", 1)) for event in self.trail.events]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_first_are_on_record_each_and_a_flood_by_its_number(bench: Bench) -> None:
    await bench.refuse(10_000)
    assert bench.told == [("unknown_ca", "192.0.2.1", 1)] * 10
    assert bench.trail.events[-1].request == "request-9"
    bench.trail.events.clear()
    await bench.strangers.tell()
    assert bench.told == [("unknown_ca", "192.0.2.1", 9_990)]
    assert bench.trail.events[0].request == ""
    await bench.strangers.tell()
    assert len(bench.told) == 1, "nothing is told twice"


async def test_a_flood_from_one_address_hides_no_other_address_and_no_other_reason(bench: Bench) -> None:
    await bench.refuse(1_000)
    await bench.refuse(1, address="192.0.2.2")
    await bench.refuse(1, reason="revoked")
    assert bench.told[10:] == [("unknown_ca", "192.0.2.2", 1), ("revoked", "192.0.2.1", 1)]


async def test_a_flood_from_everywhere_is_told_without_addresses(bench: Bench) -> None:
    for number in range(5_000):
        await bench.refuse(1, address=f"2001:db8::{number:x}")
    assert len(bench.told) == 64 + 10
    bench.trail.events.clear()
    await bench.strangers.tell()
    assert bench.told == [("unknown_ca", "", 5_000 - 64 - 10)]


async def test_who_was_not_refused_for_a_minute_begins_anew(bench: Bench) -> None:
    await bench.refuse(20)
    bench.clock.advance(61)
    await bench.strangers.tell()
    bench.trail.events.clear()
    await bench.refuse(20)
    assert bench.told == [("unknown_ca", "192.0.2.1", 1)] * 10


async def test_what_the_trail_can_not_take_is_told_when_it_can(bench: Bench) -> None:
    await bench.refuse(15)
    bench.trail.events.clear()
    bench.trail.full = True
    await bench.strangers.tell()
    with pytest.raises(AuditUnavailableError):
        await bench.refuse(1, reason="revoked")
    bench.trail.full = False
    await bench.strangers.tell()
    assert bench.told == [("unknown_ca", "192.0.2.1", 5)]


async def test_the_end_tells_what_is_left(bench: Bench) -> None:
    await bench.refuse(11)
    keeping = asyncio.create_task(bench.strangers.keep())
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert bench.told[10:] == [("unknown_ca", "192.0.2.1", 1)]
