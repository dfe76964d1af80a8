"""What `broker serve` does with signals, apart from the service itself."""

import asyncio
import sys

import pytest

from broker.cli.serve import loop_factory, reload_when
from broker.errors import SettingsInvalidError
from broker.systemd.notify import ServiceManager
from tests.service_manager import notify_socket


async def test_whatever_is_asked_for_during_a_reload_is_answered_by_one_more() -> None:
    asked, may_end = asyncio.Event(), asyncio.Event()
    reloads = 0

    async def reload() -> bool:
        nonlocal reloads
        reloads += 1
        await may_end.wait()
        return True

    with notify_socket() as told:
        manager = ServiceManager(address=told.address)
        task = asyncio.create_task(reload_when(asked, reload, manager))
        for _ in range(1000):
            asked.set()
            await asyncio.sleep(0)
        assert reloads == 1
        may_end.set()
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        manager.close()
        assert reloads == 2
        said = [(await asyncio.to_thread(told.next, seconds=5) or "").split("\n")[0] for _ in range(4)]
    assert said == ["RELOADING=1", "READY=1", "RELOADING=1", "READY=1"]


async def test_a_reload_that_fails_is_logged_and_the_next_one_counts(caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Event()
    reloads = 0

    async def reload() -> bool:
        nonlocal reloads
        reloads += 1
        raise RuntimeError("hunter2")

    manager = ServiceManager(address="")
    task = asyncio.create_task(reload_when(asked, reload, manager))
    for _ in range(2):
        asked.set()
        for _ in range(5):
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    manager.close()
    assert reloads == 2
    assert caplog.text.count("reload_failed") == 2
    assert "hunter2" not in caplog.text


def test_uvloop_that_is_asked_for_and_not_installed_is_an_error_and_no_silent_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory(uvloop=False) is None
    with pytest.raises(SettingsInvalidError, match=r"logflux-broker\[uvloop\]"):
        loop_factory(uvloop=True)


def test_uvloop_is_used_when_it_is_asked_for() -> None:
    factory = loop_factory(uvloop=True)
    assert factory is not None
    loop = factory()
    loop.close()
    assert type(loop).__module__.startswith("uvloop")
