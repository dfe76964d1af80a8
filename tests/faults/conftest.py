"""The surroundings of the fault matrix."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.faults.record import StoreRecord
from tests.faults.scene import Scene
from tests.faults.setting import fill
from tests.faults.stage import row_of, staged
from tests.openbao import OpenBao, own_openbao

__all__ = ["own_openbao"]


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let readiness look at the store each second, so that the matrix takes minutes and not hours."""
    monkeypatch.setattr("broker.readiness._PING_SECONDS", 1.0)


@asynccontextmanager
async def before(
    request: pytest.FixtureRequest,
    directory: Path,
    *,
    store_is: Mapping[str, Any] = MappingProxyType({}),
    prepare: Callable[[OpenBao], None] = lambda _store: None,
    audit_log: Path | None = None,
    **scene: Any,
) -> AsyncIterator[Scene]:
    """Yield a scene before a store of its own, once that is filled and `prepare` has done what it does.

    `audit_log` is where the test keeps the store's audit log, where that is no plain file.
    """
    store_is = {"audit": directory / "audit.log", **store_is}
    store = await asyncio.to_thread(OpenBao, directory / "openbao", **store_is)
    try:
        if store.durable:
            await asyncio.to_thread(store.mount, "secret", "kv", {"version": "2"})
        await asyncio.to_thread(fill, store, directory)
        await asyncio.to_thread(prepare, store)
        record = StoreRecord(store, audit_log=audit_log)
        async with staged(row_of(request), store, directory, record=record, **scene) as it:
            yield it
    finally:
        await asyncio.to_thread(store.close)


@pytest.fixture
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a broker under load before a store in memory, which forgets everything when it ends."""
    async with before(request, tmp_path) as it:
        yield it


@pytest.fixture
async def durable_scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a broker under load before a store that keeps its data and comes back sealed."""
    async with before(request, tmp_path, store_is={"durable": True}) as it:
        yield it


@pytest.fixture
async def tls_scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a broker under load that speaks TLS with what is before its store."""
    async with before(request, tmp_path, over_tls=True) as it:
        yield it


@pytest.fixture
async def lockout_scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a broker under load before a store that locks a role out after five failed logins."""
    async with before(request, tmp_path, store_is={"lockout": True}) as it:
        yield it


@pytest.fixture
async def named_scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a broker under load that knows its store by a name."""
    async with before(request, tmp_path, host="localhost", dns_seconds=0.1) as it:
        yield it
