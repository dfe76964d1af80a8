"""What a request for more than there is memory for is told, and that nothing of it is revealed."""

import asyncio
import base64
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from broker.audit.event import Outcome
from broker.limits.in_flight import Claim, InFlight
from broker.policy.decision import Allow
from broker.resolution.results import Granted, Require, Resolution, Status
from broker.resolve import Wishes
from broker.secret import Encoding, Reading, SecretDocument, SecretValue
from broker.web.schemas import resolution_body, resolution_parts
from tests.fakes import (
    FakeClock,
    FakePolicy,
    FakeProvider,
    FakeTrail,
    fake_metrics,
    fake_peer,
    fields_reading,
)
from tests.resolving import admission_of, resolving
from tests.waiting import until

MIB = 1024 * 1024
NAMES = tuple("abcdefgh")


def large(size: int = MIB) -> Reading:
    return Reading(SecretDocument.of_bytes(b"x" * size))


class Bench:
    """Eight secrets of one MiB; answers may have 4 MiB, one identity's 2, and so may what is read for it."""

    def __init__(self, *, total: int = 16 * MIB, max_bytes: int = 64 * MIB) -> None:
        clock, metrics = FakeClock(), fake_metrics()
        self.in_flight = InFlight.of(total, metrics)
        self.trail = FakeTrail()
        self.provider = FakeProvider({f"kv/{name}": large() for name in NAMES})
        policy = FakePolicy({"vault:": Allow("read", 300.0, 3600.0)})
        common: Any = {"policy": policy, "trail": self.trail, "metrics": metrics, "clock": clock}
        providers = {"vault": self.provider}
        self.resolver, _ = resolving(
            **common, admission=admission_of(**common), providers=providers, max_bytes=max_bytes
        )

    def claim(self) -> Claim:
        return self.in_flight.claim(fake_peer().name)

    async def ask(self, *names: str, claim: Claim | None = None, require: Require = Require.ALL) -> Resolution:
        return await self.resolver.resolve(
            peer=fake_peer(),
            unverified_token=None,
            texts=[f"vault:kv/{name}" for name in names],
            require=require,
            address=ip_address("10.0.0.7"),
            request="request-1",
            wishes=Wishes(),
            claim=claim or self.claim(),
        )

    def told(self) -> list[tuple[str, str]]:
        """Return what the trail has of each reference of the last request."""
        return [(record.status, record.reason) for record in self.trail.events[-1].references]


def codes(resolution: Resolution) -> list[str]:
    return ["ok" if isinstance(result, Granted) else result.code for result in resolution.results]


async def test_an_answer_over_the_share_of_an_identity_is_refused_with_every_reference_and_no_value() -> None:
    bench = Bench()
    for name in NAMES[:3]:
        claim = bench.claim()
        await bench.ask(name, claim=claim)
        claim.close()
    resolution = await bench.ask(*NAMES[:3], require=Require.ANY)
    assert codes(resolution) == ["answer_too_large"] * 3
    assert resolution.worst is Status.INVALID
    assert bench.told() == [("invalid", "answer_too_large")] * 3
    assert bench.trail.events[-1].outcome is Outcome.FAILURE
    assert {record.fingerprint for record in bench.trail.events[-1].references} == {""}


async def test_the_same_value_named_often_counts_each_time() -> None:
    bench = Bench()
    assert codes(await bench.ask("a", "a", "a")) == ["answer_too_large"] * 3


async def test_an_answer_counts_as_it_is_written() -> None:
    bench = Bench()
    bench.provider.sources["kv/a"] = Reading(SecretDocument.of_bytes(b"\x01" * (MIB // 2)))
    assert codes(await bench.ask("a")) == ["answer_too_large"]


async def test_what_is_read_beyond_the_share_of_an_identity_is_unavailable_and_the_rest_is_there() -> None:
    bench = Bench()
    claim = bench.in_flight.claim(fake_peer().name)
    claim.hold(SecretDocument.of_bytes(b"x" * 3 * MIB))
    resolution = await bench.ask("a", "b", require=Require.ANY)
    assert sorted(codes(resolution)) == ["in_flight_limit", "ok"]
    refused = next(result for result in resolution.results if not isinstance(result, Granted))
    assert (refused.status, refused.retry_after) == (Status.UNAVAILABLE, 1.0)
    assert ("unavailable", "in_flight_limit") in bench.told()


async def test_what_is_read_counts_until_the_answer_is_built() -> None:
    bench = Bench()
    claim = bench.claim()
    await bench.ask("a", claim=claim)
    assert len(bench.in_flight.documents) == 1
    claim.built()
    assert len(bench.in_flight.documents) == 0
    assert bench.in_flight.answers.used > MIB


async def test_an_answer_waits_for_those_before_it_and_is_given_then() -> None:
    bench = Bench()
    first = bench.claim()
    await bench.ask("a", claim=first)
    waiting = asyncio.create_task(bench.ask("b"))
    await until(lambda: bench.in_flight.answers.waiting == 1)
    assert len(bench.trail.events) == 1
    first.close()
    assert codes(await waiting) == ["ok"]


async def test_one_that_waited_too_long_is_refused_and_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.limits.in_flight._WAIT_SECONDS", 0.001)
    bench = Bench()
    first = bench.claim()
    await bench.ask("a", claim=first)
    assert codes(await bench.ask("b")) == ["in_flight_limit"]
    assert bench.told() == [("unavailable", "in_flight_limit")]


async def test_small_answers_wait_for_nobody() -> None:
    bench = Bench()
    bench.provider.sources["kv/small"] = fields_reading(key="v")
    first = bench.claim()
    await bench.ask("a", claim=first)
    claim = bench.claim()
    assert codes(await bench.ask("small", claim=claim)) == ["ok"]
    assert not claim.has_large_answer


async def test_what_is_made_of_a_secret_for_an_answer_stays_with_it_only_as_far_as_it_is_small() -> None:
    bench = Bench()
    size = 100_000
    leaf = {"a": base64.b64encode(b"x" * size).decode()}
    bench.provider.sources["kv/nested"] = Reading(SecretDocument.of_fields({"b": {"c": {"d": leaf}}}, size=size))
    names = ["nested#/b", "nested#/b/c", "nested#/b/c/d", "nested#/b/c/d/a", "nested?decode=base64#/b/c/d/a"]
    assert codes(await bench.ask(*names)) == ["ok"] * 5
    first = await bench.ask(*names)
    again = await bench.ask(*names)
    kept = [one.value is other.value for one, other in zip(first.results, again.results, strict=True)]
    assert kept == [True, False, False, False, False]
    assert [one.value for one in first.results] == [other.value for other in again.results]


@pytest.mark.parametrize(
    "value",
    [
        SecretValue(b'plain "quoted" \\ \n', encoding=Encoding.TEXT),
        SecretValue("é \x01 😀".encode(), encoding=Encoding.TEXT),
        *(SecretValue(b"\xff" * size, encoding=Encoding.BASE64) for size in range(5)),
        SecretValue(b'{"a": [1, null]}', encoding=Encoding.JSON),
    ],
)
def test_the_size_of_a_value_in_an_answer_is_told_exactly(value: SecretValue) -> None:
    def body(shown: SecretValue) -> int:
        facts = {"reference": "r", "status": Status.OK, "version": "1"}
        times = {"fetched_at": 0.0, "fresh_until": 0.0, "stale_until": 0.0}
        granted = Granted(**facts, **times, value=shown)
        return len(resolution_body(Resolution(complete=True, results=(granted,), worst=None)))

    empty = SecretValue(b"0", encoding=value.encoding)
    assert body(value) - body(empty) == value.answer_size - empty.answer_size


async def test_a_large_answer_in_parts_says_the_same_and_has_no_more_bytes_than_were_counted() -> None:
    bench = Bench()
    bench.provider.sources["kv/small"] = fields_reading(key="é")
    claim = bench.claim()
    resolution = await bench.ask("a", "small", "missing", claim=claim, require=Require.ANY)
    parts = resolution_parts(resolution)
    assert b"".join(parts) == resolution_body(resolution)
    granted = SimpleNamespace(results=resolution.results[:2])
    assert len(resolution_body(granted)) <= bench.in_flight.answers.used
