"""`broker serve`: run the broker until SIGTERM."""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Final

from broker.app import Service
from broker.cli.allocator import return_large_blocks
from broker.cli.undumpable import forbid_dumps
from broker.config import Settings
from broker.config_source import read_settings, settings_file
from broker.errors import BrokerError, SettingsInvalidError
from broker.logs import EventLogger, configure, error_fields, report_loop_error
from broker.systemd.activation import inherited_sockets
from broker.systemd.notify import ServiceManager

_LOG: Final = EventLogger("broker.serve")
# Without a watchdog, what the manager was too slow to take is said again after half of this.
_KEPT_SECONDS: Final = 2.0
_COLLECT_AFTER: Final = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file; LOGFLUX_CONFIG otherwise")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop, when the extra is installed")
    parser.epilog = (
        "SIGTERM and SIGINT finish the requests in flight and exit with 0; SIGHUP reads policy,\n"
        "certificates, revocation lists and the log level again. Under systemd it speaks sd_notify,\n"
        "feeds the watchdog, and takes listening sockets named `agents` and `operations`.\n\n"
        "example:\n  broker serve --config /etc/logflux-broker/broker.yaml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal ends it.

    Raises:
        SettingsInvalidError: A setting, a file that it names, or a socket that was handed over can't be used.
        PolicyInvalidError: The policy can't be used.
        AuditUnavailableError: The start can't be recorded.

    """
    forbid_dumps()
    return_large_blocks()
    # Until there is a loop that reloads on it, it waits; its default would end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    manager = ServiceManager.from_environment(os.environ, pid=os.getpid())
    try:
        settings = read_settings(arguments.config)
        configure_logging(settings)
        sockets = inherited_sockets(os.environ, pid=os.getpid())
        service = Service(settings=settings, settings_file=settings_file(arguments.config), inherited=sockets)
        # What exists now, modules above all, lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # A request makes hundreds of objects that live as long as it does, and hardly a cycle among them.
        gc.set_threshold(_COLLECT_AFTER)
        with asyncio.Runner(loop_factory=loop_factory(uvloop=arguments.uvloop)) as runner:
            runner.run(serve(service, manager))
    except BrokerError as error:
        manager.status(f"can't run: {error.detail}")
        raise
    finally:
        manager.close()
    return 0


async def serve(service: Service, manager: ServiceManager) -> None:
    """Run `service` until SIGTERM or SIGINT, reloading on SIGHUP, and tell `manager` how it is.

    It is called ready as soon as the broker answers and every dependency has been looked at. A store that is
    away makes the broker not ready and its status says so, but it must not keep it from starting: values of
    other sources, and the answer "unavailable", are better than a broker that its manager stops.

    Raises:
        AuditUnavailableError: The start can't be recorded.

    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_loop_error)
    ended = asyncio.Event()
    reload_asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, reload_asked.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    service.readiness.watch(lambda: manager.status(service.readiness.in_words))
    async with _running(_feed(manager)):
        try:
            await service.start()
            async with _running(reload_when(reload_asked, service.reload, manager)):
                await _first_of(ended.wait(), service.looked.wait())
                if not ended.is_set():
                    manager.ready()
                await ended.wait()
        finally:
            manager.stopping()
            await service.stop()


async def _feed(manager: ServiceManager) -> None:
    """Feed the watchdog from the event loop, so that a loop that hangs is a broker that is restarted."""
    seconds = (manager.watchdog_seconds or _KEPT_SECONDS) / 2
    while True:
        manager.alive()
        await asyncio.sleep(seconds)


async def reload_when(asked: asyncio.Event, reload: Callable[[], Awaitable[object]], manager: ServiceManager) -> None:
    """Reload whenever it was asked for; whatever is asked for during a reload is answered by one more."""
    while True:
        await asked.wait()
        asked.clear()
        manager.reloading()
        try:
            await reload()
        except Exception as error:  # noqa: BLE001  The broker serves on with what it has, and the next SIGHUP counts.
            _LOG.error("reload_failed", **error_fields(error))
        manager.ready()


async def _first_of(*waits: Coroutine[None, None, bool]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def _running(coroutine: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run `coroutine` beside the block, and end it with it."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def loop_factory(*, uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's loops when it is asked for, None for asyncio's own.

    Raises:
        SettingsInvalidError: It is asked for and not installed.

    """
    if not uvloop:
        return None
    try:
        import uvloop as module  # noqa: PLC0415  An optional extra, needed by nobody who does not ask for it.
    except ImportError:
        message = "--uvloop: is not installed here; pip install 'logflux-broker[uvloop]', or leave the flag out"
        raise SettingsInvalidError(message) from None
    return module.new_event_loop


def configure_logging(settings: Settings) -> None:
    """Log one line an event to standard output."""
    configure(level=settings.log_level, form=settings.log_format, stream=sys.stdout)
