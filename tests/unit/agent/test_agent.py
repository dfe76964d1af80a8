import argparse
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.agent.answer import Answer, ResolveRefusedError
from broker.agent.exec import child_environment, references_of, wanted_variables
from broker.agent.refusal import say
from broker.agent.settings import ClientSettingsError
from broker.pki.authority import create_authority, issue_certificate
from broker.secret import Encoding, SecretValue


class Scripted(http.server.BaseHTTPRequestHandler):
    """A broker that answers what the test wrote down, and keeps what it was asked."""

    answers: list[tuple[int, dict[str, str], object]]
    asked: list[object]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        status, headers, answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


class Broker:
    def __init__(self, pki: Path) -> None:
        self.pki = pki
        self.asked: list[object] = []
        self.answers: list[tuple[int, dict[str, str], object]] = []
        handler = type("Handler", (Scripted,), {"answers": self.answers, "asked": self.asked})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "broker.crt", pki / "broker.key")
        context.verify_mode = ssl.CERT_REQUIRED
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        own = {
            "LOGFLUX_BROKER_URL": f"https://127.0.0.1:{self.server.server_address[1]}",
            "LOGFLUX_BROKER_CA": str(self.pki / "ca.crt"),
            "LOGFLUX_AGENT_CERT": str(self.pki / "agent.crt"),
            "LOGFLUX_AGENT_KEY": str(self.pki / "agent.key"),
        }
        return subprocess.run(
            [sys.executable, "-m", "broker", *arguments],
            capture_output=True,
            env={**os.environ, **own, **(environment or {})},
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("agent") / "pki"
    create_authority(directory, common_name="test", days=1)
    issue_certificate(directory, name="broker", usage="server", ips=("127.0.0.1",), days=1)
    issue_certificate(directory, name="agent", usage="agent", spiffe="spiffe://test.example/agent", days=1)
    return directory


@pytest.fixture
def broker(pki: Path) -> Iterator[Broker]:
    it = Broker(pki)
    yield it
    it.server.shutdown()
    it.server.server_close()


def ok(reference: str, value: object, encoding: str = "utf-8") -> dict[str, object]:
    return {"reference": reference, "status": "ok", "value": value, "encoding": encoding}


def test_one_reference_prints_its_value_alone(broker: Broker) -> None:
    broker.answers.append((200, {}, {"results": [ok("env:A", "s3cret\n")]}))
    done = broker.run("get", "${A}")
    assert (done.returncode, done.stdout) == (0, b"s3cret\n")
    assert broker.asked == [{"references": ["${A}"], "require": "all"}]


def test_a_binary_value_is_printed_as_its_bytes(broker: Broker) -> None:
    broker.answers.append((200, {}, {"results": [ok("env:A", "/wA=", "base64")]}))
    assert broker.run("get", "env:A").stdout == b"\xff\x00"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("vault:a/b#c", "vault:a/b?version=previous#c"),
        ("bao:a/b?decode=base64#/c/d", "vault:a/b?decode=base64&version=previous#/c/d"),
    ],
)
def test_previous_asks_for_the_version_before_the_current_one(broker: Broker, given: str, asked: str) -> None:
    broker.answers.append((200, {}, {"results": [ok(asked, "old")]}))
    done = broker.run("get", "--previous", given)
    assert (done.returncode, done.stdout) == (0, b"old")
    assert broker.asked == [{"references": [asked], "require": "all"}]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("env:A", b"keep no versions"),
        ("vault:a/b?version=3#c", b"names a version already"),
        ("vault:a//b#c", b"REFERENCE 2, at character 9"),
    ],
)
def test_previous_of_what_has_none_is_a_wrong_command_line(broker: Broker, given: str, reason: bytes) -> None:
    done = broker.run("get", "--previous", "vault:a/b#c", given)
    assert (done.returncode, done.stdout, broker.asked) == (2, b"", [])
    assert reason in done.stderr


def test_several_references_print_an_object(broker: Broker) -> None:
    broker.answers.append((200, {}, {"results": [ok("env:A", "a"), ok("vault:a/b", {"x": 1}, "json")]}))
    assert json.loads(broker.run("get", "env:A", "vault:a/b").stdout) == {"env:A": "a", "vault:a/b": {"x": 1}}


def test_an_object_holds_numbers_as_they_were_written(broker: Broker) -> None:
    written = b'{"results": [{"reference": "vault:a/b", "status": "ok", "encoding": "json", "value": {"n": 1.10}}]}'
    broker.answers.append((200, {}, written))
    assert broker.run("get", "--json", "vault:a/b").stdout == b'{"vault:a/b":{"n":1.10}}\n'


def test_an_answer_to_other_references_gives_no_value(broker: Broker) -> None:
    broker.answers.append((200, {}, {"results": [ok("env:B", "s3cret"), ok("env:A", "s3cret")]}))
    done = broker.run("get", "env:A", "env:B")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"error[answer_malformed]" in done.stderr
    assert b"s3cret" not in done.stderr


def test_a_file_gets_the_value_with_its_mode_and_nothing_is_printed(broker: Broker, tmp_path: Path) -> None:
    broker.answers.append((200, {}, {"results": [ok("env:A", "/wA=", "base64")]}))
    file = tmp_path / "key"
    done = broker.run("get", "--output", str(file), "--mode", "0440", "env:A")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"\xff\x00", 0o440)


def test_a_file_is_not_written_when_one_reference_is_refused(broker: Broker, tmp_path: Path) -> None:
    refused = {"reference": "env:B", "status": "missing", "code": "secret_missing", "detail": "no such variable"}
    broker.answers.append((200, {}, {"results": [ok("env:A", "a"), refused]}))
    file = tmp_path / "key"
    done = broker.run("get", "--require", "any", "--output", str(file), "env:A", "env:B")
    assert done.returncode == 1
    assert not file.exists()


def test_a_file_that_cant_be_written_is_named_and_the_value_is_not(broker: Broker, tmp_path: Path) -> None:
    broker.answers.append((200, {}, {"results": [ok("env:A", "s3cret")]}))
    done = broker.run("get", "--output", str(tmp_path / "no" / "key"), "env:A")
    assert done.returncode == 2
    assert b"/no/key: No such file or directory; --output" in done.stderr
    assert b"s3cret" not in done.stderr + done.stdout


def test_a_refusal_is_told_a_line_a_reference_and_ends_with_1(broker: Broker) -> None:
    results = [{"reference": "env:A", "status": "denied", "code": "reference_denied", "detail": "policy says no"}]
    broker.answers.append((403, {}, {"code": "reference_denied", "detail": "refused", "results": results}))
    done = broker.run("get", "env:A")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"error[reference_denied]" in done.stderr
    assert b"env:A: denied: policy says no" in done.stderr


def test_a_broker_that_can_not_answer_yet_is_asked_again(broker: Broker) -> None:
    broker.answers.append((503, {"Retry-After": "1"}, {"code": "source_unavailable", "detail": "away"}))
    broker.answers.append((200, {}, {"results": [ok("env:A", "a")]}))
    assert broker.run("get", "env:A").stdout == b"a"
    assert len(broker.asked) == 2


def test_a_broker_that_stays_away_ends_with_4(broker: Broker) -> None:
    broker.answers.append((503, {}, {"code": "source_unavailable", "detail": "away"}))
    assert broker.run("get", "--wait", "0.1", "env:A").returncode == 4
    nobody = {"LOGFLUX_BROKER_URL": "https://127.0.0.1:1"}
    assert broker.run("get", "--wait", "0.1", "env:A", environment=nobody).returncode == 4


def test_a_refused_certificate_is_not_tried_again(broker: Broker, tmp_path: Path) -> None:
    create_authority(tmp_path / "other", common_name="other", days=1)
    issue_certificate(tmp_path / "other", name="agent", usage="agent", spiffe="spiffe://x.example/y", days=1)
    foreign = {
        "LOGFLUX_AGENT_CERT": str(tmp_path / "other" / "agent.crt"),
        "LOGFLUX_AGENT_KEY": str(tmp_path / "other" / "agent.key"),
    }
    done = broker.run("get", "env:A", environment=foreign)
    assert done.returncode == 1
    assert b"certificate_refused" in done.stderr


def test_a_key_that_others_may_read_is_refused(broker: Broker, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes((broker.pki / "agent.key").read_bytes())
    key.chmod(0o644)
    done = broker.run("get", "env:A", environment={"LOGFLUX_AGENT_KEY": str(key)})
    assert done.returncode == 2
    assert b"chmod 600" in done.stderr


def test_a_missing_setting_is_named(broker: Broker) -> None:
    done = broker.run("get", "env:A", environment={"LOGFLUX_BROKER_URL": ""})
    assert done.returncode == 2
    assert b"--url" in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https://:8443",
        "https://broker.example:99999",
        "https://broker.example:x",
        "https://[::1",
        "https://broker.example/v1/resolve",
        "https://user@broker.example",
        "https://broker.example?x=1",
        f"https://{'a' * 64}.example",
    ],
)
def test_an_address_that_is_no_host_and_port_is_refused(broker: Broker, url: str) -> None:
    done = broker.run("get", "--url", url, "env:A")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"error[client_settings_invalid]: --url is the broker's host and port" in done.stderr


@pytest.mark.parametrize(
    ("status", "code", "ended"),
    [
        (400, "reference_count", 1),
        (401, "identity_refused", 1),
        (413, "body_too_large", 1),
        (429, "rate_limited", 4),
        (500, "internal", 4),
        (503, "audit_unavailable", 4),
    ],
)
def test_a_refusal_without_results_ends_with_4_only_when_it_may_pass(status: int, code: str, ended: int) -> None:
    assert say(ResolveRefusedError("no", code=code, status=status, results=())) == ended


def test_exec_puts_the_value_into_the_environment_and_nowhere_else(broker: Broker) -> None:
    broker.answers.append((200, {}, {"results": [ok("vault:a/b#c", "s3cret")]}))
    script = (
        "import os; line = open('/proc/self/cmdline').read();"
        "print(os.environ['KEY'], line.count('s3' + 'cret'), 'LOGFLUX_AGENT_KEY' in os.environ)"
    )
    done = broker.run("exec", "--env", "KEY=vault:a/b#c", "--", sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (0, b"s3cret 0 False\n")


def test_exec_gives_the_commands_own_exit_status(broker: Broker) -> None:
    broker.answers.append((200, {}, {"results": [ok("env:A", "a")]}))
    assert broker.run("exec", "--env", "A=env:A", "--", "sh", "-c", "exit 7").returncode == 7
    assert broker.run("exec", "--env", "A=env:A", "--", "/no/such/command").returncode == 127
    assert broker.run("exec", "--env", "A=env:A", "--", "/etc/hostname").returncode == 126


def test_exec_without_its_secrets_does_not_run_the_command(broker: Broker, tmp_path: Path) -> None:
    broker.answers.append((403, {}, {"code": "reference_denied", "detail": "no", "results": []}))
    done = broker.run("exec", "--env", "A=env:A", "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == 125
    assert not (tmp_path / "ran").exists()


def test_exec_resolves_what_the_environment_names_when_asked(broker: Broker) -> None:
    broker.answers.append((200, {}, {"results": [ok("vault:a/b#c", "s3cret")]}))
    script = ["sh", "-c", 'printf %s "$KEY"']
    own = {"KEY": "vault:a/b#c"}
    assert broker.run("exec", "--from-environment", "--", *script, environment=own).stdout == b"s3cret"
    assert broker.run("exec", "--", *script, environment=own).stdout == b"vault:a/b#c"


@pytest.mark.parametrize("pair", ["A", "=env:A", "A=word"])
def test_exec_refuses_what_is_no_variable_or_no_reference(pair: str) -> None:
    with pytest.raises(ClientSettingsError):
        wanted_variables(argparse.Namespace(from_environment=False, env=[pair], env_file=[]), {})


def test_the_names_of_the_agents_own_key_do_not_reach_the_command() -> None:
    assert child_environment({"LOGFLUX_AGENT_KEY": "k", "X": "y"}, {}, ()) == {"X": "y"}


def test_exec_fills_text_around_references_and_asks_for_each_once(tmp_path: Path) -> None:
    file = tmp_path / "agent.env"
    file.write_text("# a comment\nURL=postgres://app:${vault:a/b#c}@db\nPLAIN=as it stands\nKEY=vault:a/b#c\n")
    arguments = argparse.Namespace(
        from_environment=False, env=["BOTH=${PAT}-$${-${vault:a/b#c}", "FILE=/run/x"], env_file=[file]
    )
    wanted = wanted_variables(arguments, {})
    assert references_of(wanted) == ["vault:a/b#c", "env:PAT", "file:/run/x"]
    values = (SecretValue(text.encode(), encoding=Encoding.TEXT) for text in ("${s3cret}", "pat", "file"))
    answers = [
        Answer(reference=one, status="ok", value=value)
        for one, value in zip(references_of(wanted), values, strict=True)
    ]
    assert child_environment({}, wanted, answers) == {
        "URL": "postgres://app:${s3cret}@db",
        "PLAIN": "as it stands",
        "KEY": "${s3cret}",
        "BOTH": "pat-${-${s3cret}",
        "FILE": "file",
    }


@pytest.mark.parametrize(
    ("value", "encoding", "what"),
    [(b"\xff\xfe", Encoding.BASE64, "binary"), (b"a\0b", Encoding.TEXT, "NUL")],
    ids=["binary", "NUL"],
)
def test_exec_refuses_values_that_no_environment_can_hold(value: bytes, encoding: Encoding, what: str) -> None:
    wanted = wanted_variables(argparse.Namespace(from_environment=False, env=["A=x${PAT}"], env_file=[]), {})
    answer = Answer(reference="env:PAT", status="ok", value=SecretValue(value, encoding=encoding))
    with pytest.raises(ClientSettingsError, match=what):
        child_environment({}, wanted, [answer])


def test_render_fills_a_file_and_asks_for_each_reference_once(broker: Broker, tmp_path: Path) -> None:
    template, output = tmp_path / "a.in", tmp_path / "a"
    template.write_text('key: "${vault:a/b#c}"\nagain: ${vault:a/b#c}\npat: ${A}\nliteral: $${A}\n')
    broker.answers.append((200, {}, {"results": [ok("vault:a/b#c", "s3cret"), ok("env:A", "${A}")]}))
    done = broker.run("render", str(template), "--output", str(output), "--mode", "0440")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert broker.asked == [{"references": ["vault:a/b#c", "env:A"], "require": "all"}]
    assert output.read_text() == 'key: "s3cret"\nagain: s3cret\npat: ${A}\nliteral: ${A}\n'
    assert output.stat().st_mode & 0o777 == 0o440


def test_render_writes_nothing_when_one_reference_is_refused(broker: Broker, tmp_path: Path) -> None:
    template, output = tmp_path / "a.in", tmp_path / "a"
    template.write_text("key: ${vault:a/b#c}\n")
    results = [{"reference": "vault:a/b#c", "status": "denied", "code": "reference_denied", "detail": "no"}]
    broker.answers.append((403, {}, {"code": "reference_denied", "detail": "refused", "results": results}))
    done = broker.run("render", str(template), "--output", str(output))
    assert (done.returncode, done.stdout, output.exists()) == (1, b"", False)


def test_render_of_a_binary_value_is_refused(broker: Broker, tmp_path: Path) -> None:
    template = tmp_path / "a.in"
    template.write_text("key: ${A}\n")
    broker.answers.append((200, {}, {"results": [ok("env:A", "/wA=", "base64")]}))
    done = broker.run("render", str(template))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"env:A is binary and can't stand in text" in done.stderr


def test_render_without_references_needs_no_broker(broker: Broker, tmp_path: Path) -> None:
    template = tmp_path / "a.in"
    template.write_text("a: vault:x/y#z $${b}\n")
    done = broker.run("render", "--keep-bare", str(template), environment={"LOGFLUX_BROKER_URL": ""})
    assert (done.returncode, done.stdout, broker.asked) == (0, b"a: vault:x/y#z ${b}\n", [])
