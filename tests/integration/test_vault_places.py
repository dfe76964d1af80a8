"""A namespace that is locked, sealed or limited takes no other one with it; counted at a real store."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import SourceUnavailableError
from broker.providers.vault.exchange.request import Place
from broker.providers.vault.limits.breaker import BreakerOpenError
from broker.providers.vault.provider import VaultProvider
from broker.reference import parse
from tests.openbao import OpenBao
from tests.vaults import Seen, closing, token_provider

__all__ = ["closing"]
PROBE_SECONDS = 30.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """Return a store with a sealable namespace, a plain one, and a trail of what it was asked."""
    directory = tmp_path_factory.mktemp("openbao")
    server = OpenBao(directory, audit=directory / "audit.log")
    for name in ("locked", "sealed", "limited"):
        server.namespace(name, sealable=name == "sealed")
        assert server.request("POST", "sys/mounts/kv", {"type": "kv"}, namespace=name).status == 204
        assert server.request("POST", "kv/a", {"v": name}, namespace=name).status == 204
    server.mount("kv", options={"version": "1"})
    server.write("kv/a", {"v": "whole"})
    yield server
    server.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def value(provider: VaultProvider, path: str) -> str:
    document = (await provider.fetch(parse(f"vault:{path}#v").source)).document
    return document.select(("v",)).reveal().decode()


def asked(store: OpenBao, path: str) -> int:
    """Return how many requests for `path` the store has written down."""
    lines = (store.directory / "audit.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return sum(1 for entry in entries if entry["type"] == "request" and entry["request"].get("path") == path)


@pytest.mark.parametrize("how", ["locked", "sealed"])
async def test_a_namespace_that_is_shut_is_probed_alone_and_every_other_one_is_served(
    store: OpenBao, tmp_path: Path, seen: Seen, how: str
) -> None:
    provider = token_provider(store, tmp_path, store.root_token, seen=seen, probe_seconds=PROBE_SECONDS)
    assert await value(provider, f"{how}/kv/a") == how
    assert await value(provider, "limited/kv/a") == "limited"
    reads = seen.count("read")
    with store.shut(how):
        with pytest.raises(SourceUnavailableError, match=r"its namespace|namespace is sealed"):
            await value(provider, f"{how}/kv/a")
        for _ in range(20):
            with pytest.raises(BreakerOpenError) as caught:
                await value(provider, f"{how}/kv/a")
        assert caught.value.retry_after == pytest.approx(PROBE_SECONDS, abs=10)
        assert seen.count("read") == reads + 1, "one probe, and nothing more in its time"
        assert (seen.is_away, seen.shut) == (False, 1)
        for _ in range(5):
            assert await value(provider, "limited/kv/a") == "limited"
            assert await value(provider, "kv/a") == "whole"
        await provider.ping()
        seen.advance(PROBE_SECONDS)
        with pytest.raises(SourceUnavailableError, match=r"its namespace|namespace is sealed"):
            await value(provider, f"{how}/kv/a")
        assert seen.shut == 1
    seen.advance(PROBE_SECONDS)
    assert await value(provider, f"{how}/kv/a") == how
    assert seen.shut == 0


async def test_a_sealed_store_is_away_as_a_whole(store: OpenBao, tmp_path: Path, seen: Seen) -> None:
    provider = token_provider(store, tmp_path, store.root_token, seen=seen, probe_seconds=PROBE_SECONDS)
    assert await value(provider, "limited/kv/a") == "limited"
    store.seal()
    try:
        with pytest.raises(SourceUnavailableError, match="the store is sealed"):
            await value(provider, "limited/kv/a")
        with pytest.raises(BreakerOpenError, match="the store is sealed"):
            await value(provider, "kv/a")
        assert (seen.is_away, seen.shut) == (True, 0)
    finally:
        store.unseal()
        store.unseal_namespace("sealed")


async def test_a_shut_namespace_does_not_use_up_the_probe_of_a_store_that_is_away(
    store: OpenBao, tmp_path: Path, seen: Seen
) -> None:
    provider = token_provider(store, tmp_path, store.root_token, seen=seen, probe_seconds=PROBE_SECONDS)
    assert await value(provider, "locked/kv/a") == "locked"
    assert await value(provider, "kv/a") == "whole"
    store.seal()
    try:
        with pytest.raises(SourceUnavailableError, match="the store is sealed"):
            await value(provider, "kv/a")
        assert seen.is_away
    finally:
        store.unseal()
        store.unseal_namespace("sealed")
    # As one that was found shut a moment before the store is probed.
    seen.advance(PROBE_SECONDS - 1)
    provider._transport._places.shut(Place("", "locked/kv"), None, reason="locked")
    seen.advance(1)
    with pytest.raises(BreakerOpenError, match="locked"):
        await value(provider, "locked/kv/a")
    assert await value(provider, "kv/a") == "whole"
    assert not seen.is_away


async def test_in_a_sealed_namespace_nothing_that_was_never_read_is_taken_for_denied(
    store: OpenBao, tmp_path: Path
) -> None:
    provider = token_provider(store, tmp_path, store.root_token)
    with store.shut("sealed"), pytest.raises(SourceUnavailableError, match="namespace is sealed"):
        await value(provider, "sealed/kv/a")


async def test_the_namespace_of_the_settings_is_shut_with_its_reason_in_readiness(
    store: OpenBao, tmp_path: Path, seen: Seen
) -> None:
    provider = token_provider(
        store, tmp_path, store.root_token, seen=seen, namespace="locked", probe_seconds=PROBE_SECONDS
    )
    assert await value(provider, "kv/a") == "locked"
    seen.advance(60)
    with store.shut("locked"):
        with pytest.raises(SourceUnavailableError, match="locked its namespace"):
            await value(provider, "kv/a")
        with pytest.raises(SourceUnavailableError, match="locked its namespace"):
            await provider.ping()
        assert not seen.is_away


@pytest.mark.parametrize("named", [True, False], ids=["with Retry-After", "without Retry-After"])
async def test_a_quota_of_one_namespace_is_kept_and_costs_no_other_one_anything(
    store: OpenBao, tmp_path: Path, seen: Seen, named: bool
) -> None:
    provider = token_provider(store, tmp_path, store.root_token, seen=seen, requests_per_second=64)
    await value(provider, "limited/kv/a")
    with store.quota("limited/", rate=1, interval="60s", named=named):
        before = asked(store, "limited/kv/a")
        found = await asyncio.gather(*(value(provider, "limited/kv/a") for _ in range(10)), return_exceptions=True)
        assert found.count("limited") == 1
        with pytest.raises(SourceUnavailableError, match="limits the rate") as caught:
            await value(provider, "limited/kv/a")
        assert 0 < (caught.value.retry_after or 0) <= 60
        assert set(seen.limits) == {named}
        # Each of the ten was sent before the first answer came, so that is one word of the store and not ten.
        assert seen.lowest == (64 if named else pytest.approx(32, abs=2))
        for _ in range(20):
            with pytest.raises(SourceUnavailableError, match="limits the rate"):
                await value(provider, "limited/kv/a")
        assert await asyncio.gather(*(value(provider, "locked/kv/a") for _ in range(20))) == ["locked"] * 20
        assert asked(store, "limited/kv/a") - before <= 11
        assert (seen.is_away, seen.shut) == (False, 0)
    seen.advance(120)
    assert await value(provider, "limited/kv/a") == "limited"
    await provider.ping()
    assert seen.lowest == 64
