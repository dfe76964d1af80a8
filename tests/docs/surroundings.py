"""What a page finds when its commands run: a directory of its own, free ports, and a broker where it needs one.

What is put in the place of what the page says stands in CONTRIBUTING.md, for those who write pages.
"""

import base64
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from broker.cli.child import free_port
from broker.cli.sandbox import Sandbox, sandbox
from broker.key_file import write_private
from broker.pki.authority import create_authority, issue_certificate
from broker.pki.revocation import write_revocation_list
from tests.docs.pages import ROOT
from tests.running import serving

AGENT_PORT: Final = "8443"
OPERATIONS_PORT: Final = "9102"
STORE_PORT: Final = "8200"
_PORTS: Final = re.compile(rf"\b({AGENT_PORT}|{OPERATIONS_PORT}|{STORE_PORT})\b")
_SYSTEM_PATHS: Final = re.compile(r"(?<![\w/.*-])/(etc|var|mnt|srv|run)/")
_HOSTS: Final = re.compile(r"\bbroker(\.prod\.example)?:(?=\d)")
SHIPPER: Final = "spiffe://prod.example/logflux/shipper"
# Files of others' making: a broker on the machine of the page has them where `deploy/config/broker.yaml` says.
_SETTINGS: Final = """\
state_directory: /var/lib/logflux-broker
policy_file: /etc/logflux-broker/policy.yaml
listen: { host: 127.0.0.1, port: 8443 }
operations: { host: 127.0.0.1, port: 9102 }
tls:
  certificate: /etc/logflux-broker/tls/tls.crt
  key: /etc/logflux-broker/tls/tls.key
  client_ca: /etc/logflux-broker/tls/agents-ca.crt
  client_crl: /etc/logflux-broker/tls/agents.crl
webhook: { key_files: [/etc/logflux-broker/webhook.key] }
providers:
  env: { names: [LOGFLUX_PAT], env_files: [/etc/logflux-broker/agents.env] }
  file: { roots: [{ path: /var/secrets/logflux }] }
  vault:
    address: STORE
    auth:
      approle:
        role_id_file: /etc/logflux-broker/vault/role_id
        secret_id_file: /etc/logflux-broker/vault/secret_id
"""
_POLICY: Final = """\
identities:
  shipper: { spiffe: "spiffe://prod.example/logflux/shipper", environment: production }
  operator: { spiffe: "spiffe://prod.example/operator" }
administrators: [operator]
rules:
  - name: the shipper reads its own credentials
    allow: ["vault:secret/logflux#*", "env:LOGFLUX_PAT", "file:/var/secrets/logflux/**"]
    to: [shipper]
    fresh_for: 5m
    max_stale: 1h
"""


@dataclass(frozen=True)
class Surroundings:
    """Where a page runs: its working directory, and what stands for the ports and the system's paths."""

    root: Path
    ports: dict[str, int]
    environment: dict[str, str]
    work: Path

    def on_a_page(self, work: Path) -> "Surroundings":
        """Return the same broker with a working directory for one page."""
        shutil.copytree(self.work, work, symlinks=True)
        moved = {name: value.replace(str(self.work), str(work)) for name, value in self.environment.items()}
        return replace(self, work=work, environment=moved)

    def here(self, text: str) -> str:
        """Return `text` with the ports, hosts and system paths of this place."""
        text = _HOSTS.sub("localhost:", text)
        text = _PORTS.sub(lambda found: str(self.ports[found[0]]), text)
        return _SYSTEM_PATHS.sub(rf"{self.root}/\1/", text)


def empty(root: Path) -> Surroundings:
    """Return a directory with nothing in it but a checkout's `deploy`."""
    ports = {port: free_port() for port in (AGENT_PORT, OPERATIONS_PORT, STORE_PORT)}
    here = Surroundings(root, ports, {}, root / "work")
    here.work.mkdir()
    (here.work / "deploy").symlink_to(ROOT / "deploy")
    agent = here.work / "shipper"
    # The program of the examples: it runs only with its secret.
    agent.write_text('#!/bin/sh\ntest -n "$API_KEY"\n')
    agent.chmod(0o755)
    (here.work / "shipper.yaml.in").write_text('api_key: "${vault:secret/logflux#api_key}"\n')
    return here


@contextmanager
def broker_and_store(root: Path, *, runs: bool = True) -> Iterator[Surroundings]:
    """Make a store, and a broker that is set up as the pages assume."""
    with sandbox(fresh_for="5m") as place:
        here = empty(root)
        here.ports[AGENT_PORT], here.ports[OPERATIONS_PORT] = place.agent_port, place.operations_port
        install(here, place)
        agent = here.work / "shipper"
        here.environment.update(
            {
                "BAO_ADDR": place.store_address,
                "BAO_TOKEN": place.store_token,
                "LOGFLUX_OPERATIONS__PORT": str(place.operations_port),
                "LOGFLUX_BROKER_URL": f"https://localhost:{place.agent_port}",
                "LOGFLUX_BROKER_CA": str(here.work / "ca.crt"),
                "LOGFLUX_AGENT_CERT": f"{agent}.crt",
                "LOGFLUX_AGENT_KEY": f"{agent}.key",
            }
        )
        settings = here.root / "etc" / "logflux-broker" / "broker.yaml"
        with serving(replace(place, settings_file=settings)) if runs else nullcontext():
            yield here


def install(here: Surroundings, place: Sandbox) -> None:
    """Put the files of a broker where the pages have them; its store is that of `place`."""
    pki = here.work / "pki"
    create_authority(pki, common_name="the pages' authority", days=365)
    issue_certificate(pki, name="broker", usage="server", dns=("localhost",), ips=("127.0.0.1",), days=2)
    issue_certificate(pki, name="shipper", usage="agent", spiffe=SHIPPER, days=2)
    issue_certificate(pki, name="operator", usage="agent", spiffe="spiffe://prod.example/operator", days=2)
    write_revocation_list(pki, revoke=(), days=1)
    settings = here.root / "etc" / "logflux-broker"
    for directory in (settings / "tls", settings / "vault", here.root / "var" / "lib", here.root / "run" / "secrets"):
        directory.mkdir(parents=True)
    for name in ("backups", "lib/prometheus/node-exporter"):
        (here.root / "var" / name).mkdir(parents=True)
    (here.root / "mnt" / "worm").mkdir(parents=True)
    shutil.copytree(place.files, here.root / "var" / "secrets" / "logflux")
    copies = {
        "pki/ca.crt": ("work/ca.crt", "etc/logflux-broker/tls/agents-ca.crt"),
        "pki/ca.crl": ("etc/logflux-broker/tls/agents.crl",),
        "pki/broker.crt": ("etc/logflux-broker/tls/tls.crt",),
        "pki/broker.key": ("etc/logflux-broker/tls/tls.key",),
        "pki/shipper.crt": ("work/shipper.crt",),
        "pki/shipper.key": ("work/shipper.key",),
        "pki/operator.crt": ("work/operator.crt",),
        "pki/operator.key": ("work/operator.key",),
    }
    for source, targets in copies.items():
        for target in targets:
            shutil.copy2(here.work / source, here.root / target)
    for source, target in (
        ("role_id", "vault/role_id"),
        ("secret_id", "vault/secret_id"),
        ("agents.env", "agents.env"),
    ):
        write_private(settings / target, (place.directory / source).read_bytes())
    write_private(settings / "webhook.key", b"whsec_" + base64.b64encode(secrets.token_bytes(32)))
    (settings / "policy.yaml").write_text(here.here(_POLICY))
    (settings / "broker.yaml").write_text(here.here(_SETTINGS).replace("STORE", place.store_address))


def shell_environment(here: Surroundings) -> dict[str, str]:
    """Return what a page's shell inherits: the tools, and nothing of a broker that is set up elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOGFLUX_", "BAO_", "VAULT_"))}
    # The `broker` and the `bao` of this tree come first.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "HOME": str(here.root), **here.environment}
