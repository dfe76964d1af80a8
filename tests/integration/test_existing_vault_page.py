"""The page about an existing store: every command runs, and every way to log in that it shows reads a secret."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from broker.config_source import validate_section
from broker.providers.base import ProviderTools
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import VaultSettings
from broker.reference import parse
from tests.certificates import TestAuthority
from tests.openbao import Files, OpenBao
from tests.token_review import cluster
from tests.vaults import Seen, private

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "existing-vault.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
LOGINS = [title for title, text in SECTIONS.items() if title.startswith("By ") and "```sh" in text]
SECRET = parse("vault:secret/logflux/app#v").source


@dataclass(frozen=True)
class Setting:
    """A store as the page assumes it, and where its names are on this machine."""

    store: OpenBao
    root: Path
    kubernetes: str

    def here(self, text: str) -> str:
        text = text.replace("/etc/logflux-broker", str(self.root))
        text = text.replace("https://kubernetes.default.svc", self.kubernetes)
        return text.replace("https://vault.example:8200", self.store.address)

    def run(self, title: str) -> None:
        """Run the commands of a section as its reader would, and stop at the first that fails."""
        for block in re.findall(r"```sh\n(.*?)```", SECTIONS[title], re.DOTALL):
            environment = {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.root),
                "BAO_ADDR": f"http://127.0.0.1:{self.store._admin_port}",
                "BAO_TOKEN": self.store.root_token,
            }
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", self.here(block)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    root = tmp_path_factory.mktemp("etc")
    for name in ("tls", "vault"):
        (root / name).mkdir()
    authority = TestAuthority(root / "pki")
    server = authority.server()
    login = authority.leaf(eku="client", common_name="broker")
    for name in ("vault-ca.crt", "login-ca.crt", "kubernetes-ca.crt"):
        (root / "tls" / name).write_bytes(authority.ca_path.read_bytes())
    (root / "tls" / "login.crt").write_bytes(login.certificate.read_bytes())
    private(root / "tls" / "login.key", login.key.read_text())
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (root / "tls" / "issuer.pem").write_bytes(public)
    claims = {"sub": "broker", "aud": "store", "iat": int(time.time()), "exp": int(time.time()) + 600}
    private(root / "vault" / "jwt", jwt.encode(claims, key, algorithm="ES256"))
    private(root / "vault" / "password", "for-development")
    store = OpenBao(root / "bao", tls=Files(server.certificate, server.key))
    store.mount("secret", "kv", {"version": "2"})
    store.put_secret("logflux/app", v="x")
    with cluster() as kubernetes:
        private(root / "vault" / "service-account", kubernetes.token(namespace="logflux", account="broker"))
        it = Setting(store, root, f"http://127.0.0.1:{kubernetes.port}")
        it.run("What the broker may do")
        # The wrapped secret id is one of this role.
        it.run("By AppRole")
        yield it
    store.close()


def section_of(text: str) -> dict[str, Any]:
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return dict(yaml.safe_load(block)["providers"]["vault"])


@pytest.mark.parametrize("title", LOGINS)
async def test_a_way_to_log_in_works_as_the_page_says(setting: Setting, title: str) -> None:
    if title != "By AppRole":
        await asyncio.to_thread(setting.run, title)
    settings = validate_section(VaultSettings, section_of(setting.here(SECTIONS[title])), where="providers.vault")
    seen = Seen()
    provider = VaultProvider(
        settings=settings, tools=ProviderTools(clock=seen, observer=seen, max_value_bytes=1_048_576)
    )
    try:
        assert (await provider.fetch(SECRET)).version == "1"
        await provider.ping()
        assert seen.alarms == []
    finally:
        await provider.aclose()


@pytest.mark.parametrize("title", ["By AWS IAM", "Namespaces, addresses, proxies", "Credentials by a reference"])
def test_settings_that_can_not_be_tried_here_are_valid(title: str) -> None:
    validate_section(VaultSettings, section_of(SECTIONS[title]), where="providers.vault")


def test_every_way_to_log_in_has_its_section() -> None:
    shown = {name for title, text in SECTIONS.items() if title.startswith("By ") for name in section_of(text)["auth"]}
    # `token` is `token_file` by a reference.
    assert shown == set(VaultSettings.model_fields["auth"].annotation.model_fields) - {"namespace", "token"}  # type: ignore[union-attr]  # A model.
