"""How the contract suite makes a provider's back end do what a case needs."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry

from broker.cli.sandbox import Sandbox, sandbox, store_request
from broker.clock import SystemClock
from broker.metrics import Metrics
from broker.providers.base import Provider, ProviderTools
from broker.providers.env import EnvProvider, EnvSettings
from broker.providers.file import FileProvider, FileSettings
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import VaultSettings
from broker.reference import Source, parse

LIMIT = 1_048_576


def tools() -> ProviderTools:
    metrics = Metrics(registry=CollectorRegistry(), version="0")
    return ProviderTools(clock=SystemClock(), observer=metrics, max_value_bytes=LIMIT)


class Harness(Protocol):
    """One provider with a back end that a test can change. Its methods block: call them off the loop."""

    inapplicable: frozenset[str]  # Cases that this back end can't show, each with its reason beside it.
    pointer: tuple[str, ...]

    def provider(self) -> Provider: ...

    def put(self, value: bytes) -> Source: ...

    def missing(self) -> Source: ...

    def denied(self) -> Source: ...

    def break_it(self) -> None: ...


@dataclass
class EnvHarness:
    directory: Path
    # Variables can't go away as a whole, and what the process's owner declared nobody denies but the declaration.
    inapplicable: frozenset[str] = frozenset({"unavailable", "binary with NUL or line ends"})
    pointer: tuple[str, ...] = ()

    @property
    def _file(self) -> Path:
        return self.directory / "agents.env"

    def provider(self) -> Provider:
        self._write(b"")
        settings = EnvSettings(names=("CONTRACT_VALUE", "CONTRACT_UNSET"), env_files=(self._file,))
        return EnvProvider(settings=settings, tools=tools())

    def put(self, value: bytes) -> Source:
        self._write(b"CONTRACT_VALUE='" + value + b"'\n")
        return parse("env:CONTRACT_VALUE").source

    def missing(self) -> Source:
        return parse("env:CONTRACT_UNSET").source

    def denied(self) -> Source:
        return parse("env:HOME").source

    def break_it(self) -> None:
        raise NotImplementedError

    def _write(self, text: bytes) -> None:
        # A new file each time, so that the change shows within the resolution of its times.
        new = self.directory / "new.env"
        new.touch(mode=0o600)
        new.write_bytes(text)
        new.replace(self._file)


@dataclass
class FileHarness:
    directory: Path
    inapplicable: frozenset[str] = frozenset()
    pointer: tuple[str, ...] = ()
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.directory / "root"
        self.root.mkdir(mode=0o700)
        (self.directory / "outside").touch(mode=0o600)

    def provider(self) -> Provider:
        settings = FileSettings.model_validate({"roots": [{"path": str(self.root)}]})
        return FileProvider(settings=settings, tools=tools())

    def put(self, value: bytes) -> Source:
        file = self.root / "value"
        file.touch(mode=0o600)
        file.write_bytes(value)
        return parse(f"file:{file}").source

    def missing(self) -> Source:
        return parse(f"file:{self.root}/nothing").source

    def denied(self) -> Source:
        (self.root / "way-out").symlink_to("../outside")
        return parse(f"file:{self.root}/way-out").source

    def break_it(self) -> None:
        self.root.rename(self.directory / "unmounted")


@dataclass
class VaultHarness:
    place: Sandbox
    # JSON holds no bytes, so a KV secret is text; binary values are base64 there by convention (?decode=base64).
    inapplicable: frozenset[str] = frozenset({"binary", "binary with NUL or line ends", "empty"})
    pointer: tuple[str, ...] = ("api_key",)

    def provider(self) -> Provider:
        auth = {"role_id_file": self.place.directory / "role_id", "secret_id_file": self.place.directory / "secret_id"}
        settings = {"address": self.place.store_address, "total_seconds": 3, "auth": {"approle": auth}}
        return VaultProvider(settings=VaultSettings.model_validate(settings), tools=tools())

    def put(self, value: bytes) -> Source:
        body = {"data": {"api_key": value.decode()}}
        store_request(self.place.store_address, self.place.store_token, "POST", "secret/data/logflux", body)
        return parse("vault:secret/logflux#api_key").source

    def missing(self) -> Source:
        return parse("vault:secret/logflux?version=999#api_key").source

    def denied(self) -> Source:
        return parse("vault:secret/forbidden#x").source

    def break_it(self) -> None:
        self.place.store.kill()


@contextmanager
def _env(directory: Path) -> Iterator[Harness]:
    os.environ.pop("CONTRACT_VALUE", None)
    yield EnvHarness(directory)


@contextmanager
def _file(directory: Path) -> Iterator[Harness]:
    yield FileHarness(directory)


@contextmanager
def _vault(_directory: Path) -> Iterator[Harness]:
    with sandbox(fresh_for="5m") as place:
        yield VaultHarness(place)


# One harness a provider: a provider of the table without one fails the suite.
HARNESSES = {"env": _env, "file": _file, "vault": _vault}


@asynccontextmanager
async def opened(provider: Provider) -> AsyncIterator[Provider]:
    try:
        yield provider
    finally:
        await provider.aclose()
