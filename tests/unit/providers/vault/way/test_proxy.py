"""The proxy: which forms are taken, and which addresses go around it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.errors import SourceUnavailableError
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.places import Located
from broker.providers.vault.way.proxy import ProxySettings, read_proxy_login


def proxy(**changes: object) -> ProxySettings:
    return ProxySettings.model_validate({"address": "http://proxy.example:3128", **changes})


@pytest.mark.parametrize(
    "address", ["http://p.example:1", "https://p.example:1/", "socks5://10.0.0.1:1080", "http://[::1]:3128"]
)
def test_the_three_schemes_are_taken(address: str) -> None:
    assert proxy(address=address).address == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "p.example:3128",
        "http://p.example",
        "http://user:canary@p.example:1",
        "http://p.example:1/canary",
        "http://p.example:1?canary",
        "socks4://p.example:1",
        "http://[::1",
        "http://p exa:1",
    ],
)
def test_any_other_proxy_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ValidationError) as caught:
        proxy(address=address)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "address", "around"),
    [
        ("vault.svc", "https://vault.svc:8200", True),
        ("svc", "https://vault.svc:8200", True),
        (".svc", "https://vault.svc:8200", True),
        (".svc", "https://Vault.SVC.:8200", True),
        ("svc", "https://vaultsvc:8200", False),
        ("vault.svc", "https://evil-vault.svc:8200", False),
        ("vault.svc", "https://vault.svc.example:8200", False),
        ("10.0.0.0/8", "https://10.1.2.3:8200", True),
        ("10.0.0.1/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://10.example", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("2001:db8::/32", "https://[2001:db8::1]:8200", True),
        ("2001:db8::/32", "https://10.1.2.3", False),
        ("0.0.0.0/0", "https://[2001:db8::1]", False),
        ("3", "https://10.1.2.3", False),
    ],
)
def test_an_entry_covers_names_by_label_and_addresses_by_range(entry: str, address: str, around: bool) -> None:
    assert proxy(no_proxy=[entry]).serves(address) is not around


@pytest.mark.parametrize("entry", ["", "*", "*.svc", "vault.svc:8200", "https://vault.svc", "10.0.0.0/33", "a b"])
def test_an_entry_of_another_form_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError):
        proxy(no_proxy=[entry])


@pytest.mark.parametrize("content", [b"", b"name", b":canary", b"name:", b"a\nb:canary", b"\xff:canary"])
def test_credentials_of_another_form_are_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "proxy"
    file.touch(mode=0o600)
    file.write_bytes(content)
    with pytest.raises(SourceUnavailableError, match="holds no name:password") as caught:
        read_proxy_login(Located("credentials_file", file), own=OwnVariables())
    assert "canary" not in caught.value.detail


def test_credentials_that_others_may_read_are_refused_by_the_name_of_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    file.write_text("name:canary")
    file.chmod(0o644)
    with pytest.raises(SourceUnavailableError, match=r"providers\.vault\.proxy\.credentials_file: mode 0644"):
        read_proxy_login(Located("credentials_file", file), own=OwnVariables())


def test_credentials_do_not_show_themselves(tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    file.touch(mode=0o600)
    file.write_text("name:ca:nary\n")
    login = read_proxy_login(Located("credentials_file", file), own=OwnVariables())
    assert (login.name, login.password.reveal().decode()) == ("name", "ca:nary")
    assert "nary" not in f"{login!r}{login}"
