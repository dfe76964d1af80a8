"""Rotation as an operator does it: a real broker process, `broker pki`, files moved into place, and SIGHUP."""

import http.client
import json
import signal
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.__main__ import main
from broker.cli.sandbox import SHIPPER, sandbox
from tests.running import RunningBroker, serving
from tests.waiting import wait_until

ENV = "env:LOGFLUX_PAT"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with sandbox(fresh_for="5m") as place:
        pki = place.directory / "pki"
        assert main(["pki", "revoke", "--dir", str(pki)]) == 0
        text = place.settings_file.read_text()
        place.settings_file.write_text(text.replace("tls:\n", f"tls:\n  client_crl: {pki}/ca.crl\n"))
        with serving(place) as running:
            yield running


def ask(connection: http.client.HTTPSConnection) -> int:
    body = json.dumps({"references": [ENV]})
    connection.request("POST", "/v1/resolve", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response.status


def visit(broker: RunningBroker, agent: str = "shipper") -> int:
    with closing(broker.connection(agent)) as connection:
        return ask(connection)


def shown(broker: RunningBroker) -> bytes:
    connection = broker.connection()
    try:
        connection.connect()
        return connection.sock.getpeercert(binary_form=True) or b""
    finally:
        connection.close()


def value(broker: RunningBroker, series: str) -> float:
    for line in broker.operations("/metrics").body.decode().splitlines():
        if line.startswith(f"{series} "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def hang_up(broker: RunningBroker) -> None:
    broker.child.handle.send_signal(signal.SIGHUP)


def test_a_storm_of_a_thousand_signals_costs_a_few_reloads_and_the_new_certificate_is_shown(
    broker: RunningBroker,
) -> None:
    pki = broker.place.directory / "pki"
    connection = broker.connection()
    assert ask(connection) == 200
    before = shown(broker)
    read = 'broker_configuration_reloads_total{outcome="accepted",part="certificate"}'
    counted = value(broker, read)
    issue = ["pki", "issue", "broker-2", "--dir", str(pki), "--server", "--ip", "127.0.0.1", "--days", "1"]
    assert main(issue) == 0
    (pki / "broker-2.key").replace(pki / "broker.key")
    (pki / "broker-2.crt").replace(pki / "broker.crt")
    for _ in range(1000):
        hang_up(broker)
    wait_until(lambda: shown(broker) != before)
    assert shown(broker) == ssl.PEM_cert_to_DER_cert((pki / "broker.crt").read_text())
    assert ask(connection) == 200, "an open connection goes on"
    connection.close()
    assert broker.operations("/livez").status == 200
    assert 1 <= value(broker, read) - counted < 100


def test_a_revoked_agent_is_refused_on_its_open_connection(broker: RunningBroker) -> None:
    pki = broker.place.directory / "pki"
    assert main(["pki", "issue", "leaver", "--dir", str(pki), "--agent", "--spiffe", SHIPPER, "--days", "1"]) == 0
    leaver, shipper = broker.connection("leaver"), broker.connection()
    assert ask(leaver) == ask(shipper) == 200
    assert main(["pki", "revoke", "--dir", str(pki), str(pki / "leaver.crt")]) == 0
    # Without a signal: the broker sees the new file by itself.
    wait_until(lambda: ask(leaver) == 401)
    assert ask(shipper) == 200
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        visit(broker, "leaver")
    assert value(broker, 'broker_handshakes_total{outcome="revoked"}') >= 1
    leaver.close()
    shipper.close()


def test_a_setting_that_needs_a_restart_is_named_and_the_log_level_follows(broker: RunningBroker) -> None:
    file: Path = broker.place.settings_file
    text = file.read_text()
    port = f"port: {broker.place.agent_port}"
    file.write_text("log_level: warning\n" + text.replace(port, "port: 1"))
    series = 'broker_configuration_reloads_total{outcome="restart_needed",part="settings"}'
    hang_up(broker)
    wait_until(lambda: value(broker, series) >= 1)
    wait_until(lambda: "listen.port" in broker.log and "restart_needed" in broker.log)
    assert visit(broker) == 200, "the old port is kept"
    lines = len(broker.log.splitlines())
    assert visit(broker) == 200
    assert len(broker.log.splitlines()) == lines, "requests are logged at info, which is not shown any more"
    file.write_text(text)
    hang_up(broker)
    wait_until(lambda: value(broker, 'broker_configuration_last_reload_successful{part="settings"}') == 1)


def test_settings_that_can_not_be_read_keep_the_old_ones(broker: RunningBroker) -> None:
    file: Path = broker.place.settings_file
    text = file.read_text()
    file.write_text("listen: [")
    hang_up(broker)
    wait_until(lambda: value(broker, 'broker_configuration_reloads_total{outcome="refused",part="settings"}') >= 1)
    assert visit(broker) == 200
    file.write_text(text)
    hang_up(broker)
    wait_until(lambda: value(broker, 'broker_configuration_last_reload_successful{part="settings"}') == 1)
