"""Half an hour without the store, counted at the store: no agent fails, hardly a question, no heap at its return."""

import asyncio
import time
from pathlib import Path

from broker.cache.cache import Cache
from broker.errors import SourceUnavailableError
from broker.providers.vault.provider import VaultProvider
from broker.reference import Source, parse
from tests.fakes import fake_metrics
from tests.openbao import OpenBao
from tests.relays import relaying
from tests.vaults import Seen, closing, private, provider_of

__all__ = ["closing"]

SOURCES = [parse(f"vault:secret/outage/{number}#v").source for number in range(20)]
BUDGET = 50


async def ask(cache: Cache, provider: VaultProvider, source: Source) -> bool:
    """Ask as an agent would, and return whether the answer is stale."""
    found = await cache.get(source, fresh_for=60, max_stale=7200, fetch=provider.fetch)
    return found.stale


async def test_half_an_hour_without_the_store_fails_nobody_and_costs_a_probe_in_five_seconds(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    for source in SOURCES:
        own_openbao.put_secret(source.path.removeprefix("secret/"), v="x")
    seen = Seen()
    with relaying(own_openbao.address) as relay:
        token = private(tmp_path / "token", own_openbao.root_token)
        provider = provider_of(
            relay.address, {"token_file": str(token)}, seen=seen, requests_per_second=BUDGET, max_connections=8
        )
        cache = Cache(clock=seen, metrics=fake_metrics(), max_entries=100, max_bytes=10_000, fetch_seconds=10)
        await asyncio.gather(*(ask(cache, provider, source) for source in SOURCES))
        await asyncio.to_thread(own_openbao.seal)
        seen.advance(61)
        before, began = len(relay.asked), seen.monotonic()
        stale = 0
        for _ in range(600):
            seen.advance(3)
            cache.refresh_due()
            stale += sum(await asyncio.gather(*(ask(cache, provider, source) for source in SOURCES)))
            await ping(provider)
        asked, seconds = len(relay.asked) - before, seen.monotonic() - began
        assert stale == 600 * len(SOURCES), "every agent was answered, and told that the answer is stale"
        assert asked <= seconds / 5 + 1, f"{asked} requests at the store in {seconds:.0f} s"
        assert seen.is_away
        await asyncio.to_thread(own_openbao.unseal)
        came_back, at_return = seen.monotonic(), len(relay.asked)
        peak = 0
        while any(await asyncio.gather(*(ask(cache, provider, source) for source in SOURCES))):
            await ping(provider)
            seen.advance(1)
            # What was begun in this second ends in it, so that each second's requests are counted in it.
            await asyncio.sleep(0.1)
            peak, at_return = max(peak, len(relay.asked) - at_return), len(relay.asked)
        assert seen.monotonic() - came_back < 10
        assert peak <= BUDGET
        assert not seen.is_away
        await cache.aclose()


async def ping(provider: VaultProvider) -> None:
    try:
        await provider.ping()
    except SourceUnavailableError:
        return


async def test_while_the_store_is_away_a_read_without_a_remembered_value_fails_at_once_with_the_time_to_wait(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    seen = Seen()
    token = private(tmp_path / "token", own_openbao.root_token)
    provider = provider_of(own_openbao.address, {"token_file": str(token)}, seen=seen, total_seconds=0.5)
    await provider.ping()
    await asyncio.to_thread(own_openbao.stop)
    try:
        for _ in range(3):
            await failing(provider)
        began = time.monotonic()
        errors = [await failing(provider) for _ in range(100)]
        assert time.monotonic() - began < 25, "a hundred time-outs would take twice as long"
        assert all(0 < (error.retry_after or 0) <= 5 for error in errors)
    finally:
        await asyncio.to_thread(own_openbao.cont)


async def failing(provider: VaultProvider) -> SourceUnavailableError:
    try:
        await provider.fetch(SOURCES[0])
    except SourceUnavailableError as error:
        return error
    raise AssertionError("a store that hangs gave a value")


async def test_a_good_health_document_does_not_end_an_outage_and_a_served_request_does(
    durable_openbao: OpenBao, tmp_path: Path
) -> None:
    # A store whose audit log can't be written says that it is healthy, and serves nothing.
    store = durable_openbao
    seen = Seen()
    token = private(tmp_path / "token", store.root_token)
    provider = provider_of(store.address, {"token_file": str(token)}, seen=seen)
    await provider.ping()
    await asyncio.to_thread(store.seal)
    await ping(provider)
    assert seen.is_away
    seen.requests.clear()
    await asyncio.to_thread(store.unseal)
    seen.advance(5)
    await provider.ping()
    assert [operation for operation, _ in seen.requests][:2] == ["lookup", "health"]
    assert not seen.is_away
