"""How the provider gets, keeps and replaces its token, against a real OpenBao."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import SourceUnavailableError, UpstreamDeniedError
from broker.providers.vault.provider import VaultProvider
from broker.reference import parse
from tests.openbao import OpenBao
from tests.vaults import Seen, approle_provider, closing, private, provider_of, token_provider
from tests.waiting import until

__all__ = ["closing"]

READER = 'path "secret/data/*" { capabilities = ["read"] }'
SECRET = parse("vault:secret/login#v").source


@pytest.fixture(autouse=True)
def filled(openbao: OpenBao) -> None:
    openbao.policy("reader", READER)
    openbao.put_secret("login", v="x")


@pytest.fixture(scope="module")
def locking_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A store that locks a role out after five failed logins."""
    store = OpenBao(tmp_path_factory.mktemp("bao"), lockout=True)
    store.policy("reader", READER)
    store.put_secret("login", v="x")
    yield store
    store.close()


def token_of(provider: VaultProvider) -> str:
    session = provider._login._session
    assert session is not None
    return str(session.client.adapter.token)


async def test_two_hundred_cold_reads_cost_one_login_and_one_look_at_the_mount(
    openbao: OpenBao, tmp_path: Path
) -> None:
    seen = Seen()
    provider = approle_provider(openbao, tmp_path, *openbao.approle("many", ["reader"]), seen=seen)
    await asyncio.gather(*(provider.fetch(SECRET) for _ in range(200)))
    assert (seen.count("login"), seen.count("mounts"), seen.count("read")) == (1, 1, 200)


async def test_a_role_id_may_stand_in_a_file_and_the_method_at_another_mount(openbao: OpenBao, tmp_path: Path) -> None:
    role_id, secret_id = openbao.approle("elsewhere", ["reader"], mount="machines")
    auth = {
        "role_id_file": str(private(tmp_path / "role_id", f"{role_id}\n")),
        "secret_id_file": str(private(tmp_path / "secret_id", f"{secret_id}\n")),
        "mount": "machines",
    }
    provider = provider_of(openbao.address, {"approle": auth})
    assert (await provider.fetch(SECRET)).version


async def test_a_token_revoked_under_way_is_replaced_once_by_two_hundred_reads(
    openbao: OpenBao, tmp_path: Path
) -> None:
    seen = Seen()
    provider = approle_provider(openbao, tmp_path, *openbao.approle("revoked", ["reader"]), seen=seen)
    await provider.fetch(SECRET)
    first = token_of(provider)
    openbao.revoke(first)
    await asyncio.gather(*(provider.fetch(SECRET) for _ in range(200)))
    assert seen.count("login") == 2
    assert token_of(provider) != first


async def test_a_denial_replaces_no_token(openbao: OpenBao, tmp_path: Path) -> None:
    seen = Seen()
    provider = approle_provider(openbao, tmp_path, *openbao.approle("denied", ["reader"]), seen=seen)
    await provider.fetch(SECRET)
    openbao.mount("closed", "kv", {"version": "2"})
    seen.advance(10)
    for _ in range(5):
        with pytest.raises(UpstreamDeniedError):
            await provider.fetch(parse("vault:closed/x").source)
    assert seen.count("login") == 1
    assert seen.count("lookup") == 1


async def test_a_policy_taken_away_denies_and_given_back_allows(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.policy("flighty", READER)
    provider = token_provider(openbao, tmp_path, openbao.token("flighty"))
    await provider.fetch(SECRET)
    openbao.delete("sys/policies/acl/flighty")
    with pytest.raises(UpstreamDeniedError):
        await provider.fetch(SECRET)
    openbao.policy("flighty", READER)
    assert (await provider.fetch(SECRET)).version


async def test_a_token_without_the_default_policy_is_denied_without_a_login_each_time(
    openbao: OpenBao, tmp_path: Path
) -> None:
    seen = Seen()
    role = openbao.approle("bare", ["reader"], token_no_default_policy=True)
    provider = approle_provider(openbao, tmp_path, *role, seen=seen)
    assert (await provider.fetch(SECRET)).version
    seen.advance(10)
    with pytest.raises(UpstreamDeniedError):
        await provider.fetch(parse("vault:identity/x").source)
    assert seen.count("login") == 1


async def test_a_missing_right_to_renew_is_named_and_the_token_is_replaced_when_it_ends(
    openbao: OpenBao, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    role = openbao.approle("unrenewed", ["reader"], token_no_default_policy=True, token_ttl="1s")
    provider = approle_provider(openbao, tmp_path, *role, seen=seen)
    assert (await provider.fetch(SECRET)).version
    await until(lambda: "store_rights_missing path=auth/token/renew-self" in caplog.text)
    seen.advance(2)
    assert (await provider.fetch(SECRET)).version
    assert seen.count("login") == 2


async def test_a_token_with_a_short_life_is_renewed(openbao: OpenBao, tmp_path: Path) -> None:
    seen = Seen()
    role = openbao.approle("short", ["reader"], token_period="2s")
    provider = approle_provider(openbao, tmp_path, *role, seen=seen)
    await provider.fetch(SECRET)
    await until(lambda: seen.count("renew") >= 2)
    await provider.fetch(SECRET)
    assert seen.count("login") == 1


async def test_a_token_near_its_hard_end_is_replaced_before_it(openbao: OpenBao, tmp_path: Path) -> None:
    seen = Seen()
    role = openbao.approle("ending", ["reader"], token_ttl="2s", token_max_ttl="3s")
    provider = approle_provider(openbao, tmp_path, *role, seen=seen)
    await provider.fetch(SECRET)
    await until(lambda: seen.count("login") >= 2)
    await provider.fetch(SECRET)
    assert ("read", "denied") not in seen.requests


async def test_a_token_that_can_not_be_renewed_is_replaced_when_it_ends(openbao: OpenBao, tmp_path: Path) -> None:
    seen = Seen()
    role = openbao.approle("batch", ["reader"], token_type="batch", token_ttl="1h")
    provider = approle_provider(openbao, tmp_path, *role, seen=seen)
    await provider.fetch(SECRET)
    seen.advance(3600)
    await provider.fetch(SECRET)
    assert (seen.count("login"), seen.count("renew")) == (2, 0)


async def test_a_token_file_written_anew_is_read_when_the_old_token_dies(openbao: OpenBao, tmp_path: Path) -> None:
    first = openbao.token("reader")
    provider = token_provider(openbao, tmp_path, first)
    await provider.fetch(SECRET)
    openbao.revoke(first)
    with pytest.raises(SourceUnavailableError, match="refuses the broker's login"):
        await provider.fetch(SECRET)
    private(tmp_path / "token", openbao.token("reader") + "\n")
    assert (await provider.fetch(SECRET)).version


async def test_a_token_with_limited_uses_is_refused(openbao: OpenBao, tmp_path: Path) -> None:
    provider = token_provider(openbao, tmp_path, openbao.token("reader", num_uses=5))
    with pytest.raises(SourceUnavailableError, match="limited number of times"):
        await provider.fetch(SECRET)


async def test_a_refused_credential_is_tried_twice_and_then_left_alone_until_it_changes(
    locking_store: OpenBao, tmp_path: Path
) -> None:
    store = locking_store
    role_id, secret_id = store.approle("locked", ["reader"])
    seen = Seen()
    provider = approle_provider(store, tmp_path, role_id, "00000000-0000-0000-0000-000000000000", seen=seen)
    for _ in range(10):
        with pytest.raises(SourceUnavailableError, match="refuse"):
            await provider.fetch(SECRET)
        seen.advance(60)
    with pytest.raises(SourceUnavailableError, match="refused the broker's login twice"):
        await provider.ping()
    assert seen.count("login") == 2
    private(tmp_path / "secret_id", secret_id)
    assert (await provider.fetch(SECRET)).version, "the store has not locked the role out"


async def test_wrong_credentials_one_after_the_other_do_not_lock_the_role_out(
    locking_store: OpenBao, tmp_path: Path
) -> None:
    store = locking_store
    role_id, secret_id = store.approle("careful", ["reader"])
    seen = Seen()
    provider = approle_provider(store, tmp_path, role_id, "wrong", seen=seen)
    for number in range(6):
        private(tmp_path / "secret_id", f"wrong-{number}")
        for _ in range(5):
            with pytest.raises(SourceUnavailableError, match="refuse"):
                await provider.fetch(SECRET)
            seen.advance(20)
    assert seen.count("login") == 3, "the store locks the role out at the fifth"
    private(tmp_path / "secret_id", secret_id)
    with pytest.raises(SourceUnavailableError, match="refused 3 logins of the broker within a quarter") as caught:
        await provider.ping()
    assert caught.value.retry_after == 30
    seen.advance(900)
    assert (await provider.fetch(SECRET)).version, "the store has not locked the role out"


async def test_a_role_that_others_have_locked_out_is_tried_again_with_the_same_credential(
    locking_store: OpenBao, tmp_path: Path
) -> None:
    store = locking_store
    role_id, secret_id = store.approle("attacked", ["reader"])
    for _ in range(6):
        answer = store.request("POST", "auth/approle/login", {"role_id": role_id, "secret_id": "guessed"})
    assert answer.status == 403, "the role is locked out"
    seen = Seen()
    provider = approle_provider(store, tmp_path, role_id, secret_id, seen=seen)
    for _ in range(20):
        with pytest.raises(SourceUnavailableError, match="refuse"):
            await provider.fetch(SECRET)
        seen.advance(20)
    assert seen.count("login") == 3
    accessor = store.read("sys/auth")["data"]["approle/"]["accessor"]
    store.write(f"sys/locked-users/{accessor}/unlock/{role_id}")
    seen.advance(900)
    assert (await provider.fetch(SECRET)).version


async def test_two_hundred_reads_with_a_refused_credential_cost_one_login(openbao: OpenBao, tmp_path: Path) -> None:
    role_id, _ = openbao.approle("stampede", ["reader"])
    seen = Seen()
    provider = approle_provider(openbao, tmp_path, role_id, "wrong", seen=seen)
    found = await asyncio.gather(*(provider.fetch(SECRET) for _ in range(200)), return_exceptions=True)
    assert {type(error) for error in found} == {SourceUnavailableError}
    assert seen.count("login") == 1


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [(0o644, "x", "chmod 600"), (0o600, "", "no credential"), (0o600, "a b", "no credential"), (None, "", "No such")],
)
async def test_a_credential_file_that_can_not_be_used_is_named_by_its_setting(
    openbao: OpenBao, tmp_path: Path, mode: int | None, text: str, message: str
) -> None:
    file = tmp_path / "secret_id"
    if mode is not None:
        private(file, text).chmod(mode)
    auth = {"approle": {"role_id": "r", "secret_id_file": str(file)}}
    provider = provider_of(openbao.address, auth)
    with pytest.raises(SourceUnavailableError, match=message) as caught:
        await provider.fetch(SECRET)
    assert "providers.vault.auth.approle.secret_id_file" in caught.value.detail
    assert str(tmp_path) not in caught.value.detail


async def test_a_login_goes_on_when_the_read_that_began_it_is_cancelled(openbao: OpenBao, tmp_path: Path) -> None:
    seen = Seen()
    provider = approle_provider(openbao, tmp_path, *openbao.approle("cancelled", ["reader"]), seen=seen)
    first = asyncio.create_task(provider.fetch(SECRET))
    second = asyncio.create_task(provider.fetch(SECRET))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).version
    with pytest.raises(asyncio.CancelledError):
        await first
    assert seen.count("login") == 1


async def test_closing_ends_the_renewal_and_a_late_read_is_unavailable(openbao: OpenBao, tmp_path: Path) -> None:
    provider = approle_provider(openbao, tmp_path, *openbao.approle("closing", ["reader"], token_period="1h"))
    await provider.fetch(SECRET)
    before = asyncio.all_tasks()
    await provider.aclose()
    await provider.aclose()
    assert len(asyncio.all_tasks()) < len(before)
    with pytest.raises(SourceUnavailableError, match="closed"):
        await provider.fetch(SECRET)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_neither_credential_nor_token_nor_value_is_in_an_error_or_a_repr(
    openbao: OpenBao, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    openbao.put_secret("login", v="canary-4711-geheim")
    role_id, secret_id = openbao.approle("quiet", ["reader"])
    provider = approle_provider(openbao, tmp_path, role_id, secret_id)
    reading = await provider.fetch(SECRET)
    token = token_of(provider)
    errors: list[BaseException] = []
    for text in ("vault:secret/login?version=99", "vault:identity/x", "vault:secret/nothing"):
        with pytest.raises(Exception) as caught:
            await provider.fetch(parse(text).source)
        errors.append(caught.value)
    shown = caplog.text + repr(reading) + repr(provider) + repr(vars(provider)) + repr(provider._login._session)
    shown += "".join(f"{error!r}{error}{error.__dict__}" for error in errors)
    for secret in (token, secret_id, "canary-4711-geheim"):
        assert secret not in shown
    assert openbao.address not in shown.replace(repr(provider._settings), "")
