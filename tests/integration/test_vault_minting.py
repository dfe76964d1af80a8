"""What the provider sends to mint, counted on the way to a real store, and what it says of how long it lives."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import FetchError, SecretMissingError, SourceMintsError, SourceUnavailableError, UpstreamDeniedError
from broker.providers.base import Grip, Parent
from broker.providers.vault.leasing import issued
from broker.reference import parse
from tests.lease_desk import Desk
from tests.leasing import LEASE_RULES, MINTER_RULES, SEEING_RULES
from tests.openbao import OpenBao
from tests.postgres import PostgreSQL, postgres
from tests.relays import Relay, relaying
from tests.vaults import Seen, closing, private, provider_of

__all__ = ["closing", "postgres"]

CREDENTIAL = parse("vault:database/creds/app#username").source
CERTIFICATE = parse("vault:pki/issue/agent?common_name=a.example#certificate").source


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, postgres: PostgreSQL) -> Iterator[OpenBao]:
    it = OpenBao(tmp_path_factory.mktemp("minting"))
    postgres.behind(it, default_ttl="1h")
    it.mount("pki", "pki")
    it.write("pki/root/generate/internal", {"common_name": "r", "ttl": "24h"})
    it.write("pki/roles/agent", {"allowed_domains": "a.example", "allow_bare_domains": True, "max_ttl": "1h"})
    it.policy("minter", MINTER_RULES)
    it.policy("leaser", LEASE_RULES + SEEING_RULES)
    role = {"orphan": True, "renewable": True, "allowed_policies": "minter", "token_no_default_policy": True}
    it.write("auth/token/roles/broker-leases", role)
    yield it
    it.close()


@pytest.fixture
def relay(store: OpenBao) -> Iterator[Relay]:
    with relaying(store.address) as it:
        yield it


@pytest.mark.parametrize("source", [CREDENTIAL, CERTIFICATE], ids=["GET", "POST"])
@pytest.mark.parametrize("role", [None, "broker-leases"])
async def test_what_mints_is_sent_once_when_the_store_hangs_up(
    relay: Relay, store: OpenBao, tmp_path: Path, source: object, role: str | None
) -> None:
    token = private(tmp_path / "token", store.token("minter", "leaser"))
    provider = provider_of(relay.address, {"token_file": str(token)}, lease_token_role=role)
    parent = await provider.prepare(source)
    assert bool(parent.accessor) is (role is not None)
    path = f"/v1/{source.path}"
    relay.trap(path, lambda: None, answered=False)
    with pytest.raises(SourceUnavailableError):
        await provider.mint(source, parent)
    assert relay.count(path) == 1
    reading = await provider.mint(source, parent)
    assert relay.count(path) == 2
    if reading.lease is not None:
        await provider.revoke(Grip(handle=reading.lease.handle, parent=parent.accessor))


async def test_a_plain_read_of_what_mints_sends_nothing_to_the_engine(
    relay: Relay, store: OpenBao, tmp_path: Path
) -> None:
    token = private(tmp_path / "token", store.token("minter", "leaser"))
    provider = provider_of(relay.address, {"token_file": str(token)})
    for source in (CREDENTIAL, CERTIFICATE):
        with pytest.raises(SourceMintsError):
            await provider.fetch(source)
        assert relay.count(f"/v1/{source.path}") == 0


async def test_a_lease_is_told_to_live_no_longer_than_the_token_that_it_hangs_on(
    store: OpenBao, tmp_path: Path
) -> None:
    token = private(tmp_path / "token", store.token("minter", "leaser", ttl="100s", renewable=False))
    provider = provider_of(store.address, {"token_file": str(token)})
    reading = await provider.mint(CREDENTIAL, Parent())
    assert reading.lease is not None
    extension = await provider.renew(Grip(handle=reading.lease.handle, parent=""), seconds=3600)
    assert 80 < reading.lease.seconds <= 100
    assert 80 < extension.seconds <= 100
    assert not extension.capped, "a token that is renewed itself would let it live on"
    await provider.revoke(Grip(handle=reading.lease.handle, parent=""))


async def test_under_a_token_of_its_own_a_lease_outlives_the_brokers_token(store: OpenBao, tmp_path: Path) -> None:
    token = store.token("leaser", ttl="1h")
    provider = provider_of(
        store.address, {"token_file": str(private(tmp_path / "token", token))}, lease_token_role="broker-leases"
    )
    parent = await provider.prepare(CREDENTIAL)
    reading = await provider.mint(CREDENTIAL, parent)
    assert reading.lease is not None
    assert reading.lease.seconds == 3600
    store.revoke(token)
    private(tmp_path / "token", store.token("leaser"))
    grip = Grip(handle=reading.lease.handle, parent=parent.accessor)
    assert (await provider.renew(grip, seconds=7200)).seconds == 7200
    await provider.look_up(grip)
    await provider.revoke(grip)
    with pytest.raises(SecretMissingError, match="the lease is gone"):
        await provider.look_up(grip)
    with pytest.raises(SecretMissingError, match="the lease is gone"):
        await provider.renew(grip, seconds=7200)
    # Being gone before is well.
    await provider.revoke(grip)


async def test_what_hangs_on_a_token_that_can_live_no_longer_is_replaced_before_it_ends_with_it(
    store: OpenBao, tmp_path: Path
) -> None:
    role = {"orphan": True, "renewable": True, "allowed_policies": "minter", "token_explicit_max_ttl": "100s"}
    store.write("auth/token/roles/ending", role)
    store.policy("ends", LEASE_RULES.replace("broker-leases", "ending") + SEEING_RULES)
    token = private(tmp_path / "token", store.token("ends"))
    provider = provider_of(store.address, {"token_file": str(token)}, lease_token_role="ending")
    parent = await provider.prepare(CREDENTIAL)
    reading = await provider.mint(CREDENTIAL, parent)
    assert reading.lease is not None
    assert 90 < reading.lease.seconds <= 100
    grip = Grip(handle=reading.lease.handle, parent=parent.accessor)
    extension = await provider.renew(grip, seconds=3600)
    assert extension.seconds <= 100
    assert extension.capped, "the lease could live on, and ends with its token"
    await provider.revoke(grip)


async def test_a_clock_that_is_ahead_by_more_than_the_life_of_a_certificate_makes_no_other_for_each_who_asks(
    store: OpenBao, tmp_path: Path
) -> None:
    token = private(tmp_path / "token", store.token("minter", "leaser"))
    ahead = Seen()
    now = ahead.now
    ahead.now = lambda: now() + 7200  # type: ignore[method-assign]  # As somebody has set it.
    provider = provider_of(store.address, {"token_file": str(token)}, seen=ahead)
    desk = Desk(ahead)
    desk.mint = provider  # type: ignore[assignment]  # The real one.
    desk.restart()
    first = await desk.get(source=CERTIFICATE)
    assert first.lease is not None
    assert 3500 < first.lease.expires_at - ahead.now() <= 3600
    assert (await desk.get(source=CERTIFICATE)).lease == first.lease
    await desk.leases.aclose()


async def test_certificates_are_found_by_name_and_time_in_the_mounts_that_issue_to_this_broker_alone(
    store: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issued, "_PAGE", 2)
    store.policy("looker", 'path "pki/certs/detailed" { capabilities = ["list"] }')
    token = private(tmp_path / "token", store.token("minter", "leaser", "looker"))
    provider = provider_of(store.address, {"token_file": str(token)}, own_pki_mounts=["pki"])
    before = set(await provider.left_behind(CERTIFICATE, created=time.time(), known=set()))
    made = {(await provider.mint(CERTIFICATE, Parent())).lease.handle for _ in range(5)}  # type: ignore[union-attr]
    revoked, known = sorted(made)[:2]
    await provider.revoke(Grip(handle=revoked, parent=""))
    found = await provider.left_behind(CERTIFICATE, created=time.time(), known={known})
    assert set(found) - before == made - {revoked, known}
    for source, created in (
        (CERTIFICATE, time.time() - 3600),
        (CERTIFICATE, time.time() + 3600),
        (parse("vault:pki/issue/agent?common_name=b.example#certificate").source, time.time()),
        (CREDENTIAL, time.time()),
    ):
        assert await provider.left_behind(source, created=created, known=set()) == []
    others = provider_of(store.address, {"token_file": str(token)}, own_pki_mounts=["other"])
    assert await others.left_behind(CERTIFICATE, created=time.time(), known=set()) == []
    blind = private(tmp_path / "blind", store.token("minter"))
    provider = provider_of(store.address, {"token_file": str(blind)}, own_pki_mounts=["pki"])
    with pytest.raises(UpstreamDeniedError):
        await provider.left_behind(CERTIFICATE, created=time.time(), known=set())


async def test_rights_that_are_missing_are_told(store: OpenBao, tmp_path: Path) -> None:
    store.policy("seer", SEEING_RULES)
    token = private(tmp_path / "token", store.token("seer"))
    provider = provider_of(store.address, {"token_file": str(token)}, lease_token_role="broker-leases")
    with pytest.raises(UpstreamDeniedError) as caught:
        await provider.prepare(CREDENTIAL)
    assert asked_and_said(caught.value) == ("POST auth/token/create/broker-leases", "403 permission denied")
    with pytest.raises(UpstreamDeniedError) as caught:
        await provider.revoke(Grip(handle="database/creds/app/x", parent=""))
    assert asked_and_said(caught.value) == ("PUT sys/leases/revoke", "403 permission denied")
    store.policy("asks-another", LEASE_RULES.replace("broker-leases", "nobody") + SEEING_RULES)
    private(tmp_path / "token", store.token("asks-another"))
    provider = provider_of(store.address, {"token_file": str(token)}, lease_token_role="nobody")
    with pytest.raises(SourceUnavailableError, match="no such token role") as unavailable:
        await provider.prepare(CREDENTIAL)
    assert asked_and_said(unavailable.value) == ("POST auth/token/create/nobody", "400 unknown role …")


async def test_what_the_leases_own_role_may_not_mint_is_denied_in_the_stores_words(
    store: OpenBao, tmp_path: Path
) -> None:
    narrow = {"orphan": True, "renewable": True, "allowed_policies": "seer", "token_no_default_policy": True}
    store.policy("seer", SEEING_RULES)
    store.write("auth/token/roles/narrow", narrow)
    store.policy("asks-narrow", LEASE_RULES.replace("broker-leases", "narrow") + SEEING_RULES)
    token = private(tmp_path / "token", store.token("asks-narrow"))
    provider = provider_of(store.address, {"token_file": str(token)}, lease_token_role="narrow")
    with pytest.raises(UpstreamDeniedError, match="the tokens of the lease role") as caught:
        await provider.mint(CREDENTIAL, await provider.prepare(CREDENTIAL))
    assert asked_and_said(caught.value) == ("GET database/creds/app", "403 permission denied")


def asked_and_said(error: FetchError) -> tuple[str, str] | None:
    return None if error.words is None else (error.words.asked, error.words.said)


async def test_a_certificate_that_was_revoked_in_the_store_is_gone(store: OpenBao, tmp_path: Path) -> None:
    token = private(tmp_path / "token", store.token("minter", "leaser"))
    provider = provider_of(store.address, {"token_file": str(token)})
    reading = await provider.mint(CERTIFICATE, Parent())
    assert reading.lease is not None
    assert (reading.lease.renewable, reading.lease.hangs) == (False, False)
    assert 3500 < reading.lease.seconds <= 3600
    grip = Grip(handle=reading.lease.handle, parent="")
    assert await provider.look_up(grip) > 0
    serial = reading.document.select(("serial_number",)).reveal().decode()
    store.write("pki/revoke", {"serial_number": serial})
    with pytest.raises(SecretMissingError):
        await provider.look_up(grip)
    # Being gone before is well.
    await provider.revoke(grip)
