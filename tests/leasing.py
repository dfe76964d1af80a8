"""A whole broker in front of a store whose database engine makes credentials in a real PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.cli.child import SandboxError
from broker.cli.sandbox import OPERATOR, SHIPPER, STRANGER, Sandbox, sandbox
from broker.cli.sandbox_store import BROKER_RULES_IN_THE_STORE
from tests.postgres import PostgreSQL

# What docs/how-to/dynamic-credentials.md tells an operator to write; a test compares them.
MINTER_RULES = """
path "database/creds/app" { capabilities = ["read"] }
path "pki/issue/agent" { capabilities = ["update"] }
"""
LEASE_RULES = """
path "auth/token/create/broker-leases" { capabilities = ["create", "update"] }
path "auth/token/renew-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
path "pki/revoke" { capabilities = ["update"] }
"""
# The mount of an engine is shown to those who may do anything below it.
SEEING_RULES = """
path "database/creds/app" { capabilities = ["list"] }
path "pki/issue/agent" { capabilities = ["list"] }
"""
OTHER_RULES = """
path "transit/sign/app" { capabilities = ["update"] }
path "transit/hmac/app" { capabilities = ["update"] }
path "transit/verify/app" { capabilities = ["update"] }
"""
POLICY = f"""\
identities:
  shipper: {{ spiffe: "{SHIPPER}", environment: production }}
  stranger: {{ spiffe: "{STRANGER}", environment: production }}
  operator: {{ spiffe: "{OPERATOR}" }}
administrators: [operator]
rules:
  - name: both get database credentials of their own
    allow:
      - "vault:database/creds/app#*"
      - "vault:pki/issue/agent?common_name=a.example&ttl=*#*"
      - "vault:pki/issue/agent?common_name=b.example#*"
      - "vault:pki/issue/agent?common_name=a.example&bogus=*#*"
      - "vault:transit/*/app?input=*#*"
      - "vault:transit/verify/app?input=*&signature=*#*"
      - "vault:cubbyhole/**"
      - "vault:secret/logflux#*"
    to: [shipper, stranger]
"""
USER, PASSWORD = "vault:database/creds/app#username", "vault:database/creds/app#password"


class Store:
    """The store behind a sandbox, as its administrator sees it."""

    def __init__(self, place: Sandbox) -> None:
        self._place = place

    def write(self, path: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.ask("POST", path, data or {})

    def mount(self, path: str, kind: str) -> None:
        self.write(f"sys/mounts/{path}", {"type": kind})

    def policy(self, name: str, rules: str) -> None:
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": rules})

    def rules(self, name: str) -> str:
        return str(self.ask("GET", f"sys/policies/acl/{name}")["data"]["policy"])

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._place.ask_store(method, path, body)

    def leases(self, path: str = "database/creds/app") -> set[str]:
        """Return the leases that the store itself knows, whoever has them."""
        return set(self._keys(path))

    def _keys(self, path: str) -> list[str]:
        try:
            return list(self.ask("GET", f"sys/leases/lookup/{path}?list=true")["data"]["keys"])
        except SandboxError as error:
            if error.detail.endswith("404"):
                return []
            raise


@contextmanager
def leasing_sandbox(
    postgres: PostgreSQL | None, *, role: bool = True, default_ttl: str = "1h", max_ttl: str = "24h", settings: str = ""
) -> Iterator[tuple[Sandbox, Store]]:
    """Make the surrounding; with `role`, credentials are minted under a token of their own.

    Without `postgres` there are no credentials of databases.
    """
    with sandbox(fresh_for="5m") as place:
        store = Store(place)
        if postgres is not None:
            postgres.behind(store, default_ttl=default_ttl, max_ttl=max_ttl)  # type: ignore[arg-type]  # As much of a store as it takes.
        store.mount("pki", "pki")
        store.write("pki/root/generate/internal", {"common_name": "leases", "ttl": "24h"})
        store.write("pki/roles/agent", {"allowed_domains": "a.example", "allow_bare_domains": True, "max_ttl": "1h"})
        store.mount("transit", "transit")
        store.write("transit/keys/app", {"type": "ed25519"})
        store.policy("minter", MINTER_RULES)
        store.write(
            "auth/token/roles/broker-leases",
            {"orphan": True, "renewable": True, "allowed_policies": "minter", "token_no_default_policy": True},
        )
        store.policy(
            "broker", BROKER_RULES_IN_THE_STORE + LEASE_RULES + OTHER_RULES + (SEEING_RULES if role else MINTER_RULES)
        )
        place.settings_file.with_name("policy.yaml").write_text(POLICY)
        text = place.settings_file.read_text() + settings
        if role:
            text = text.replace(
                f"    address: {place.store_address}\n",
                f"    address: {place.store_address}\n    lease_token_role: broker-leases\n",
            )
        place.settings_file.write_text(text)
        yield place, store
