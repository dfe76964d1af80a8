"""The store can't write its own audit log: its health stays good, and it serves nobody."""

import asyncio
import fcntl
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.conftest import before
from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import STALE


class Pipe:
    """A pipe at the place of the audit log, with a reader that can pause; it holds one page when nobody reads.

    What the reader takes out is in `kept`.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.kept = path.with_name("audit.kept")
        # Open for both directions, so that it neither waits for a writer nor ever ends.
        self._end = os.open(path, os.O_RDWR)
        fcntl.fcntl(self._end, fcntl.F_SETPIPE_SZ, 4096)
        self._reads = threading.Event()
        self._reads.set()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self.kept.open("wb", buffering=0) as kept:
            while (data := os.read(self._end, 65_536)) != b"end":
                kept.write(data)
                self._reads.wait()

    def pause(self) -> None:
        self._reads.clear()

    def go_on(self) -> None:
        self._reads.set()

    def close(self) -> None:
        """Let the reader end; the store has to be gone."""
        self.go_on()
        os.write(self._end, b"end")
        self._thread.join()
        os.close(self._end)


@pytest.fixture
async def piped(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Scene, Pipe]]:
    pipe = Pipe(tmp_path / "audit")
    try:
        store_is = {"durable": True, "audit": tmp_path / "audit"}
        async with before(request, tmp_path, store_is=store_is, audit_log=pipe.kept) as scene:
            yield scene, pipe
    finally:
        pipe.close()


@pytest.fixture
async def audited(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Scene, Path]]:
    log = tmp_path / "audit.log"
    async with before(request, tmp_path, store_is={"durable": True, "audit": log}) as scene:
        yield scene, log


@fault(
    name="Audit device of the store blocked",
    made="the log is a pipe that nobody reads any more: every request hangs, health is good; read again later",
    agents=STALE,
    heals_within=20,
    unlogged="what the device can't write; it may come late, when it can",
)
async def test_a_blocked_audit_device(piped: tuple[Scene, Pipe]) -> None:
    scene, pipe = piped
    scene.begin()
    pipe.pause()
    await scene.serves_stale("in time")
    pipe.go_on()
    scene.ended()
    await scene.heals()


@fault(
    name="Audit device of the store full",
    made="the log becomes `/dev/full`: 500 to every request with a token, health is good; put back later",
    agents=STALE,
    heals_within=20,
    unlogged="the audit log has nothing of the time of the fault",
)
async def test_a_full_audit_device(audited: tuple[Scene, Path]) -> None:
    scene, log = audited
    kept = log.with_suffix(".kept")
    scene.begin()
    await asyncio.to_thread(log.rename, kept)
    await asyncio.to_thread(log.symlink_to, "/dev/full")
    os.kill(scene.store.pid, signal.SIGHUP)
    await scene.serves_stale("audit")
    await asyncio.to_thread(kept.replace, log)
    os.kill(scene.store.pid, signal.SIGHUP)
    scene.ended()
    await scene.heals()
