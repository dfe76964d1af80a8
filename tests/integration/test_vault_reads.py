"""What the provider reads from a real OpenBao, and what it says of everything that is not there."""

import asyncio
import base64
import json
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from broker.errors import (
    InFlightLimitError,
    MalformedReferenceError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.limits.byte_budget import ByteBudget
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.reads.documents import created_time
from broker.reference import parse
from broker.secret import Encoding, Reading
from tests.openbao import OpenBao
from tests.vaults import Seen, closing, token_provider
from tests.waiting import until

__all__ = ["closing"]

CANARY = "canary-4711-geheim"


async def read(provider: VaultProvider, text: str) -> Reading:
    return await provider.fetch(parse(text).source)


async def field(provider: VaultProvider, text: str) -> bytes:
    reference = parse(text)
    return (await provider.fetch(reference.source)).document.select(reference.pointer).reveal()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def provider(openbao: OpenBao, tmp_path: Path, seen: Seen) -> VaultProvider:
    return token_provider(openbao, tmp_path, openbao.root_token, seen=seen)


@pytest.fixture
def mount(openbao: OpenBao, request: pytest.FixtureRequest) -> str:
    """Return a KV version 2 mount of this test's own, with slashes in its name."""
    name = f"team/{abs(hash(request.node.name)):x}/kv"
    openbao.mount(name, "kv", {"version": "2"})
    return name


async def test_a_field_of_kv_version_2_with_its_facts(provider: VaultProvider, openbao: OpenBao, mount: str) -> None:
    openbao.put_secret("app/db", mount=mount, password=CANARY)
    reading = await read(provider, f"vault:{mount}/app/db#password")
    assert reading.document.select(("password",)).reveal() == CANARY.encode()
    assert reading.version == "1"
    assert reading.not_after is None
    assert reading.upstream_request
    assert reading.created_at is not None
    assert abs(time.time() - reading.created_at) < 120


async def test_a_field_of_kv_version_1(provider: VaultProvider, openbao: OpenBao) -> None:
    openbao.mount("old/kv", "kv", {"version": "1"})
    openbao.write("old/kv/app/db", {"password": CANARY, "serial": 12345678901234567890})
    assert await field(provider, "vault:old/kv/app/db#password") == CANARY.encode()
    assert await field(provider, "vault:old/kv/app/db#serial") == b"12345678901234567890"
    assert (await read(provider, "vault:old/kv/app/db")).version is None


async def test_numbers_of_kv_version_1_are_given_as_written(provider: VaultProvider, openbao: OpenBao) -> None:
    openbao.mount("numbers", "kv", {"version": "1"})
    written = '{"huge":%s,"nested":[1e2,{"pi":3.14159265358979323846264338}],"price":1.10}' % ("7" * 308)
    sent = urllib.request.Request(
        f"{openbao.address}/v1/numbers/k",
        data=written.encode(),
        headers={"X-Vault-Token": openbao.root_token},
        method="POST",
    )
    with await asyncio.to_thread(urllib.request.urlopen, sent) as answer:
        assert answer.status == 204
    assert await field(provider, "vault:numbers/k") == written.encode()
    assert await field(provider, "vault:numbers/k#price") == b"1.10"
    assert await field(provider, "vault:numbers/k#/nested/1/pi") == b"3.14159265358979323846264338"


@pytest.mark.parametrize(
    "path",
    [
        "auth/token/lookup-self",
        "sys/internal/ui/mounts",
        "within/auth/token/lookup-self",
        "within/auth/approle/role/broker",
        "within/sys/internal/ui/mounts",
        "within/inner/auth/token/lookup-self",
    ],
)
async def test_the_stores_own_paths_give_nothing_so_that_no_agent_gets_the_brokers_token(
    provider: VaultProvider, openbao: OpenBao, path: str
) -> None:
    openbao.write("sys/namespaces/within", {})
    openbao.write("within/sys/namespaces/inner", {})
    openbao.request("POST", "within/sys/auth/approle", {"type": "approle"})
    with pytest.raises(SecretUnusableError, match="the store's own"):
        await read(provider, f"vault:{path}")
    # Nor may they shade an engine whose name a method to log in by has too.
    openbao.request("POST", "sys/mounts/approle", {"type": "kv", "options": {"version": "1"}})
    openbao.write("approle/role/broker", {"v": "of an engine"})
    assert await field(provider, "vault:approle/role/broker#v") == b"of an engine"


async def test_an_engine_may_have_auth_in_its_name(provider: VaultProvider, openbao: OpenBao) -> None:
    openbao.mount("app/auth", "kv", {"version": "1"})
    openbao.write("app/auth/token/x", {"v": "one"})
    assert await field(provider, "vault:app/auth/token/x#v") == b"one"


async def test_mounts_that_share_their_first_segments_are_told_apart(provider: VaultProvider, openbao: OpenBao) -> None:
    openbao.mount("share/b", "kv", {"version": "1"})
    openbao.mount("share/x/y", "kv", {"version": "2"})
    openbao.write("share/b/k", {"v": "one"})
    openbao.put_secret("k", mount="share/x/y", v="two")
    both = await asyncio.gather(field(provider, "vault:share/b/k#v"), field(provider, "vault:share/x/y/k#v"))
    assert both == [b"one", b"two"]


async def test_a_mount_that_takes_the_place_of_one_below_it_is_read_anew(
    provider: VaultProvider, openbao: OpenBao, seen: Seen
) -> None:
    openbao.mount("shade/below", "kv", {"version": "2"})
    openbao.put_secret("k", mount="shade/below", v="of the mount below")
    assert await field(provider, "vault:shade/below/k#v") == b"of the mount below"
    openbao.unmount("shade/below")
    openbao.mount("shade", "kv", {"version": "1"})
    openbao.write("shade/below/k", {"v": "of the mount above"})
    seen.advance(60)
    assert await field(provider, "vault:shade/below/k#v") == b"of the mount above"
    assert openbao.request("POST", "sys/mounts/shade/below", {"type": "kv"}).status == 400, "the store refuses both"


async def test_values_of_every_kind_and_odd_names_of_fields(
    provider: VaultProvider, openbao: OpenBao, mount: str
) -> None:
    binary = base64.b64encode(b"\xff\x00").decode()
    odd = {"a/b": "slash", "a~b": "tilde", "q\"u'o": "quotes", "süß": "umlaut", "a&b=c": "marks", "a#b": "hash"}
    kinds = {"n": 1, "yes": True, "none": None, "nest": {"x": [1, {"y": None}]}, "bin": binary}
    openbao.put_secret("kinds", mount=mount, **odd, **kinds)

    async def select(text: str) -> tuple[bytes, str]:
        reference = parse(f"vault:{mount}/kinds{text}")
        document = (await provider.fetch(reference.source)).document
        value = document.select(reference.pointer)
        return value.reveal(), value.encoding.value

    for name in set(odd) - {"a#b"}:
        assert await select(f"#{name}") == (odd[name].encode(), "utf-8"), name
    assert await select("#/a~1b") == (b"slash", "utf-8")
    assert await select("#/a~0b") == (b"tilde", "utf-8")
    with pytest.raises(MalformedReferenceError, match="a second # is never part of a reference"):
        await select("#a#b")
    whole, _ = await select("")
    assert json.loads(whole) == {**odd, **kinds}, "what no field can name comes with the whole"
    assert await select("#n") == (b"1", "json")
    assert await select("#yes") == (b"true", "json")
    assert await select("#none") == (b"null", "json")
    assert await select("#/nest/x/1") == (b'{"y":null}', "json")


async def test_a_value_of_one_mebibyte_is_taken_and_one_byte_more_is_not(
    provider: VaultProvider, openbao: OpenBao, mount: str
) -> None:
    openbao.put_secret("large", mount=mount, value="x" * 1_048_576)
    assert len(await field(provider, f"vault:{mount}/large#value")) == 1_048_576
    openbao.put_secret("large", mount=mount, value="x" * 1_048_577)
    with pytest.raises(SecretUnusableError, match="the secret is larger than 1048576 bytes"):
        await read(provider, f"vault:{mount}/large")


async def test_odd_names_reach_the_store_as_they_are_written(
    provider: VaultProvider, openbao: OpenBao, mount: str
) -> None:
    for name, encoded in (("with space", "with%20space"), ("plus+sign", "plus%2Bsign"), ("süß", "s%C3%BC%C3%9F")):
        openbao.put_secret(encoded, mount=mount, v=name)
        assert await field(provider, f"vault:{mount}/{name}#v") == name.encode()


async def test_a_version_is_read_when_it_is_named(provider: VaultProvider, openbao: OpenBao, mount: str) -> None:
    openbao.put_secret("app", mount=mount, v="first")
    openbao.put_secret("app", mount=mount, v="second")
    assert await field(provider, f"vault:{mount}/app?version=1#v") == b"first"
    assert await field(provider, f"vault:{mount}/app#v") == b"second"
    assert (await read(provider, f"vault:{mount}/app?version=1")).version == "1"


async def test_a_version_of_kv_version_1_is_refused(provider: VaultProvider, openbao: OpenBao) -> None:
    openbao.mount("plain1", "kv", {"version": "1"})
    openbao.write("plain1/k", {"v": "x"})
    with pytest.raises(SecretUnusableError, match="keeps no versions"):
        await read(provider, "vault:plain1/k?version=1")


async def missing(provider: VaultProvider, text: str) -> SecretMissingError:
    with pytest.raises(SecretMissingError) as caught:
        await read(provider, text)
    return caught.value


async def test_what_is_missing_is_named(provider: VaultProvider, openbao: OpenBao, mount: str) -> None:
    for value in "abc":
        openbao.put_secret("app", mount=mount, v=value)
    openbao.write(f"{mount}/destroy/app", {"versions": [1]})
    openbao.write(f"{mount}/delete/app", {"versions": [2]})
    assert (await missing(provider, f"vault:{mount}/app?version=1")).part is MissingPart.DESTROYED
    assert (await missing(provider, f"vault:{mount}/app?version=2")).part is MissingPart.DELETED
    assert (await missing(provider, f"vault:{mount}/app?version=9")).part is MissingPart.VERSION
    assert (await missing(provider, f"vault:{mount}/nothing")).part is MissingPart.PATH
    assert (await missing(provider, f"vault:{mount}/nothing?version=9")).part is MissingPart.PATH
    assert (await missing(provider, "vault:nowhere/at/all")).part is MissingPart.MOUNT
    openbao.delete(f"{mount}/data/app")
    assert (await missing(provider, f"vault:{mount}/app")).part is MissingPart.DELETED
    openbao.write(f"{mount}/undelete/app", {"versions": [3]})
    assert await field(provider, f"vault:{mount}/app#v") == b"c"


async def test_data_written_by_habit_is_explained(
    provider: VaultProvider, openbao: OpenBao, mount: str, tmp_path: Path
) -> None:
    openbao.put_secret("app", mount=mount, v="x")
    error = await missing(provider, f"vault:{mount}/data/app#v")
    assert "leave out data/" in error.detail
    # A token that may read the secret alone is denied there, and gets the same hint.
    openbao.policy("narrow", f'path "{mount}/data/app" {{ capabilities = ["read"] }}')
    narrow = token_provider(openbao, tmp_path, openbao.token("narrow"))
    assert "leave out data/" in (await missing(narrow, f"vault:{mount}/data/app#v")).detail


async def test_a_secret_whose_name_begins_with_data_is_read(
    provider: VaultProvider, openbao: OpenBao, mount: str
) -> None:
    openbao.put_secret("data/app", mount=mount, v="really")
    assert await field(provider, f"vault:{mount}/data/app#v") == b"really"


async def test_an_empty_secret_is_no_deleted_one(provider: VaultProvider, openbao: OpenBao, mount: str) -> None:
    openbao.write(f"{mount}/data/empty", {"data": {}})
    openbao.write(f"{mount}/data/null", {"data": None})
    assert await field(provider, f"vault:{mount}/empty") == b"{}"
    assert await field(provider, f"vault:{mount}/null") == b"{}"


async def test_a_version_that_the_store_will_delete_says_when(
    provider: VaultProvider, openbao: OpenBao, mount: str
) -> None:
    openbao.write(f"{mount}/metadata/brief", {"delete_version_after": "1h"})
    openbao.put_secret("brief", mount=mount, v="x")
    not_after = (await read(provider, f"vault:{mount}/brief")).not_after
    assert not_after == pytest.approx(time.time() + 3600, abs=30)


async def test_a_cubbyhole_is_read_with_the_token_that_it_belongs_to(provider: VaultProvider, openbao: OpenBao) -> None:
    openbao.write("cubbyhole/own", {"v": "in the cubbyhole"})
    assert await field(provider, "vault:cubbyhole/own#v") == b"in the cubbyhole"
    with pytest.raises(SecretMissingError):
        await read(provider, "vault:cubbyhole/nothing")


@pytest.fixture(scope="module")
def issuing(openbao: OpenBao) -> str:
    """Return a PKI mount with an issuer of its own."""
    openbao.mount("issuing", "pki")
    openbao.write("issuing/root/generate/internal", {"common_name": "the issuer", "ttl": "1h"})
    return "issuing"


async def test_what_an_engine_answers_in_a_form_of_its_own_is_given_as_it_is(
    provider: VaultProvider, openbao: OpenBao, issuing: str
) -> None:
    pem = await field(provider, f"vault:{issuing}/ca/pem")
    assert x509.load_pem_x509_certificate(pem).subject.rfc4514_string() == "CN=the issuer"
    der = await read(provider, f"vault:{issuing}/ca")
    assert der.document.select(()).encoding is Encoding.BASE64
    assert x509.load_der_x509_certificate(der.document.select(()).reveal()) == x509.load_pem_x509_certificate(pem)
    assert x509.load_der_x509_crl(await field(provider, f"vault:{issuing}/crl")).issuer.rfc4514_string()
    assert (await field(provider, f"vault:{issuing}/cert/ca#certificate")).strip() == pem.strip()
    with pytest.raises(SecretMissingError, match="no field 'certificate'"):
        await field(provider, f"vault:{issuing}/ca/pem#certificate")
    openbao.mount("signing", "ssh")
    openbao.write("signing/config/ca", {"generate_signing_key": True})
    assert (await field(provider, "vault:signing/public_key")).startswith(b"ssh-rsa ")


async def test_an_engine_that_has_nothing_there_yet_or_answers_no_read_says_so(
    provider: VaultProvider, openbao: OpenBao, seen: Seen
) -> None:
    openbao.mount("unissued", "pki")
    assert (await missing(provider, "vault:unissued/ca/pem")).part is MissingPart.PATH
    for _ in range(4):
        with pytest.raises(SecretUnusableError, match="this path of a pki engine answers no read"):
            await read(provider, "vault:unissued/ocsp")
    assert not seen.is_away


async def test_an_engine_that_answers_in_an_unknown_form_shuts_the_store_for_nobody(
    provider: VaultProvider, openbao: OpenBao, mount: str, seen: Seen
) -> None:
    openbao.put_secret("app", mount=mount, v="x")
    openbao.mount("texts", "pki")
    openbao.write("texts/root/generate/internal", {"common_name": "texts"})
    # Where the engine answers with a text.
    text = parse("vault:texts/ca/pem").source
    parent = await provider.prepare(text)
    for _ in range(4):
        with pytest.raises(SourceUnavailableError, match="not what Vault or OpenBao says"):
            await provider.mint(text, parent)
    assert not seen.is_away
    assert await field(provider, f"vault:{mount}/app#v") == b"x"


async def test_parameters_are_refused_where_an_engine_takes_none(
    provider: VaultProvider, openbao: OpenBao, mount: str
) -> None:
    openbao.mount("crypto", "transit")
    openbao.put_secret("app", mount=mount, v="x")
    with pytest.raises(SecretUnusableError, match="KV engine, which takes no parameters"):
        await read(provider, f"vault:{mount}/app?ttl=5m#v")
    with pytest.raises(SecretUnusableError, match="this path of a transit engine takes no parameters"):
        await read(provider, "vault:crypto/keys/k?type=x")
    with pytest.raises(SecretUnusableError, match="keeps no versions"):
        await read(provider, "vault:crypto/keys/k?version=1")
    with pytest.raises(SecretUnusableError, match="can't stand for transit/encrypt"):
        await read(provider, "vault:crypto/encrypt/k?plaintext=eA==")


async def test_a_path_that_policy_does_not_cover_is_denied(openbao: OpenBao, mount: str, tmp_path: Path) -> None:
    openbao.put_secret("mine", mount=mount, v="x")
    openbao.put_secret("theirs", mount=mount, v="y")
    openbao.policy("mine", f'path "{mount}/data/mine" {{ capabilities = ["read"] }}')
    seen = Seen()
    provider = token_provider(openbao, tmp_path, openbao.token("mine"), seen=seen)
    assert await field(provider, f"vault:{mount}/mine#v") == b"x"
    for _ in range(3):
        with pytest.raises(UpstreamDeniedError):
            await read(provider, f"vault:{mount}/theirs")
    with pytest.raises(UpstreamDeniedError, match="or nothing is mounted there"):
        await read(provider, "vault:unknown/mount/k")
    assert seen.count("lookup") <= 2, "a denial costs no look-up each time"


async def test_a_mount_that_became_another_version_is_read_anew(
    provider: VaultProvider, openbao: OpenBao, seen: Seen
) -> None:
    openbao.mount("upgraded", "kv", {"version": "1"})
    openbao.write("upgraded/k", {"v": "old"})
    assert await field(provider, "vault:upgraded/k#v") == b"old"
    openbao.write("sys/mounts/upgraded/tune", {"options": {"version": "2"}})
    await until(lambda: openbao.request("GET", "upgraded/data/k").status == 200)
    assert await field(provider, "vault:upgraded/k#v") == b"old"
    assert seen.count("mounts") == 2


async def test_a_mount_that_came_back_as_version_1_is_found_at_once_for_what_was_there(
    openbao: OpenBao, tmp_path: Path, seen: Seen
) -> None:
    openbao.mount("again", "kv", {"version": "2"})
    openbao.put_secret("k", mount="again", v="two")
    provider = token_provider(openbao, tmp_path, openbao.root_token, seen=seen)
    assert await field(provider, "vault:again/k#v") == b"two"
    openbao.unmount("again")
    openbao.mount("again", "kv", {"version": "1"})
    openbao.write("again/k", {"v": "one"})
    assert await field(provider, "vault:again/k#v") == b"one"


async def test_a_mount_that_came_back_as_version_1_is_found_for_anything_else_when_its_entry_is_old(
    openbao: OpenBao, tmp_path: Path, seen: Seen
) -> None:
    openbao.mount("anew", "kv", {"version": "2"})
    openbao.put_secret("k", mount="anew", v="two")
    provider = token_provider(openbao, tmp_path, openbao.root_token, seen=seen)
    assert await field(provider, "vault:anew/k#v") == b"two"
    openbao.unmount("anew")
    openbao.mount("anew", "kv", {"version": "1"})
    openbao.write("anew/other", {"v": "one"})
    with pytest.raises(SecretMissingError):
        await read(provider, "vault:anew/other")
    seen.advance(6.0)
    assert await field(provider, "vault:anew/other#v") == b"one"


async def test_the_absence_of_a_secret_that_was_there_is_looked_at_twice_and_then_believed(
    openbao: OpenBao, tmp_path: Path, seen: Seen
) -> None:
    openbao.put_secret("doubted", v="x")
    provider = token_provider(openbao, tmp_path, openbao.root_token, seen=seen)
    await read(provider, "vault:secret/doubted")
    openbao.delete("secret/metadata/doubted")
    for reads in (3, 4):
        with pytest.raises(SecretMissingError):
            await read(provider, "vault:secret/doubted")
        assert seen.count("read") == reads, "only the first absence is doubted"


async def test_a_deletion_that_the_store_states_is_believed_at_once(
    openbao: OpenBao, tmp_path: Path, seen: Seen
) -> None:
    openbao.put_secret("stated", v="x")
    provider = token_provider(openbao, tmp_path, openbao.root_token, seen=seen)
    await read(provider, "vault:secret/stated")
    openbao.delete("secret/data/stated")
    with pytest.raises(SecretMissingError):
        await read(provider, "vault:secret/stated")
    assert seen.count("read") == 2


async def test_a_mount_that_is_gone_is_an_alarm_and_makes_its_secrets_unavailable_and_not_missing(
    provider: VaultProvider, openbao: OpenBao, seen: Seen
) -> None:
    await missing(provider, "vault:nowhere/k")
    assert seen.alarms == [], "nobody has seen a mount there"
    openbao.mount("going", "kv", {"version": "2"})
    openbao.put_secret("k", mount="going", v="x")
    assert await field(provider, "vault:going/k#v") == b"x"
    openbao.unmount("going")
    for _ in range(2):
        with pytest.raises(SourceUnavailableError, match="engine that was mounted there is gone"):
            await read(provider, "vault:going/k")
    assert set(seen.alarms) == {"mount_gone"}


@pytest.mark.parametrize("name", ["team1", "team.one"])
async def test_a_namespace_is_sent_with_every_request_or_begins_the_path(
    openbao: OpenBao, tmp_path: Path, name: str
) -> None:
    assert openbao.request("POST", f"sys/namespaces/{name}", {}).status == 200

    def done(path: str, body: dict[str, object]) -> bool:
        return openbao.request("POST", path, body, namespace=name).status in {200, 204}

    for path, body in (
        ("sys/mounts/kv.v2", {"type": "kv", "options": {"version": "2"}}),
        ("kv.v2/data/a.b", {"data": {"v.w": "within"}}),
    ):
        await until(partial(done, path, body))
    provider = token_provider(openbao, tmp_path, openbao.root_token, namespace=name)
    assert await field(provider, "vault:kv.v2/a.b#v.w") == b"within"
    await provider.ping()
    provider = token_provider(openbao, tmp_path, openbao.root_token)
    assert await field(provider, f"vault:{name}/kv.v2/a.b#v.w") == b"within"


async def test_a_wrong_namespace_is_a_matter_of_configuration(openbao: OpenBao, tmp_path: Path) -> None:
    provider = token_provider(openbao, tmp_path, openbao.root_token, namespace="nobody")
    with pytest.raises(SourceUnavailableError, match=r"providers\.vault\.namespace"):
        await read(provider, "vault:secret/a")


async def test_a_secret_above_the_limit_is_unusable(openbao: OpenBao, mount: str, tmp_path: Path) -> None:
    openbao.put_secret("large", mount=mount, v="x" * 2000)
    provider = token_provider(openbao, tmp_path, openbao.root_token, max_answer_bytes=1024)
    with pytest.raises(SecretUnusableError, match="larger"):
        await read(provider, f"vault:{mount}/large")


async def test_a_large_answer_waits_at_the_store_until_there_is_room_and_small_ones_do_not(
    openbao: OpenBao, mount: str, tmp_path: Path
) -> None:
    openbao.put_secret("large", mount=mount, v="x" * 1_000_000)
    openbao.put_secret("small", mount=mount, v="x")
    room = ByteBudget(limit=2_000_000, most=2_000_000)
    provider = token_provider(openbao, tmp_path, openbao.root_token, answers=room)
    held = room.take_or_refuse("others", 2_000_000)
    large = asyncio.create_task(field(provider, f"vault:{mount}/large#v"))
    await until(lambda: room.waiting == 1)
    assert await field(provider, f"vault:{mount}/small#v") == b"x"
    assert not large.done()
    held.give_back()
    assert len(await large) == 1_000_000
    assert room.used == 0


async def test_a_large_answer_for_which_there_is_no_room_in_time_is_no_fault_of_the_store(
    openbao: OpenBao, mount: str, tmp_path: Path, seen: Seen
) -> None:
    openbao.put_secret("large", mount=mount, v="x" * 1_000_000)
    room = ByteBudget(limit=1_000_000, most=1_000_000)
    provider = token_provider(openbao, tmp_path, openbao.root_token, answers=room, seen=seen, total_seconds=1.0)
    held = room.take_or_refuse("others", 1_000_000)
    for _ in range(5):
        with pytest.raises(InFlightLimitError):
            await read(provider, f"vault:{mount}/large")
    assert not seen.is_away
    held.give_back()
    assert len(await field(provider, f"vault:{mount}/large#v")) == 1_000_000


async def test_a_quota_of_the_store_is_obeyed(own_openbao: OpenBao, tmp_path: Path) -> None:
    store = own_openbao
    store.put_secret("k", v="x")
    store.write("sys/quotas/config", {"enable_rate_limit_response_headers": True})
    store.write("sys/quotas/rate-limit/t", {"path": "secret", "rate": 1, "interval": "30s", "block_interval": "30s"})
    seen = Seen()
    provider = token_provider(store, tmp_path, store.root_token, seen=seen)
    assert await field(provider, "vault:secret/k#v") == b"x"
    for _ in range(3):
        with pytest.raises(SourceUnavailableError, match="limits the rate") as caught:
            await read(provider, "vault:secret/k")
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 60
    assert seen.count("read") == 2, "nothing is asked before the pause is over"


async def test_a_quota_that_refuses_health_makes_no_standby_of_the_store(own_openbao: OpenBao, tmp_path: Path) -> None:
    store, seen = own_openbao, Seen()
    provider = token_provider(store, tmp_path, store.root_token, seen=seen)
    await provider.ping()
    # Written without the exempt paths, which empties their list.
    store.write("sys/quotas/config", {"enable_rate_limit_response_headers": True})
    store.write("sys/quotas/rate-limit/t", {"path": "", "rate": 1, "interval": "30s", "block_interval": "30s"})
    assert (await until_refused(provider)).detail == "the store limits the rate of requests"
    asked = seen.count("health")
    with pytest.raises(SourceUnavailableError, match="waits as long as it was told to") as caught:
        await provider.ping()
    assert caught.value.retry_after
    assert seen.count("health") == asked, "nothing is asked before the pause is over"
    assert not seen.is_away


async def until_refused(provider: VaultProvider) -> SourceUnavailableError:
    while True:
        try:
            await provider.ping()
        except SourceUnavailableError as error:
            return error


async def test_one_hundred_cold_reads_look_at_the_mount_once(
    provider: VaultProvider, openbao: OpenBao, mount: str, seen: Seen
) -> None:
    for number in range(100):
        openbao.put_secret(f"k{number}", mount=mount, v=str(number))
    found = await asyncio.gather(*(field(provider, f"vault:{mount}/k{number}#v") for number in range(100)))
    assert found == [str(number).encode() for number in range(100)]
    assert (seen.count("mounts"), seen.count("read")) == (1, 100)


async def test_a_time_of_writing_that_can_not_be_read_costs_no_secret() -> None:
    assert created_time({"created_time": "yesterday"}) is None
    assert created_time({}) is None


async def test_the_broker_and_the_store_compare_their_clocks(provider: VaultProvider, seen: Seen) -> None:
    await provider.ping()
    assert len(seen.skews) == 1
    assert abs(seen.skews[0]) < 2
    seen.advance(3600)
    await provider.ping()
    assert abs(seen.skews[1] - 3600) < 2
