"""`broker health` asks the broker of this machine, whatever the settings file has become since."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.__main__ import main
from tests.answering import answering


class _Probe(BaseHTTPRequestHandler):
    """Answers as a broker whose store is away."""

    def do_GET(self) -> None:
        ready = "vault" in parse_qs(urlsplit(self.path).query).get("exclude", [])
        reason = "the store is sealed" * (not ready)
        vault = {"ready": ready, "since": "2026-01-01T00:00:00Z", "reason": reason}
        body = json.dumps({"ready": ready, "dependencies": {"audit": {"ready": True}, "vault": vault}}).encode()
        body = body if urlsplit(self.path).path == "/readyz" else b"another service"
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with answering(HTTPServer(("127.0.0.1", 0), _Probe)) as server:
        monkeypatch.setenv("LOGFLUX_OPERATIONS__PORT", str(server.server_port))
        yield server.server_port


def test_a_broker_that_is_not_ready_is_not_healthy(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health"]) == 4
    assert f"http://127.0.0.1:{port}/readyz: not ready: vault: the store is sealed\n" in capsys.readouterr().err


def test_an_excluded_dependency_is_left_out_of_the_verdict(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--exclude", "audit", "--exclude", "vault"]) == 0
    assert json.loads(capsys.readouterr().out)["ready"] is True


def test_an_excluded_dependency_joins_the_query_of_a_given_address(port: int) -> None:
    assert main(["health", "--url", f"http://127.0.0.1:{port}/readyz?verbose=1", "--exclude", "vault"]) == 0


def test_the_port_is_the_one_that_the_environment_sets_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGFLUX_OPERATIONS__PORT", "1")
    assert main(["health"]) == 4


def test_another_scheme_than_http_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", "file:///etc/passwd"]) == 4
    assert "is an http address" in capsys.readouterr().err


def test_a_broker_that_does_not_run_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", "http://127.0.0.1:1/readyz"]) == 4
    assert "no answer (Connection refused); does the broker run, and is this its operations" in capsys.readouterr().err


def test_what_is_no_probe_is_told_so(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", f"http://127.0.0.1:{port}/"]) == 4
    assert "answered 503, which is no probe of a broker" in capsys.readouterr().err
