"""A throw-away surrounding for `broker dev` and `broker demo`: store, certificates, policy, settings.

Everything lives below one temporary directory and on free ports, so that two can run side by side, and
everything ends with the process that made it.
"""

import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from broker.cli.child import Process, free_port
from broker.cli.sandbox_store import fill_store, running_store, store_request
from broker.key_file import write_private
from broker.pki.authority import create_authority, issue_certificate

SHIPPER: Final = "spiffe://demo.example/logflux/shipper"
OPERATOR: Final = "spiffe://demo.example/operator"
STRANGER: Final = "spiffe://demo.example/other/job"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What was made, and where it is."""

    directory: Path
    store_address: str
    store_token: str = field(repr=False)
    store: Process
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

    def ask_store(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what the store says to its administrator. Raises: SandboxError."""
        return store_request(self.store_address, self.store_token, method, path, body)


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
        store = stack.enter_context(running_store(directory, port=port, token=token))
        fill_store(directory, address=address, token=token)
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


def _end_on_sigterm(stack: ExitStack) -> None:
    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    stack.callback(signal.signal, signal.SIGTERM, before)


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
