"""Vault providers for tests, and what they were seen to do."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.limits.byte_budget import ByteBudget
from broker.providers.base import ProviderTools
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import VaultSettings
from tests.certificates import Files as Pair
from tests.certificates import TestAuthority
from tests.openbao import Files, OpenBao


class Seen:
    """The observer and the clock of a provider: keeps every request, and can be moved on."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.budgets: list[tuple[float, int]] = []
        self.refused = 0
        self.skews: list[float] = []
        self.alarms: list[str] = []
        self.is_away, self.shut = False, 0
        self.lowest = 0.0
        self.limits: list[bool] = []
        self._ahead = 0.0

    def upstream_request(self, *, provider: str, operation: str, outcome: str, seconds: float) -> None:
        assert provider == "vault"
        assert seconds >= 0
        self.requests.append((operation, outcome))

    def upstream_budget(self, *, provider: str, per_second: float, throttled: int, refused: int) -> None:
        assert provider == "vault"
        self.budgets.append((per_second, throttled))
        self.refused += refused

    def upstream_breaker(self, *, provider: str, is_open: bool, places: int) -> None:
        assert provider == "vault"
        self.is_away, self.shut = is_open, places

    def upstream_lowest_budget(self, *, provider: str, per_second: float) -> None:
        assert provider == "vault"
        self.lowest = per_second

    def upstream_limited(self, *, provider: str, named: bool) -> None:
        assert provider == "vault"
        self.limits.append(named)

    def clock_skew(self, *, provider: str, seconds: float) -> None:
        assert provider == "vault"
        self.skews.append(seconds)

    def upstream_alarm(self, *, provider: str, alarm: str) -> None:
        assert provider == "vault"
        self.alarms.append(alarm)

    def count(self, operation: str) -> int:
        return sum(1 for name, _ in self.requests if name == operation)

    def now(self) -> float:
        return time.time() + self._ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


def private(file: Path, text: str) -> Path:
    """Write a credential as its owner would, by replacing the file."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(file)
    return file


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(authority: TestAuthority) -> Pair:
    """The certificate of the store that speaks TLS."""
    return authority.server(dns=("localhost", "vault.behind"))


@pytest.fixture(scope="module")
def secure(server: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A store that speaks TLS, with the value `secure` in `vault:secret/way#v`."""
    it = OpenBao(tmp_path_factory.mktemp("bao"), tls=Files(server.certificate, server.key))
    it.mount("secret", "kv", {"version": "2"})
    it.put_secret("way", v="secure")
    yield it
    it.close()


@pytest.fixture(autouse=True)
async def closing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Close every provider of a test, also of one that failed, so that a failure shows itself alone."""
    made: list[VaultProvider] = []
    monkeypatch.setattr("tests.vaults._keep", made.append)
    yield
    for provider in made:
        await provider.aclose()


def _keep(provider: VaultProvider) -> None:
    """Do nothing where nobody closes."""


def provider_of(
    address: str | list[str],
    auth: dict[str, Any],
    *,
    seen: Seen | None = None,
    own: OwnVariables | None = None,
    answers: ByteBudget | None = None,
    **settings: Any,
) -> VaultProvider:
    seen = seen or Seen()
    provider = VaultProvider(
        settings=VaultSettings.model_validate(
            {
                "address" if isinstance(address, str) else "addresses": address,
                "auth": auth,
                "requests_per_second": 1000,
                **settings,
            }
        ),
        tools=ProviderTools(
            clock=seen,
            observer=seen,
            max_value_bytes=1_048_576,
            own=own or OwnVariables(),
            answers=answers or ByteBudget.unlimited(),
        ),
    )
    _keep(provider)
    return provider


def token_provider(
    store: OpenBao, directory: Path, token: str, *, seen: Seen | None = None, **settings: Any
) -> VaultProvider:
    """Return a provider that logs in by a token file."""
    file = private(directory / "token", token)
    return provider_of(store.address, {"token_file": str(file)}, seen=seen, **settings)


def approle_provider(
    store: OpenBao, directory: Path, role_id: str, secret_id: str, *, seen: Seen | None = None, **settings: Any
) -> VaultProvider:
    """Return a provider that logs in by AppRole."""
    file = private(directory / "secret_id", secret_id)
    auth = {"approle": {"role_id": role_id, "secret_id_file": str(file)}}
    return provider_of(store.address, auth, seen=seen, **settings)
