"""Ten thousand leases whose renewals fall due together: the way to the store never carries more than its budget.

The way is a real one, to a server that counts. What the budget would have slept moves the clock of all of them instead.
"""

import asyncio
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from broker.providers.base import Extension, Grip
from broker.providers.vault.provider import VaultProvider
from tests.faults.figures import Figure, write_figure
from tests.lease_desk import HOUR, SOURCE, USER, Desk, asker
from tests.vaults import Seen, closing, private, provider_of
from tests.waiting import until

__all__ = ["closing"]
LEASES: Final = 10_000
PER_SECOND: Final = 200
# Of those that are renewed at once, some get their turn before the first has come to the server.
_UNDER_WAY: Final = 16


class Counting:
    """What a store answers to renewals, and when it was asked for which lease."""

    def __init__(self, clock: Seen) -> None:
        self.clock = clock
        self.moments: list[float] = []
        self.leases: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/v1/sys/leases/renew":
            token = {"ttl": 0, "num_uses": 0, "renewable": False, "expire_time": None}
            return web.json_response({"data": token})
        self.moments.append(self.clock.monotonic())
        asked = json.loads(await request.read())
        self.leases[asked["lease_id"]] += 1
        lease = {"lease_id": asked["lease_id"], "lease_duration": asked["increment"]}
        return web.json_response({"request_id": "r-1", **lease})

    def peak(self, seconds: float) -> int:
        """Return the most renewals in any window of `seconds`."""
        return max(bisect_right(self.moments, at + seconds) - number for number, at in enumerate(self.moments))


@pytest.fixture
async def counting() -> AsyncIterator[tuple[Counting, str]]:
    counter = Counting(Seen())
    server = RawTestServer(counter.answer)
    await server.start_server()
    yield counter, f"http://127.0.0.1:{server.port}"
    await server.close()


async def test_ten_thousand_renewals_due_together_stay_within_the_budget_and_none_is_lost(
    counting: tuple[Counting, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, address = counting
    clock = counter.clock
    monkeypatch.setattr("broker.leases.held.random.uniform", lambda _low, high: high)

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    monkeypatch.setattr("broker.providers.vault.limits.budget.asyncio", SimpleNamespace(sleep=sleep, Lock=asyncio.Lock))
    desk = Desk(clock=clock)
    asked = [asker(f"spiffe://prod.example/agent-{number}") for number in range(LEASES)]
    for each in asked:
        await desk.leases.get(SOURCE, each, [USER], fresh_for=300.0)
    token = private(tmp_path / "token", "t")
    provider: VaultProvider = provider_of(
        address, {"token_file": str(token)}, seen=clock, requests_per_second=PER_SECOND, max_connections=64
    )
    await provider.ping()

    async def renew(grip: Grip, *, seconds: float) -> Extension:
        return await provider.renew(Grip(handle=grip.handle, parent=""), seconds=seconds)

    desk.mint.renew = renew  # type: ignore[method-assign]  # Minted in memory, renewed on the way to a store.
    clock.advance(HOUR * 0.67)
    keeping = desk.keep()
    await until(lambda: desk.count("renewed") == LEASES, seconds=300)
    keeping.cancel()

    for seconds in (0.5, 1.0, 2.0, 5.0, 20.0):
        allowed = PER_SECOND * max(1, seconds) + _UNDER_WAY
        assert counter.peak(seconds) <= allowed, f"the budget of {seconds} s"
    assert len(counter.leases) == LEASES
    assert set(counter.leases.values()) == {1}
    assert desk.count("lost") == desk.count("renew_failed") == 0
    assert all([await desk.leases.lookup(SOURCE, each, [USER], fresh_for=300.0) for each in asked])
    took = counter.moments[-1] - counter.moments[0]
    assert took >= LEASES / PER_SECOND - 2
    write_figure(
        "leases",
        Figure(
            name=f"{LEASES:,} leases whose renewals fall due together, budget {PER_SECOND:,} requests a second",
            promised=f"each is renewed once and none is lost; in no second more than the budget, and the {_UNDER_WAY} "
            "that are under way, counted by a server that only counts",
            seen=f"{len(counter.leases):,} renewed in {took:.1f} s, at most {counter.peak(1.0):,} in one second",
        ),
    )
