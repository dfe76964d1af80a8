"""How the contract suite makes a provider's back end do what a case needs.

One harness a provider: `EnvHarness` and `FileHarness` stand here, others in `SCHEME_harness.py` beside. To add one,
implement `ProviderHarness`, list it in `HARNESSES` of `test_provider_contract.py`, and state there which cases its back
end can't show.
"""

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, Self

from prometheus_client import CollectorRegistry

from broker.clock import SystemClock
from broker.key_file import read_private
from broker.metrics import Metrics
from broker.providers.base import Provider, ProviderTools
from broker.providers.env import EnvProvider, EnvSettings
from broker.providers.file.beneath import Visit, open_beneath
from broker.providers.file.provider import FileProvider
from broker.providers.file.settings import FileSettings
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import VaultSettings
from broker.reference import Reference, parse
from tests.openbao import OpenBao

MEBIBYTE = 1_048_576
# The limit of a value in every contract test; a store's names of fields may count beside the value's own bytes.
LIMIT = MEBIBYTE + 64


def tools(*, limit: int = LIMIT) -> ProviderTools:
    """Return what the composition root would hand to a provider."""
    metrics = Metrics(registry=CollectorRegistry(), version="0")
    return ProviderTools(clock=SystemClock(), observer=metrics, max_value_bytes=limit)


class ProviderHarness(Protocol):
    """One provider, built as the registry builds it, on a back end that a test can change.

    The suite constructs it with an empty directory of its own and enters it once:

        async with SomeHarness(directory) as harness:
            reference = await harness.put(b"value")
            reading = await harness.provider.fetch(reference.source)
            reading.document.select(reference.pointer)

    `__aenter__` may start a real server (use `asyncio.to_thread` for what blocks) and builds the provider with
    `tools()`; `__aexit__` closes the provider and ends the server, also when a test left it stopped or killed.
    A harness knows no assertion: each method only brings its back end into a state. What a back end can't show is
    never skipped in a test: the harness names the case in `inapplicable` with the reason, the suite has a list of
    what it expects to find there, and such a method is never called (let it raise NotImplementedError).
    """

    # Name of a case -> why this back end can't show it. Cases: value, missing, denied, empty, binary, mebibyte,
    # oversized, slow, cancelled, unavailable, changed, many, closed, canary.
    inapplicable: Mapping[str, str]

    def __init__(self, directory: Path) -> None:
        """Keep an empty, private directory; do nothing that blocks."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    @property
    def provider(self) -> Provider:
        """Return the provider in force; ask after each preparation, because it may have been built anew."""
        ...

    async def put(self, value: bytes) -> Reference:
        """Store `value` and return the reference that selects exactly it; a second call replaces the first value."""
        ...

    async def remove(self) -> Reference:
        """Return a reference that may be read and whose source is not there; the back end is well."""
        ...

    async def make_empty(self) -> Reference:
        """Return a reference whose source is there and holds nothing."""
        ...

    async def make_denied(self) -> Reference:
        """Return a reference that the back end itself (or the provider's settings) refuses; something is there."""
        ...

    async def make_slow(self, value: bytes) -> Reference:
        """Store `value`; let every read of it hang from now on, until `release`."""
        ...

    async def release(self) -> None:
        """Let the reads that `make_slow` holds, and all later ones, go on."""
        ...

    async def make_unavailable(self) -> None:
        """Take the back end away, so that neither a read nor a ping can succeed."""
        ...

    async def heal(self) -> None:
        """Bring the back end of `make_unavailable` back, with what was put before."""
        ...


class Gate:
    """Holds threads back while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait(self) -> None:
        if not self._open.wait(timeout=30):
            raise TimeoutError


class GatedHarness(ABC):
    """What has the machine for its back end: reads pass a gate, which makes them slow while it is shut."""

    inapplicable: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self._gate = Gate()
        self._provider: Provider | None = None

    async def __aexit__(self, *_: object) -> None:
        self._gate.open()
        await self.provider.aclose()

    @property
    def provider(self) -> Provider:
        assert self._provider is not None
        return self._provider

    @abstractmethod
    async def put(self, value: bytes) -> Reference:
        """Return a reference whose value is `value`."""

    async def make_empty(self) -> Reference:
        return await self.put(b"")

    async def make_slow(self, value: bytes) -> Reference:
        reference = await self.put(value)
        self._gate.shut()
        return reference

    async def release(self) -> None:
        self._gate.open()


class EnvHarness(GatedHarness):
    """Text comes from a `.env` file; what is no text comes from the environment itself, by a new provider."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._file = directory / "agents.env"

    async def __aenter__(self) -> Self:
        self._write(b"")
        await asyncio.to_thread(self._build)
        return self

    async def put(self, value: bytes) -> Reference:
        reference = parse("env:CONTRACT_VALUE")
        if _is_line(value):
            self._write(b"CONTRACT_VALUE='" + value + b"'\n")
            return reference
        self._write(b"")
        os.environb[b"CONTRACT_VALUE"] = value
        await self.provider.aclose()
        await asyncio.to_thread(self._build)
        return reference

    async def remove(self) -> Reference:
        return parse("env:CONTRACT_UNSET")

    async def make_denied(self) -> Reference:
        return parse("env:HOME")

    async def make_unavailable(self) -> None:
        self._file.rename(self._file.with_suffix(".away"))

    async def heal(self) -> None:
        self._file.with_suffix(".away").rename(self._file)

    def _build(self) -> None:
        settings = EnvSettings(names=("CONTRACT_VALUE", "CONTRACT_UNSET"), env_files=(self._file,))
        self._provider = EnvProvider(settings=settings, tools=tools(), reader=self._read)

    def _read(self, file: Path) -> bytes:
        self._gate.wait()
        return read_private(file)

    def _write(self, text: bytes) -> None:
        self._file.touch(mode=0o600)
        self._file.write_bytes(text)


def _is_line(value: bytes) -> bool:
    try:
        return not set("'\r\n\0") & set(value.decode())
    except UnicodeDecodeError:
        return False


class FileHarness(GatedHarness):
    """One private root with one file in it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._root = directory / "root"
        self._outside = directory / "outside"

    async def __aenter__(self) -> Self:
        self._root.mkdir(mode=0o700)
        settings = FileSettings.model_validate({"roots": [{"path": str(self._root)}]})
        self._provider = FileProvider(settings=settings, tools=tools(), opener=self._open)
        return self

    async def put(self, value: bytes) -> Reference:
        file = self._root / "value"
        file.touch(mode=0o600)
        file.write_bytes(value)
        return parse(f"file:{file}")

    async def remove(self) -> Reference:
        return parse(f"file:{self._root}/nothing")

    async def make_denied(self) -> Reference:
        self._outside.touch(mode=0o600)
        (self._root / "way-out").symlink_to("../outside")
        return parse(f"file:{self._root}/way-out")

    async def make_unavailable(self) -> None:
        self._root.rename(self._root.with_name("unmounted"))

    async def heal(self) -> None:
        self._root.with_name("unmounted").rename(self._root)

    def _open(self, root: int, path: str, visit: Visit) -> int:
        self._gate.wait()
        return open_beneath(root, path, visit)


class VaultHarness:
    """A real OpenBao that starts for the test, with a token that may read what is below `secret/contract`."""

    inapplicable: Mapping[str, str] = MappingProxyType(
        {
            "binary": "JSON holds no bytes; a KV secret holds base64 by convention, which decode=base64 takes apart",
            "empty": "a field that was written empty is a value of its store",
        }
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store: OpenBao | None = None
        self._provider: VaultProvider | None = None

    async def __aenter__(self) -> Self:
        self._store = await asyncio.to_thread(self._start)
        auth = {"token_file": self._directory / "token"}
        settings = {"address": self._store.address, "total_seconds": 20, "probe_seconds": 0.2, "auth": auth}
        self._provider = VaultProvider(settings=VaultSettings.model_validate(settings), tools=tools())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.provider.aclose()
        await asyncio.to_thread(self.store.close)

    @property
    def provider(self) -> Provider:
        assert self._provider is not None
        return self._provider

    @property
    def store(self) -> OpenBao:
        assert self._store is not None
        return self._store

    async def put(self, value: bytes) -> Reference:
        await asyncio.to_thread(self.store.put_secret, "contract/value", value=value.decode())
        return parse("vault:secret/contract/value#value")

    async def remove(self) -> Reference:
        return parse("vault:secret/contract/nothing#value")

    async def make_empty(self) -> Reference:
        raise NotImplementedError

    async def make_denied(self) -> Reference:
        await asyncio.to_thread(self.store.put_secret, "other/value", value="x")
        return parse("vault:secret/other/value#value")

    async def make_slow(self, value: bytes) -> Reference:
        reference = await self.put(value)
        await asyncio.to_thread(self._stop)
        return reference

    async def release(self) -> None:
        self.store.cont()

    async def make_unavailable(self) -> None:
        await asyncio.to_thread(self.store.seal)

    async def heal(self) -> None:
        await asyncio.to_thread(self.store.unseal)

    def _stop(self) -> None:
        self.store.stop()
        # The signal is on its way when the call returns, and each thread goes on until it arrives.
        threads = Path(f"/proc/{self.store.pid}/task")
        while any(_state(thread) != "T" for thread in threads.iterdir()):
            os.sched_yield()

    def _start(self) -> OpenBao:
        store = OpenBao(self._directory / "openbao")
        rules = 'path "secret/data/contract/*" { capabilities = ["read"] }'
        store.write("sys/policies/acl/contract", {"policy": rules})
        file = self._directory / "token"
        file.touch(mode=0o600)
        file.write_text(store.token("contract"))
        return store


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


HarnessFactory = Callable[[Path], ProviderHarness]
