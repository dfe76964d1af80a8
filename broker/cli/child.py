"""Child processes of `broker dev` and `broker demo`, which end with them, and free ports to run them at."""

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.errors import BrokerError

_START_SECONDS: Final = 20.0


class SandboxError(BrokerError):
    """Something that the surrounding needs is not there."""

    code = "sandbox_failed"


@dataclass(frozen=True, slots=True)
class Process:
    """A child process that ends with the block that started it."""

    handle: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.handle.kill()
        self.handle.wait()


@contextmanager
def process(
    command: list[str], *, log: Path, environment: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> Iterator[Process]:
    """Run a child with its output in `log`, and end it with the block."""
    with (
        log.open("wb") as output,
        # A session of its own: Ctrl-C reaches the parent alone, which ends the children in order.
        subprocess.Popen(  # noqa: S603  The command is built from the broker's own parts.
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            pass_fds=pass_fds,
        ) as handle,
    ):
        try:
            yield Process(handle, log)
        finally:
            handle.terminate()
            try:
                handle.wait(timeout=10)
            except subprocess.TimeoutExpired:
                handle.kill()


def free_port() -> int:
    """Return a TCP port of the loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, child: Process) -> None:
    """Return when `url` answers 200.

    Raises:
        SandboxError: The child ended, or does not answer in time.

    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.handle.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  The address is a literal http loopback one.
                return
        except OSError:
            time.sleep(0.05)
    tail = child.log.read_text(errors="replace")[-2000:]
    message = f"{Path(str(child.handle.args[0])).name} does not answer; its last words:\n{tail}"  # type: ignore[index]  # The command is always a list here.
    raise SandboxError(message)
