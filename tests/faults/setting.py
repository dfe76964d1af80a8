"""What every scene begins with: the secrets of the store, the broker's role there, its settings and its policy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from broker.cli.child import free_port
from tests.certificates import TestAuthority
from tests.openbao import OpenBao
from tests.vaults import private

# Two secrets under load, so that what happens to the first must leave the second alone.
APP: Final = "vault:secret/app#v"
DB: Final = "vault:secret/db#v"
VALUES: Final = {APP: "value-of-app", DB: "value-of-db"}
# One that nobody reads before, and one that is read once and may be used for a second.
COLD: Final = "vault:secret/cold#v"
BRIEF: Final = "vault:secret/brief#v"
NAMES: Final = ("app", "db", "cold", "brief")
FRESH_FOR: Final = 1.0
MAX_STALE: Final = 3600.0
MAX_BRIEF: Final = 1.0
PER_SECOND: Final = 20
PROBE_SECONDS: Final = 1.0
# What agents see when the whole store is away.
STALE: Final = "`ok`, then `stale`; `unavailable` what was never read, and what is past its bound"
AGENT: Final = "spiffe://test.example/logflux/agent"
# Broad enough for KV version 1 too, should the mount become one; and what the store mints, where it does.
READER: Final = """
path "secret/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
"""


def fill(store: OpenBao, directory: Path, **role: Any) -> None:
    """Put the secrets and the broker's role into a store, and the broker's credential into `directory`."""
    for name in NAMES:
        store.put_secret(name, v=f"value-of-{name}")
    store.policy("broker", READER)
    role_id, secret_id = store.approle("broker", ["broker"], **role)
    private(directory / "role_id", role_id)
    private(directory / "secret_id", secret_id)


_POLICY: Final = {
    "identities": {"agent": {"spiffe": AGENT, "environment": "test"}},
    "rules": [
        {
            "name": "agents read",
            "allow": ["vault:secret/**#*", "vault:database/**#*", "vault:team/**#*"],
            "to": ["agent"],
            "fresh_for": f"{FRESH_FOR:.0f}s",
            "max_stale": f"{MAX_STALE:.0f}s",
        },
        {
            "name": "what may hardly be stale",
            "allow": [BRIEF],
            "to": ["agent"],
            "fresh_for": f"{FRESH_FOR:.0f}s",
            "max_stale": f"{MAX_BRIEF:.0f}s",
        },
    ],
}


def write_settings(
    directory: Path, authority: TestAuthority, addresses: Sequence[str], more: Mapping[str, Any]
) -> Path:
    """Write settings and policy of a broker whose time-outs are short."""
    server = authority.server()
    (directory / "policy.yaml").write_text(json.dumps(_POLICY))
    auth = {"role_id_file": str(directory / "role_id"), "secret_id_file": str(directory / "secret_id")}
    vault = {
        "addresses": list(addresses),
        "auth": {"approle": auth},
        "connect_seconds": 1,
        "total_seconds": 1,
        "requests_per_second": PER_SECOND,
        "probe_seconds": PROBE_SECONDS,
        **more,
    }
    settings = {
        "state_directory": str(directory / "state"),
        "policy_file": str(directory / "policy.yaml"),
        # Ports of its own, which a restarted broker has too.
        "listen": {"host": "127.0.0.1", "port": free_port()},
        "operations": {"host": "127.0.0.1", "port": free_port()},
        "tls": {
            "certificate": str(server.certificate),
            "key": str(server.key),
            "client_ca": str(authority.ca_path),
        },
        "providers": {"vault": vault},
    }
    file = directory / "broker.yaml"
    file.write_text(json.dumps(settings))
    return file


def operations_port(settings: Path) -> int:
    """Return the port of probes and metrics in these settings."""
    return int(json.loads(settings.read_text())["operations"]["port"])
