"""What an agent's author is told, mistake by mistake, by the real command at a real broker."""

import datetime as dt
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.certificates import Files, TestAuthority
from tests.running import API_KEY, RunningBroker, running

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        yield it


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("other"))


def get(broker: RunningBroker, *words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    certificate, key = broker.place.certificate("shipper")
    own = {
        "LOGFLUX_BROKER_URL": broker.place.url,
        "LOGFLUX_BROKER_CA": str(broker.place.authority),
        "LOGFLUX_AGENT_CERT": str(certificate),
        "LOGFLUX_AGENT_KEY": str(key),
    }
    return subprocess.run(
        [sys.executable, "-m", "broker", "get", "--wait", "0.5", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **own, **settings},
        timeout=60,
        check=False,
    )


def shown(files: Files) -> dict[str, str]:
    return {"LOGFLUX_AGENT_CERT": str(files.certificate), "LOGFLUX_AGENT_KEY": str(files.key)}


def test_a_denial_names_the_reference_and_the_request_that_the_trail_knows(broker: RunningBroker) -> None:
    done = get(broker, API_KEY, "vault:secret/logfluxx#api_key")
    assert done.returncode == 1
    assert "no value is handed out, because of:" in done.stderr
    assert "vault:secret/logfluxx#api_key: denied:" in done.stderr
    assert "under request " in done.stderr
    assert "results" not in done.stderr


def test_what_a_shell_put_in_the_place_of_a_reference_is_neither_sent_nor_printed(broker: RunningBroker) -> None:
    # What "${LOGFLUX_PAT}" in double quotes becomes where the variable is set, and where it is not.
    expanded = get(broker, API_KEY, "lf_pat_hunter2hunter2")
    assert expanded.returncode == 2
    assert "REFERENCE 2, at character 1" in expanded.stderr
    assert "hunter2" not in expanded.stderr
    assert "hunter2" not in broker.log
    assert "single quotes" in get(broker, "").stderr


@pytest.mark.parametrize(
    ("begins", "ends", "told"),
    [(-10 * DAY, -DAY, "it ended at "), (DAY, 10 * DAY, "is this machine's clock right?"), (-DAY, DAY, "client_ca")],
)
def test_a_refused_certificate_is_told_with_its_file_and_what_is_wrong_with_it(
    broker: RunningBroker, other: TestAuthority, begins: dt.timedelta, ends: dt.timedelta, told: str
) -> None:
    now = dt.datetime.now(dt.UTC)
    files = other.leaf(uris=("spiffe://demo.example/x",), not_before=now + begins, not_after=now + ends)
    done = get(broker, API_KEY, **shown(files))
    assert (done.returncode, "error[certificate_refused]" in done.stderr) == (1, True)
    assert str(files.certificate) in done.stderr
    assert told in done.stderr


def test_a_certificate_past_2049_is_read_too(broker: RunningBroker, other: TestAuthority) -> None:
    # From 2050 on, the times of a certificate are written with four digits of the year.
    begins = dt.datetime(2051, 1, 2, tzinfo=dt.UTC)
    done = get(broker, API_KEY, **shown(other.leaf(not_before=begins, not_after=begins + DAY)))
    assert "it begins at 2051-01-02T00:00:00Z" in done.stderr


def test_a_broker_of_another_authority_or_name_is_told_apart(broker: RunningBroker, other: TestAuthority) -> None:
    authority = get(broker, API_KEY, LOGFLUX_BROKER_CA=str(other.ca_path))
    assert f"--ca {other.ca_path} has to hold the authority that issued it" in authority.stderr
    name = get(broker, API_KEY, LOGFLUX_BROKER_URL=broker.place.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"))
    assert (name.returncode, "use a name that stands in it as --url" in name.stderr) == (1, True)


def test_an_address_that_speaks_no_tls_is_told(broker: RunningBroker) -> None:
    done = get(broker, API_KEY, LOGFLUX_BROKER_URL=f"https://127.0.0.1:{broker.place.operations_port}")
    assert "speaks no TLS; is this the port for agents" in done.stderr


def test_a_broker_that_is_away_is_told_at_once_and_at_the_end(broker: RunningBroker) -> None:
    done = get(broker, API_KEY, LOGFLUX_BROKER_URL="https://127.0.0.1:1")
    assert done.returncode == 4
    at_once, at_the_end = done.stderr.splitlines()
    assert at_once == "broker: https://127.0.0.1:1: nothing listens there (connection refused); trying for 0.5 s"
    assert "error[broker_unreachable]: https://127.0.0.1:1: nothing listens there" in at_the_end


def test_a_balancer_without_a_broker_behind_it_is_no_refusal_and_is_tried_again(broker: RunningBroker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as balancer:
        counted = []

        def close_each() -> None:
            while True:
                try:
                    connection, _ = balancer.accept()
                except OSError:
                    return
                counted.append(connection.recv(1))
                connection.close()

        threading.Thread(target=close_each, daemon=True).start()
        done = get(broker, API_KEY, LOGFLUX_BROKER_URL=f"https://127.0.0.1:{balancer.getsockname()[1]}")
        balancer.shutdown(socket.SHUT_RDWR)
    assert (done.returncode, "error[broker_unreachable]" in done.stderr) == (4, True), done.stderr
    assert "the connection is closed before an answer" in done.stderr
    assert len(counted) > 1


def test_each_file_of_the_agent_is_named_when_it_is_the_one(
    broker: RunningBroker, other: TestAuthority, tmp_path: Path
) -> None:
    certificate, key = broker.place.certificate("shipper")
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    foreign = other.agent()
    encrypted = tmp_path / "encrypted.key"
    encrypted.touch(mode=0o600)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encrypted.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    for setting, file, told in (
        ("LOGFLUX_BROKER_CA", "nosuch", "--ca nosuch: No such file or directory"),
        ("LOGFLUX_BROKER_CA", empty, f"--ca {empty}: holds no certificate"),
        ("LOGFLUX_BROKER_CA", broken, f"--ca {broken}: holds a certificate that can't be read"),
        ("LOGFLUX_AGENT_CERT", "nosuch", "--cert nosuch: No such file or directory"),
        ("LOGFLUX_AGENT_CERT", empty, f"--cert {empty}: holds no certificate"),
        ("LOGFLUX_AGENT_CERT", broken, f"--cert {broken} or --key {key}: can't be read"),
        ("LOGFLUX_AGENT_CERT", foreign.certificate, f"--key {key}: is not the key of --cert {foreign.certificate}"),
        ("LOGFLUX_AGENT_KEY", "nosuch", "--key nosuch: No such file or directory"),
        ("LOGFLUX_AGENT_KEY", empty, f"--cert {certificate} or --key {empty}: can't be read"),
        ("LOGFLUX_AGENT_KEY", encrypted, f"--key {encrypted}: is encrypted"),
    ):
        done = get(broker, API_KEY, **{setting: str(file)})
        assert done.returncode == 2, done.stderr
        assert told in done.stderr


@pytest.mark.parametrize("wait", ["-5", "nan", "inf", "soon"])
def test_a_time_to_wait_is_a_number_of_seconds(broker: RunningBroker, wait: str) -> None:
    done = get(broker, f"--wait={wait}", API_KEY)
    assert (done.returncode, "is no number of seconds from 0 on" in done.stderr) == (2, True)
