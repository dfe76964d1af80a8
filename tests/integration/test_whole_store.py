"""A store that is not as it should be, from the start or later: the broker runs, says what is wrong, and heals."""

import http.server
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from broker.cli.child import free_port
from broker.cli.sandbox import Sandbox, sandbox
from broker.pki.authority import issue_certificate
from tests.answering import answering
from tests.mounting import needs_mount
from tests.running import RunningBroker, audit, serving
from tests.vaults import private
from tests.waiting import wait_until

API_KEY = "vault:secret/logflux#api_key"
# Sources of their own, which are in no cache before their test.
FIRST, SECOND, THIRD = (f"vault:secret/logflux?version={number}#api_key" for number in (1, 2, 3))


class Html(http.server.BaseHTTPRequestHandler):
    """Answers as a captive portal or a load balancer's error page does."""

    def _answer(self) -> None:
        body = b"<html><body>Please log in</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815  The names that the base class calls.

    def log_message(self, *_arguments: object) -> None:
        """Stay quiet."""


class Forwarding(socketserver.BaseRequestHandler):
    """Passes a connection on to the real store, one direction in a thread of its own."""

    store_port: int

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.store_port)) as store:
            back = threading.Thread(target=pump, args=(store, self.request), daemon=True)
            back.start()
            pump(self.request, store)
            back.join()


def pump(source: Any, target: Any) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(1)
    except OSError:
        return


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


class TlsServer(Server):
    """Speaks TLS to whoever connects; the handshake is made by the thread that reads first."""

    context: ssl.SSLContext
    accepted: list[ssl.SSLSocket]

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = super().get_request()
        connection = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.accepted.append(connection)
        return connection, address

    def reset(self) -> None:
        """End every connection, so that whoever wants something has to look for the store anew."""
        for connection in self.accepted:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


@contextmanager
def at_the_stores_address(
    port: int, handler: type[socketserver.BaseRequestHandler], *, kind: type[Server] = Server
) -> Iterator[Any]:
    with answering(kind(("127.0.0.1", port), handler)) as server:
        yield server


def to_the_store(place: Sandbox) -> type[Forwarding]:
    return type("ToTheStore", (Forwarding,), {"store_port": int(place.store_address.rpartition(":")[2])})


def store_state(broker: RunningBroker) -> dict[str, Any]:
    return dict(broker.operations("/readyz").json["dependencies"]["vault"])


def runs_without_its_store(broker: RunningBroker, *, said: str = "") -> None:
    wait_until(lambda: not store_state(broker)["ready"] and said in store_state(broker)["reason"])
    assert broker.operations("/readyz").status == 503
    assert broker.operations("/livez").status == 200
    assert broker.resolve("env:LOGFLUX_PAT").status == 200
    refused = broker.resolve(API_KEY)
    assert refused.status == 503
    assert refused.json["results"][0]["status"] == "unavailable"
    assert int(refused.headers["Retry-After"]) >= 1


def heals(broker: RunningBroker) -> None:
    # A store that was away is asked at a growing pace, so it may take a while.
    wait_until(lambda: broker.operations("/readyz").status == 200, seconds=60)
    wait_until(lambda: broker.resolve(API_KEY).status == 200, seconds=60)


def move_store(place: Sandbox, port: int) -> None:
    """Let the broker look for the store where nothing, or something else, is."""
    text = place.settings_file.read_text()
    place.settings_file.write_text(text.replace(place.store_address, f"http://127.0.0.1:{port}"))


def test_a_sealed_store_at_the_start_keeps_the_broker_not_ready_until_it_is_unsealed() -> None:
    with sandbox(fresh_for="5m") as place:
        place.ask_store("PUT", "sys/seal")
        with serving(place, path="/livez") as broker:
            runs_without_its_store(broker, said="sealed")
            key = unseal_key((place.directory / "store.log").read_text())
            place.ask_store("PUT", "sys/unseal", {"key": key})
            heals(broker)


def unseal_key(log: str) -> str:
    return next(line.split()[-1] for line in log.splitlines() if line.startswith("Unseal Key:"))


def test_a_store_that_is_absent_and_then_something_else_makes_not_ready_until_it_is_there() -> None:
    with sandbox(fresh_for="5m") as place:
        port = free_port()
        move_store(place, port)
        with serving(place, path="/livez") as broker:
            runs_without_its_store(broker)
            with at_the_stores_address(port, Html):
                runs_without_its_store(broker, said="not what Vault or OpenBao says")
                assert "Please log in" not in broker.operations("/readyz").body.decode() + broker.log
            with at_the_stores_address(port, to_the_store(place)):
                heals(broker)
            assert broker.terminate() == 0


# Names of its own for one process and its children: a look-up that `hosts` does not answer finds no server to ask.
OWN_NAMES = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'
NOBODY = "127.0.0.1 localhost\n"


@contextmanager
def named_store(place: Sandbox) -> Iterator[TlsServer]:
    """Let the broker look for its store, which speaks TLS, by the name `store.test`."""
    pki = place.directory / "pki"
    issue_certificate(pki, name="store", usage="server", dns=("store.test",), days=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "store.crt", pki / "store.key")
    port = free_port()
    named = f"https://store.test:{port}\n    ca_file: {place.authority}\n    dns_seconds: 0.01"
    place.settings_file.write_text(place.settings_file.read_text().replace(place.store_address, named))
    kind = type("Named", (TlsServer,), {"context": context, "accepted": []})
    with at_the_stores_address(port, to_the_store(place), kind=kind) as server:
        yield server


@needs_mount
def test_without_dns_the_broker_runs_says_so_and_heals_when_the_name_is_known() -> None:
    with sandbox(fresh_for="5m") as place, named_store(place) as store:
        hosts, servers = place.directory / "hosts", place.directory / "resolv.conf"
        hosts.write_text(NOBODY)
        servers.write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
        wrapper = ("unshare", "--mount", "sh", "-c", OWN_NAMES, "sh", str(hosts), str(servers))
        with serving(place, wrapper=wrapper, path="/livez") as broker:
            runs_without_its_store(broker, said="the store's name can't be resolved")
            hosts.write_text(f"{NOBODY}127.0.0.1 store.test\n")
            heals(broker)
            hosts.write_text(NOBODY)
            store.reset()
            # Its last addresses go on to serve, for connections that have to be made anew.
            wait_until(lambda: broker.resolve(FIRST).status == 200)
            assert broker.terminate() == 0


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with sandbox(fresh_for="5m") as place:
        for number in (2, 3):
            data = {"data": {"api_key": f"number {number}"}}
            place.ask_store("POST", "secret/data/logflux", data)
        with serving(place) as it:
            yield it


def test_a_refused_token_is_replaced_and_a_refused_credential_is_told_until_it_is_renewed(
    broker: RunningBroker,
) -> None:
    assert broker.resolve(API_KEY).status == 200
    broker.place.ask_store("PUT", "sys/leases/revoke-prefix/auth/approle/login", {})
    assert broker.resolve(FIRST).status == 200
    secret_id = (broker.place.directory / "secret_id").read_text()
    broker.place.ask_store("POST", "auth/approle/role/broker/secret-id/destroy", {"secret_id": secret_id})
    broker.place.ask_store("PUT", "sys/leases/revoke-prefix/auth/approle/login", {})
    refused = broker.resolve(SECOND)
    assert refused.status == 503
    # What is known already outlives it inside its bound.
    assert broker.resolve(API_KEY).status == 200
    wait_until(lambda: not store_state(broker)["ready"])
    new = broker.place.ask_store("POST", "auth/approle/role/broker/secret-id", {})["data"]["secret_id"]
    private(broker.place.directory / "secret_id", new)
    wait_until(lambda: broker.resolve(SECOND).status == 200, seconds=60)
    wait_until(lambda: broker.operations("/readyz").status == 200, seconds=60)
    assert secret_id not in broker.log
    assert new not in broker.log


def test_a_path_that_the_store_denies_is_denied_in_the_stores_words_on_record_alone(broker: RunningBroker) -> None:
    rules = broker.place.ask_store("GET", "sys/policies/acl/broker")["data"]["policy"]
    elsewhere = 'path "secret/data/other" { capabilities = ["read"] }'
    broker.place.ask_store("PUT", "sys/policies/acl/broker", {"policy": elsewhere})
    try:
        denied = broker.resolve(THIRD)
        assert denied.status == 403
        assert denied.json["results"][0]["code"] == "upstream_denied"
        assert broker.operations("/readyz").status == 200
        again = broker.resolve(THIRD)
        found = audit(broker, "search", "--type", "resolve", "--limit", "2", "--json").stdout
        for record in map(json.loads, found.splitlines()):
            [refused] = record["references"]
            # The second is answered from memory, and told in the same words.
            assert (refused["reason"], refused["upstream_asked"]) == ("upstream_denied", "GET secret/data/logflux")
            assert refused["upstream_said"] == "403 permission denied"
        assert f"{THIRD}=denied(upstream_denied) [GET secret/data/logflux: 403 permission denied]" in (
            audit(broker, "search", "--type", "resolve", "--limit", "2").stdout
        )
        told = (denied.body, again.body, broker.operations("/metrics").body, broker.log.encode())
        assert not [text for text in told if b"permission denied" in text or b"secret/data" in text]
    finally:
        broker.place.ask_store("PUT", "sys/policies/acl/broker", {"policy": rules})
