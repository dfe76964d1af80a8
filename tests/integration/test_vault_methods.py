"""Every way to log in, against a real OpenBao; AWS, which OpenBao lacks, against a front that checks the signature."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.errors import SourceUnavailableError
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.provider import VaultProvider
from broker.reference import parse
from tests.aws_front import aws_front
from tests.certificates import TestAuthority
from tests.openbao import Files, OpenBao
from tests.token_review import cluster
from tests.vaults import Seen, closing, private, provider_of
from tests.waiting import until

__all__ = ["closing"]

READER = 'path "secret/data/*" { capabilities = ["read"] }'
SECRET = parse("vault:secret/method#v").source


@pytest.fixture(autouse=True)
def filled(openbao: OpenBao) -> None:
    openbao.policy("reader", READER)
    openbao.put_secret("method", v="x")


async def refused(provider: VaultProvider) -> str:
    with pytest.raises(SourceUnavailableError) as caught:
        await provider.fetch(SECRET)
    with pytest.raises(SourceUnavailableError):
        await provider.ping()
    return caught.value.detail


# The token file.


async def test_a_token_file_that_is_replaced_is_followed_while_the_old_token_lives(
    openbao: OpenBao, tmp_path: Path
) -> None:
    first, second = openbao.token("reader"), openbao.token("reader")
    file = private(tmp_path / "token", first)
    seen = Seen()
    provider = provider_of(openbao.address, {"token_file": str(file)}, seen=seen)
    await provider.fetch(SECRET)
    private(file, second)
    seen.advance(2)
    await provider.fetch(SECRET)
    openbao.revoke(first)
    await provider.fetch(SECRET)
    assert ("read", "denied") not in seen.requests
    assert seen.count("lookup") == 2


@pytest.mark.parametrize("content", ["", "two words", "s.unknown-to-the-store"])
async def test_a_token_file_that_became_useless_changes_nothing_while_the_old_token_lives(
    openbao: OpenBao, tmp_path: Path, content: str
) -> None:
    file = private(tmp_path / "token", openbao.token("reader"))
    seen = Seen()
    provider = provider_of(openbao.address, {"token_file": str(file)}, seen=seen)
    await provider.fetch(SECRET)
    private(file, content)
    for _ in range(6):
        seen.advance(20)
        assert (await provider.fetch(SECRET)).version
    assert seen.count("lookup") <= 3, "a refused token is asked about twice"


# AppRole with a wrapped secret id.


def wrapped(store: OpenBao, role: str, *, path: str | None = None) -> str:
    """Return a wrapping token for a new secret id, as an administrator hands it over."""
    answer = store.request(
        "POST", path or f"auth/approle/role/{role}/secret-id", {}, headers={"X-Vault-Wrap-TTL": "120s"}
    )
    return str(answer.document["wrap_info"]["token"])


def wrapped_provider(store: OpenBao, directory: Path, role: str, token: str, seen: Seen) -> VaultProvider:
    role_id, _ = store.approle(role, ["reader"])
    file = private(directory / "wrapped", token)
    auth = {"approle": {"role_id": role_id, "wrapped_secret_id_file": str(file), "role_name": role}}
    return provider_of(store.address, auth, seen=seen)


async def test_a_wrapped_secret_id_is_opened_once_and_serves_every_login(openbao: OpenBao, tmp_path: Path) -> None:
    seen = Seen()
    openbao.approle("wrapped", ["reader"])
    provider = wrapped_provider(openbao, tmp_path, "wrapped", wrapped(openbao, "wrapped"), seen)
    await asyncio.gather(*(provider.fetch(SECRET) for _ in range(50)))
    assert seen.count("login") == 3, "a look at the wrapping token, its opening, the login"
    openbao.revoke_tokens()
    await provider.fetch(SECRET)
    assert seen.count("login") == 4, "the secret id is in memory"
    assert seen.alarms == []


async def test_a_wrapping_token_that_somebody_else_has_opened_is_an_alarm_and_never_sent_again(
    openbao: OpenBao, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    openbao.approle("opened", ["reader"])
    token = wrapped(openbao, "opened")
    assert openbao.request("POST", "sys/wrapping/unwrap", {"token": token}).status == 200
    provider = wrapped_provider(openbao, tmp_path, "opened", token, seen)
    for _ in range(5):
        assert "has been opened before" in await refused(provider)
        seen.advance(60)
    assert seen.alarms == ["wrapping_token_used"]
    assert seen.count("login") == 1
    assert "wrapping_token_used" in caplog.text
    assert token not in caplog.text
    private(tmp_path / "wrapped", wrapped(openbao, "opened"))
    assert (await provider.fetch(SECRET)).version, "a new wrapping token heals it"


async def test_a_wrapping_token_of_another_path_is_an_alarm_and_stays_closed(openbao: OpenBao, tmp_path: Path) -> None:
    seen = Seen()
    openbao.approle("mine", ["reader"])
    openbao.approle("theirs", ["reader"])
    token = wrapped(openbao, "theirs")
    provider = wrapped_provider(openbao, tmp_path, "mine", token, seen)
    assert "made by another path than auth/approle/role/mine/secret-id" in await refused(provider)
    assert seen.alarms == ["wrapping_token_of_another_path"]
    assert openbao.request("POST", "sys/wrapping/unwrap", {"token": token}).status == 200, "it was not opened"


async def test_a_wrapping_token_whose_opening_was_lost_is_not_opened_again(openbao: OpenBao, tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def lose_the_opening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        asked.append(line.split()[1])
        await reader.readuntil(b"\r\n\r\n")
        if b"lookup" in line:
            body = b'{"data": {"creation_path": "auth/approle/role/lost/secret-id"}}'
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(lose_the_opening, "127.0.0.1", 0)
    seen = Seen()
    file = private(tmp_path / "wrapped", "s.wrapping")
    approle = {"role_id": "r", "wrapped_secret_id_file": str(file), "role_name": "lost"}
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    provider = provider_of(address, {"approle": approle}, seen=seen)
    for _ in range(4):
        with pytest.raises(SourceUnavailableError, match="put a new wrapping token there"):
            await provider.fetch(SECRET)
        seen.advance(60)
    assert asked == [b"/v1/sys/wrapping/lookup", b"/v1/sys/wrapping/unwrap"]
    server.close()


# JWT and Kubernetes.


def signer(store: OpenBao, mount: str) -> ec.EllipticCurvePrivateKey:
    """Set up the JWT method for a new key, with a role `broker`, and return the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    store.write(f"sys/auth/{mount}", {"type": "jwt"})
    store.write(f"auth/{mount}/config", {"jwt_validation_pubkeys": [public.decode()]})
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["store"],
        "token_policies": "reader",
        "token_ttl": "1h",
    }
    store.write(f"auth/{mount}/role/broker", role)
    return key


def signed(key: ec.EllipticCurvePrivateKey, *, seconds: int = 300) -> str:
    claims = {"sub": "broker", "aud": "store", "iat": int(time.time()), "exp": int(time.time()) + seconds}
    return jwt.encode(claims, key, algorithm="ES256")


async def test_a_jwt_is_read_again_before_each_login(openbao: OpenBao, tmp_path: Path) -> None:
    key = signer(openbao, "jwt-fresh")
    file = private(tmp_path / "jwt", signed(key))
    seen = Seen()
    auth = {"jwt": {"role": "broker", "token_file": str(file), "mount": "jwt-fresh"}}
    provider = provider_of(openbao.address, auth, seen=seen)
    await provider.fetch(SECRET)
    private(file, signed(key, seconds=-600))
    openbao.revoke_tokens(mount="jwt-fresh")
    assert "refuses the broker's login" in await refused(provider)
    private(file, signed(key))
    assert (await provider.fetch(SECRET)).version
    assert seen.count("login") == 3


async def test_a_jwt_is_tried_again_slowly_until_its_role_is_put_right_in_the_store(
    openbao: OpenBao, tmp_path: Path
) -> None:
    key = signer(openbao, "jwt-late")
    role = openbao.read("auth/jwt-late/role/broker")["data"]
    openbao.delete("auth/jwt-late/role/broker")
    seen = Seen()
    auth = {"jwt": {"role": "broker", "token_file": str(private(tmp_path / "jwt", signed(key))), "mount": "jwt-late"}}
    provider = provider_of(openbao.address, auth, seen=seen)
    for _ in range(30):
        await refused(provider)
        seen.advance(10)
    assert 10 <= seen.count("login") <= 14
    openbao.write("auth/jwt-late/role/broker", {name: value for name, value in role.items() if value})
    seen.advance(30)
    assert (await provider.fetch(SECRET)).version


async def test_a_projected_service_account_token_is_read_again_before_each_login(
    openbao: OpenBao, tmp_path: Path
) -> None:
    with cluster() as kubernetes:
        openbao.write("sys/auth/kubernetes", {"type": "kubernetes"})
        openbao.write("auth/kubernetes/config", kubernetes.settings(TestAuthority(tmp_path / "pki")))
        role = {
            "bound_service_account_names": "broker",
            "bound_service_account_namespaces": "logflux",
            "token_policies": "reader",
        }
        openbao.write("auth/kubernetes/role/broker", role)
        # Kubernetes projects the token behind a symlink, readable by the pod's group.
        file = tmp_path / "token"
        file.write_text(kubernetes.token(namespace="elsewhere", account="broker"))
        seen = Seen()
        auth = {"kubernetes": {"role": "broker", "token_file": str(file)}}
        provider = provider_of(openbao.address, auth, seen=seen)
        assert "refuses the broker's login" in await refused(provider)
        file.write_text(kubernetes.token(namespace="logflux", account="broker"))
        await asyncio.gather(*(provider.fetch(SECRET) for _ in range(20)))
        assert seen.count("login") == 2
        assert len(kubernetes.reviews) == 1, "the store looks at the namespace first"
        renewed = kubernetes.token(namespace="logflux", account="broker", seconds=1200)
        file.write_text(renewed)
        openbao.revoke_tokens(mount="kubernetes")
        assert (await provider.fetch(SECRET)).version
        assert kubernetes.reviews[-1] == renewed


# Certificate.


@pytest.fixture
async def certified(tmp_path: Path) -> AsyncIterator[tuple[OpenBao, TestAuthority]]:
    """A store over TLS that lets certificates of its authority log in."""
    authority = TestAuthority(tmp_path / "pki")
    server = authority.server()
    store = await asyncio.to_thread(OpenBao, tmp_path / "bao", tls=Files(server.certificate, server.key))
    store.mount("secret", "kv", {"version": "2"})
    store.put_secret("method", v="x")
    store.policy("reader", READER)
    store.write("sys/auth/cert", {"type": "cert"})
    role = {"certificate": authority.ca_path.read_text(), "token_policies": "reader", "token_period": "2s"}
    store.write("auth/cert/certs/broker", role)
    yield store, authority
    await asyncio.to_thread(store.close)


def certificate_provider(
    store: OpenBao, authority: TestAuthority, leaf: Any, seen: Seen | None = None
) -> VaultProvider:
    auth = {"certificate_file": str(leaf.certificate), "key_file": str(leaf.key), "role": "broker"}
    return provider_of(store.address, {"certificate": auth}, seen=seen, ca_file=str(authority.ca_path))


async def test_a_certificate_logs_in_and_renews(certified: tuple[OpenBao, TestAuthority]) -> None:
    store, authority = certified
    seen = Seen()
    provider = certificate_provider(store, authority, authority.leaf(eku="client", common_name="broker"), seen)
    await provider.fetch(SECRET)
    await until(lambda: ("renew", "ok") in seen.requests)
    await provider.fetch(SECRET)
    assert seen.count("login") == 1
    assert {outcome for operation, outcome in seen.requests if operation == "renew"} == {"ok"}


async def test_a_certificate_that_was_replaced_logs_in_with_the_new_one(
    certified: tuple[OpenBao, TestAuthority], tmp_path: Path
) -> None:
    store, authority = certified
    stranger = TestAuthority(tmp_path / "other", common_name="somebody else").leaf(common_name="broker")
    seen = Seen()
    provider = certificate_provider(store, authority, stranger, seen)
    assert "refuses the broker's login" in await refused(provider)
    good = authority.leaf(eku="client", common_name="broker")
    good.key.replace(stranger.key)
    good.certificate.replace(stranger.certificate)
    seen.advance(2)
    assert (await provider.fetch(SECRET)).version


async def test_a_certificate_without_a_common_name_says_what_is_missing(
    certified: tuple[OpenBao, TestAuthority],
) -> None:
    store, authority = certified
    leaf = authority.leaf(uris=("spiffe://test.example/broker",), common_name=None)
    assert "no common name" in await refused(certificate_provider(store, authority, leaf))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mode", "auth.certificate.key_file: mode 0644"),
        ("swap", "auth.certificate: certificate and key are no PEM, do not belong together"),
        ("gone", "auth.certificate.certificate_file: No such file"),
    ],
)
async def test_a_certificate_that_can_not_be_used_is_named_by_its_setting(
    certified: tuple[OpenBao, TestAuthority], change: str, message: str
) -> None:
    store, authority = certified
    leaf = authority.leaf(common_name="broker")
    if change == "mode":
        leaf.key.chmod(0o644)
    elif change == "swap":
        authority.leaf().key.replace(leaf.key)
    else:
        leaf.certificate.unlink()
    detail = await refused(certificate_provider(store, authority, leaf))
    assert message in detail
    assert str(authority.directory) not in detail


# AWS.


def aws_files(directory: Path, **texts: str) -> dict[str, str]:
    return {f"{name}_file": str(private(directory / name, text)) for name, text in texts.items()}


async def test_aws_iam_signs_with_the_credentials_of_its_files_alone(
    openbao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of-the-environment")
    async with aws_front(openbao, session_token="temporary", server_id="vault.example") as front:
        files = aws_files(
            tmp_path,
            access_key_id=front.access_key,
            secret_access_key=front.secret_key,
            session_token="temporary",
        )
        auth = {"aws": {"role": "broker", "region": "eu-central-1", "server_id": "vault.example", **files}}
        seen = Seen()
        provider = provider_of(front.address, auth, seen=seen)
        await asyncio.gather(*(provider.fetch(SECRET) for _ in range(20)))
        assert seen.count("login") == 1
        [login] = front.logins
        assert login["role"] == "broker"
        assert "of-the-environment" not in str(login)
        await provider.aclose()


async def test_aws_credentials_that_were_replaced_are_signed_with_at_the_next_login(
    openbao: OpenBao, tmp_path: Path
) -> None:
    async with aws_front(openbao) as front:
        files = aws_files(tmp_path, access_key_id=front.access_key, secret_access_key="wrong")
        provider = provider_of(front.address, {"aws": {"role": "broker", **files}})
        assert "refuses the broker's login" in await refused(provider)
        private(tmp_path / "secret_access_key", front.secret_key)
        assert (await provider.fetch(SECRET)).version
        await provider.aclose()


async def test_aws_credentials_come_from_declared_variables(
    openbao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aws_front(openbao, session_token="temporary") as front:
        monkeypatch.setenv("OWN_KEY_ID", front.access_key)
        file = private(tmp_path / "own.env", f"OWN_KEY={front.secret_key}\nOWN_SESSION=temporary\n")
        own = OwnVariables(names=["OWN_KEY_ID", "OWN_KEY", "OWN_SESSION"], files=[file])
        named = {"access_key_id": "${OWN_KEY_ID}", "secret_access_key": "${OWN_KEY}", "session_token": "${OWN_SESSION}"}
        provider = provider_of(front.address, {"aws": {"role": "broker", **named}}, own=own)
        assert (await provider.fetch(SECRET)).version
        assert len(front.logins) == 1
        await provider.aclose()


# Name and password.


async def test_userpass_logs_in_and_warns_that_it_is_for_development(
    openbao: OpenBao, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    openbao.write("sys/auth/userpass", {"type": "userpass"})
    openbao.write("auth/userpass/users/dev", {"password": "canary-4711", "token_policies": "reader"})
    file = private(tmp_path / "password", "canary-4711\n")
    auth = {"unsafe_userpass": {"username": "dev", "password_file": str(file)}}
    provider = provider_of(openbao.address, auth)
    assert (await provider.fetch(SECRET)).version
    assert "unsafe_userpass" in caplog.text
    assert "canary-4711" not in caplog.text


# Namespaces.


async def test_the_login_may_be_of_another_namespace_than_the_secrets(openbao: OpenBao, tmp_path: Path) -> None:
    openbao.write("sys/namespaces/team.one")
    openbao.request("POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "1"}}, namespace="team.one")
    openbao.request("POST", "kv/app", {"v": "of the team"}, namespace="team.one")
    openbao.policy("team", 'path "team.one/kv/*" { capabilities = ["read"] }')
    role_id, secret_id = openbao.approle("team", ["team"], token_period="2s")
    file = private(tmp_path / "secret_id", secret_id)
    seen = Seen()
    auth = {"approle": {"role_id": role_id, "secret_id_file": str(file)}, "namespace": "/"}
    provider = provider_of(openbao.address, auth, seen=seen, namespace="team.one")
    reading = await provider.fetch(parse("vault:kv/app#v").source)
    assert reading.document.select(("v",)).reveal() == b"of the team"
    await until(lambda: ("renew", "ok") in seen.requests)
