"""`broker serve`: run the broker until SIGTERM."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from broker.app import Service
from broker.cli.undumpable import forbid_dumps
from broker.config import Settings, read_settings, settings_file
from broker.logs import configure, report_loop_error

HELP = "run the broker"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file; LOGFLUX_CONFIG otherwise")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop, when the extra is installed")
    parser.epilog = (
        "SIGTERM and SIGINT finish the requests in flight and exit with 0; SIGHUP reads policy,\n"
        "certificates, revocation lists and the log level again.\n\n"
        "example:\n  broker serve --config /etc/logflux/broker.yaml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal ends it.

    Raises:
        SettingsInvalidError: A setting, or a file that it names, can't be used.
        PolicyInvalidError: The policy can't be used.
        AuditUnavailableError: The start can't be recorded.

    """
    forbid_dumps()
    settings = read_settings(arguments.config)
    configure_logging(settings)
    service = Service(settings=settings, settings_file=settings_file(arguments.config))
    with asyncio.Runner(loop_factory=loop_factory(uvloop=arguments.uvloop)) as runner:
        runner.run(serve(service))
    return 0


async def serve(service: Service) -> None:
    """Run `service` until SIGTERM or SIGINT, reloading on SIGHUP.

    Raises:
        AuditUnavailableError: The start can't be recorded.

    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_loop_error)
    ended = asyncio.Event()
    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        task = loop.create_task(service.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await service.start()
        await ended.wait()
    finally:
        await service.stop()


def loop_factory(*, uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's loops when it is asked for and installed, else None."""
    if not uvloop:
        return None
    with contextlib.suppress(ImportError):
        import uvloop as module  # noqa: PLC0415  An optional extra, needed by nobody who does not ask for it.

        return module.new_event_loop
    return None


def configure_logging(settings: Settings) -> None:
    """Log one line an event to standard output."""
    configure(level=settings.log_level, form=settings.log_format, stream=sys.stdout)
