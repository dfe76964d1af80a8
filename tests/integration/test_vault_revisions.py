"""What changes in a real store is seen by one listing a folder, counted at the store."""

import json
from pathlib import Path
from typing import Any

from broker.cache.cache import Cache
from broker.changes.feed import ChangeFeed
from broker.changes.subscription import Subscription
from broker.reference import parse
from tests.fakes import fake_metrics
from tests.openbao import OpenBao
from tests.vaults import Seen, closing, token_provider

__all__ = ["closing"]


async def nobody(*_: Any) -> Any:
    raise AssertionError("a value was read")


def asked(store: OpenBao) -> list[str]:
    """Return the paths of the requests that the store has written down, in their order."""
    entries = map(json.loads, (store.directory / "audit.log").read_text().splitlines())
    return [entry["request"].get("path", "") for entry in entries if entry["type"] == "request"]


async def test_a_thousand_watchers_of_five_hundred_secrets_cost_at_most_two_requests_an_interval_and_folder(
    tmp_path: Path,
) -> None:
    store = OpenBao(tmp_path / "bao", audit=tmp_path / "bao" / "audit.log")
    sources = [parse(f"vault:secret/watched/{number % 2}/s{number}#v").source for number in range(500)]
    for source in sources:
        store.put_secret(source.path.removeprefix("secret/"), v="1")
    seen = Seen()
    provider = token_provider(store, tmp_path, store.root_token, seen=seen)
    cache = Cache(clock=seen, metrics=fake_metrics(), max_entries=10, max_bytes=1000, fetch_seconds=10)
    feed = ChangeFeed(cache=cache, comparable={"vault": provider}, reread=nobody, marks=str, seconds=30)
    watches = [Subscription(dict.fromkeys(sources, 60.0), {}) for _ in range(1000)]
    for watch in watches:
        feed.subscribe(watch, after="")
    await feed.compare()
    for version in ("2", "3"):
        store.put_secret(sources[7].path.removeprefix("secret/"), v=version)
        before = len(asked(store))
        await feed.compare()
        cost = asked(store)[before:]
        assert 2 <= len(cost) <= 2 * 2, cost
        for watch in watches:
            assert [(change.source, change.version) for change in watch.take()] == [(sources[7], version)]
    await cache.aclose()
    store.close()


async def test_a_deletion_an_undeletion_and_the_end_of_a_secret_are_changes_and_new_metadata_is_none(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    source = parse("vault:secret/rev/app#v").source
    absent = parse("vault:secret/nowhere/app#v").source
    provider = token_provider(own_openbao, tmp_path, own_openbao.root_token)
    own_openbao.put_secret("rev/app", v="x")

    async def revision() -> tuple[str | None, str]:
        found = (await provider.revisions([source]))[source]
        return found.version, found.mark

    first = await revision()
    assert first[0] == "1"
    own_openbao.request("POST", "secret/metadata/rev/app", {"custom_metadata": {"owner": "me"}})
    assert await revision() == first
    own_openbao.request("DELETE", "secret/data/rev/app")
    assert (await revision())[1] == "gone"
    own_openbao.request("POST", "secret/undelete/rev/app", {"versions": [1]})
    assert await revision() == first
    own_openbao.request("DELETE", "secret/metadata/rev/app")
    own_openbao.put_secret("rev/app", v="new, and version 1 again")
    again = await revision()
    assert (again[0], again != first) == ("1", True)
    assert (await provider.revisions([absent]))[absent].is_gone
    # Whoever watches what is no secret keeps nobody else from being told.
    own = [parse(text).source for text in ("vault:sys/health/x", "vault:auth/token/lookup-self")]
    assert set(await provider.revisions([*own, source])) == {source}


async def test_a_folder_of_more_than_a_page_is_listed_whole(
    own_openbao: OpenBao, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("broker.providers.vault.reads.revisions._PAGE", 2)
    sources = [parse(f"vault:secret/paged/s{number}#v").source for number in range(5)]
    for source in sources:
        own_openbao.put_secret(source.path.removeprefix("secret/"), v="1")
    provider = token_provider(own_openbao, tmp_path, own_openbao.root_token)
    found = await provider.revisions(sources)
    assert [found[source].version for source in sources] == ["1"] * 5


async def test_where_the_store_denies_the_listing_it_is_asked_once_in_ten_minutes_and_nothing_is_told(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    own_openbao.put_secret("app", v="x")
    own_openbao.policy("reader", 'path "secret/data/*" { capabilities = ["read"] }')
    seen = Seen()
    provider = token_provider(own_openbao, tmp_path, own_openbao.token("reader"), seen=seen)
    source = parse("vault:secret/app#v").source
    for _ in range(3):
        assert await provider.revisions([source]) == {}
    assert seen.requests.count(("read", "denied")) == 1
    seen.advance(601)
    await provider.revisions([source])
    assert seen.requests.count(("read", "denied")) == 2


async def test_a_version_that_is_named_and_a_secret_of_version_1_are_left_to_a_read(
    own_openbao: OpenBao, tmp_path: Path
) -> None:
    own_openbao.mount("one", "kv", {"version": "1"})
    own_openbao.put_secret("app", v="x")
    provider = token_provider(own_openbao, tmp_path, own_openbao.root_token)
    named, old = parse("vault:secret/app?version=1#v").source, parse("vault:one/app#v").source
    assert await provider.revisions([named, old]) == {}
