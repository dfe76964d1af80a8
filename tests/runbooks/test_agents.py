"""Walks through the pages about agents' connections: certificates, revocation lists, handshakes."""

import datetime as dt
import re
import shutil
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from broker.web.tls.handshake import HandshakeOutcome
from tests.certificates import Files, TestAuthority, client_context
from tests.dialing import ask, dial
from tests.docs.surroundings import SHIPPER
from tests.runbooks.walking import Walk
from tests.waiting import wait_until

# Alerts take their time to come and to go, on a loaded machine more of it.
pytestmark = pytest.mark.timeout(300)

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)
TLS = "/etc/logflux-broker/tls"
CHECK, SEARCH = "broker check-config", "broker audit search"


def server(authority: TestAuthority, *, begins: dt.timedelta, ends: dt.timedelta) -> Files:
    return authority.leaf(
        dns=("localhost",), ips=("127.0.0.1",), eku="server", not_before=NOW + begins, not_after=NOW + ends
    )


def test_certificate_ends(walk: Walk) -> None:
    files = [walk.path(f"{TLS}/tls.{kind}") for kind in ("crt", "key")]
    on_disk, shown = f"openssl x509 -in {TLS}/tls.crt", "openssl s_client"
    authority = TestAuthority(walk.here.work / "renewing")
    walk.start()
    walk.is_quiet()

    for source, target in zip(server(authority, begins=-98 * DAY, ends=DAY), files, strict=True):
        shutil.copyfile(source, target)
    walk.raises()
    ends = f"notAfter={NOW + DAY:%b %e %H:%M:%S %Y} GMT"
    walk.run(on_disk).has(ends)
    walk.run(shown).has(ends)
    walk.run(f"openssl x509 -in {TLS}/agents-ca.crt").has("subject=CN = the pages' authority")
    walk.run(CHECK).says("certificate_expires_soon")

    # It was renewed, and the broker refused it: the key is not its own.
    renewed = server(authority, begins=-DAY, ends=98 * DAY)
    shutil.copyfile(renewed.certificate, files[0])
    walk.hang_up()
    wait_until(lambda: "reload_refused" in walk.broker.log, "the broker refuses it")
    later = f"notAfter={NOW + 98 * DAY:%b %e %H:%M:%S %Y} GMT"
    walk.run(on_disk).has(later)
    walk.run(shown).has(ends)
    walk.run(CHECK, status=3).says("key_mismatch")

    shutil.copyfile(renewed.key, files[1])
    walk.hang_up()
    walk.ends()
    walk.run(shown).has(later)
    walk.run(CHECK).has("nothing found")


def test_certificate_ends_of_an_authority_whose_successor_is_put_beside_it(walk: Walk) -> None:
    bundle, listed = (walk.path(f"{TLS}/{name}") for name in ("agents-ca.crt", "agents.crl"))
    old, new = (
        TestAuthority(walk.here.work / name, common_name=name, not_after=days * DAY)
        for name, days in (("old", 0.04), ("new", 30))
    )
    bundle.write_bytes(old.ca_path.read_bytes())
    listed.write_bytes(old.crl().read_bytes())
    walk.start()
    walk.raises("BrokerCertificateEndsNow")
    walk.run(CHECK).has("warning[client_ca_expires_soon]", "add the new authority beside it")
    bundle.write_bytes(old.ca_path.read_bytes() + new.ca_path.read_bytes())
    listed.write_bytes(old.crl().read_bytes() + new.crl().read_bytes())
    walk.hang_up()

    def is_admitted(authority: TestAuthority) -> bool:
        with (
            suppress(ssl.SSLError, ConnectionError),
            dial(walk.place.agent_port, client_context(walk.place.authority, authority.agent())) as connection,
        ):
            return bool(ask(connection))
        return False

    wait_until(lambda: is_admitted(new), "agents of the new authority are admitted")
    assert is_admitted(old)
    bundle.write_bytes(new.ca_path.read_bytes())
    listed.write_bytes(new.crl().read_bytes())
    walk.hang_up()
    walk.ends("BrokerCertificateEndsNow")


def test_revocation_list_ends(walk: Walk) -> None:
    bundle, listed = (walk.path(f"{TLS}/{name}") for name in ("agents-ca.crt", "agents.crl"))
    authority = TestAuthority(walk.here.work / "listing")
    bundle.write_bytes(authority.ca_path.read_bytes())

    def publish(number: int, ends: dt.timedelta) -> None:
        listed.write_bytes(authority.crl(number=number, end=ends).read_bytes())

    publish(5, 2 * DAY)
    walk.start()
    walk.is_quiet()
    publish(6, dt.timedelta(hours=2))
    walk.hang_up()
    walk.raises()
    shown = walk.run("openssl crl").has("lastUpdate=", "nextUpdate=")
    ends = re.search(r"nextUpdate=(.*) GMT", shown.output)
    assert ends
    left = dt.datetime.strptime(f"{ends[1]}+0000", "%b %d %H:%M:%S %Y%z") - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=1) < left <= dt.timedelta(hours=2)
    walk.run(CHECK).says("crl_ends_soon")

    # A list from before came back, and the broker refused it.
    publish(4, 2 * DAY)
    walk.hang_up()
    wait_until(lambda: "reload_refused" in walk.broker.log, "the broker refuses it")
    walk.run("journalctl").says("crl_older").has("has the number 4, and 6 is in force")
    walk.run(CHECK).has("nothing found")
    walk.raises()

    publish(7, 3 * DAY)
    walk.hang_up()
    walk.ends()


def test_revocation_list_ends_and_agents_are_let_in_by_the_old_one(walk: Walk) -> None:
    bundle, listed = (walk.path(f"{TLS}/{name}") for name in ("agents-ca.crt", "agents.crl"))
    authority = TestAuthority(walk.here.work / "listing")
    bundle.write_bytes(authority.ca_path.read_bytes())
    listed.write_bytes(authority.crl(end=dt.timedelta(seconds=-1)).read_bytes())
    walk.run(CHECK, status=3).says("crl_stale")
    walk.change_settings(tls={"on_stale_crl": "keep"})
    walk.run(CHECK).says("crl_stale")
    walk.start()
    walk.raises()
    with dial(walk.place.agent_port, client_context(walk.place.authority, authority.agent())) as connection:
        assert ask(connection)


def test_handshakes_fail(walk: Walk) -> None:
    walk.change_settings(listen={"handshake_seconds": 0.5}, tls={"minimum": "1.2"})
    authority = TestAuthority(walk.here.work / "others", common_name="known")
    bundle, listed = (walk.path(f"{TLS}/{name}") for name in ("agents-ca.crt", "agents.crl"))
    revoked = authority.leaf(uris=(SHIPPER,))
    bundle.write_bytes(bundle.read_bytes() + authority.ca_path.read_bytes())
    listed.write_bytes(listed.read_bytes() + authority.crl(revoked).read_bytes())
    walk.start()
    assert walk.resolve().status == 200
    walk.is_quiet()

    attempts = bad_handshakes(walk, authority, revoked)
    outcomes = re.findall(
        r"`(\w+)`", " ".join(line.split("|")[1] for line in walk.page.text.splitlines() if line.startswith("| `"))
    )
    assert sorted(outcomes) == sorted(set(HandshakeOutcome) - {"ok"}), "the page names every outcome"
    for attempt in attempts.values():
        attempt()
    for _ in range(40):
        attempts["plain_http"]()
    walk.raises()
    # Also those that end after the peer has gone.
    wait_until(lambda: 'outcome="timeout"} 0.0' not in walk.run("curl").output, "the slow one is given up")
    counted = dict(re.findall(r'outcome="(\w+)"} (\S+)', walk.run("curl").output))
    assert [outcome for outcome in attempts if counted[outcome] == "0.0"] == []
    walk.run(SEARCH).says("plain_http").has("reason=plain_http", "address=127.0.0.1")

    def good_ones() -> bool:
        assert walk.resolve().status == 200
        return not walk.watcher.raised_lately("BrokerHandshakesFail")

    wait_until(good_ones, "the agents' handshakes are good again")


def bad_handshakes(walk: Walk, authority: TestAuthority, revoked: Files) -> dict[str, Callable[[], None]]:
    """Return how each outcome of the page comes about, by its name."""
    port, trusted = walk.place.agent_port, walk.place.authority
    stranger = TestAuthority(walk.here.work / "strangers", common_name="strange")

    def shake(agent: tuple[Path, Path] | None, *, trusting: Path = trusted, **how: object) -> None:
        context = client_context(trusting, agent)
        for name, value in how.items():
            if name == "ciphers":
                context.set_ciphers(str(value))
            else:
                setattr(context, name, value)
        with suppress(ssl.SSLError, ConnectionError), dial(port, context) as connection:
            # With TLS 1.3 the client is told of the refusal when it reads.
            connection.recv(1)

    def speak(text: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port)) as plain, suppress(ConnectionError):
            plain.sendall(text)
            plain.recv(1)

    def reset() -> None:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def leaf(**how: object) -> Files:
        return authority.leaf(uris=(SHIPPER,), **how)  # type: ignore[arg-type]  As given below.

    tls_1_2 = ssl.TLSVersion.TLSv1_2
    return {
        "expired": lambda: shake(leaf(not_before=NOW - 2 * DAY, not_after=NOW - DAY)),
        "not_yet_valid": lambda: shake(leaf(not_before=NOW + DAY, not_after=NOW + 2 * DAY)),
        "unknown_ca": lambda: shake(stranger.agent()),
        "self_signed": lambda: shake(leaf(self_signed=True)),
        "revoked": lambda: shake(revoked),
        "wrong_purpose": lambda: shake(leaf(eku="server")),
        "refused_by_peer": lambda: shake(leaf(), trusting=stranger.ca_path),
        "no_certificate": lambda: shake(None),
        "plain_http": lambda: speak(b"GET / HTTP/1.1\r\n\r\n"),
        "not_tls": lambda: speak(b"\x00\x01nonsense"),
        "no_shared_cipher": lambda: shake(leaf(), maximum_version=tls_1_2, ciphers="AES128-GCM-SHA256"),
        "timeout": lambda: speak(b""),
        "reset": reset,
    }
