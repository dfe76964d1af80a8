"""What the broker tells the service manager that started it: sd_notify(3), in datagrams of our own.

Nothing here may stop the broker: a manager that can't be told is named once in the log. Only what matters at
the end is kept for later when the manager is slow; a word of the watchdog is replaced by the next one.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Final

from broker.logs import EventLogger

_LOG: Final = EventLogger("broker.systemd")
_ABSTRACT: Final = "@"
# One more is refused by the kernel: `sun_path` holds 108 bytes, the last of them a zero for a path.
_LONGEST_ADDRESS: Final = 107
_MOST_KEPT: Final = 64
_LONGEST_STATUS: Final = 500
_NO_ADDRESS: Final = "NOTIFY_SOCKET is neither an absolute path nor an abstract name, of at most 107 bytes"
_EFFECT: Final = "the broker runs on, and its unit (Type=notify) may end it by a time-out"


class ServiceManager:
    """The one who started this process, or nobody."""

    def __init__(
        self, *, address: str, watchdog_seconds: float | None = None, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Tell everything to the datagram socket `address`; nobody listens when it is empty.

        Args:
            address: A path, or `@` and the name of an abstract socket.
            watchdog_seconds: The longest silence before the manager restarts the broker, None for no limit.
            monotonic: CLOCK_MONOTONIC in nanoseconds.

        """
        self.watchdog_seconds = watchdog_seconds if address else None
        self._monotonic = monotonic
        self._kept: deque[bytes] = deque(maxlen=_MOST_KEPT)
        self._status = ""
        self._address = _socket_address(address)
        self._fault = _NO_ADDRESS if address and not self._address else ""
        self._warned = False
        # The event loop says all this, so a manager that reads slowly must not hold it up.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], *, pid: int) -> "ServiceManager":
        """Return who is named by NOTIFY_SOCKET, and take the variables away, so that no child speaks for us."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        meant_for = environment.pop("WATCHDOG_PID", str(pid))
        ours = bool(address and microseconds) and meant_for == str(pid)
        manager = cls(address=address, watchdog_seconds=_seconds(microseconds) if ours else None)
        if ours and manager.watchdog_seconds is None:
            manager._fault = "WATCHDOG_USEC is no number of microseconds, so no watchdog is fed"
        return manager

    def ready(self) -> None:
        """Say that the start, or a reload, is over."""
        self._say("READY=1")

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={self._monotonic() // 1000}")

    def stopping(self) -> None:
        """Say that the broker ends."""
        self._say("STOPPING=1")

    def status(self, words: str) -> None:
        """State in one line how the broker is; the same words are not said twice in a row."""
        line = "".join(character if character.isprintable() else " " for character in words)[:_LONGEST_STATUS]
        if line != self._status:
            self._status = line
            self._say(f"STATUS={line}")

    def alive(self) -> None:
        """Feed the watchdog, and say what is still kept."""
        self._flush()
        if self.watchdog_seconds and not self._kept:
            self._send(b"WATCHDOG=1")

    def close(self) -> None:
        """Say what is still kept, and nothing any more."""
        self._flush()
        self._address = b""
        self._socket.close()

    def _say(self, text: str) -> None:
        if self._fault:
            self._warn()
        if self._address:
            self._kept.append(text.encode())
            self._flush()

    def _flush(self) -> None:
        while self._kept and self._send(self._kept[0]):
            self._kept.popleft()

    def _send(self, message: bytes) -> bool:
        """Return False when the manager's queue is full, so that the message has to wait."""
        if not self._address:
            return True
        try:
            self._socket.sendto(message, self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            self._fault = f"NOTIFY_SOCKET can't be told: {error.strerror}"
            self._warn()
        return True

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("service_manager_not_told", reason=self._fault, effect=_EFFECT)


def _socket_address(written: str) -> bytes:
    """Return the address as the kernel takes it, nothing when it can be none."""
    # An abstract name begins with a zero byte, which the variable writes as @.
    name = os.fsencode("\0" + written[1:] if written.startswith(_ABSTRACT) else written)
    return name if written.startswith(("/", _ABSTRACT)) and len(name) <= _LONGEST_ADDRESS else b""


def _seconds(microseconds: str) -> float | None:
    number = microseconds.isascii() and microseconds.isdecimal()
    return (int(microseconds) / 1_000_000 or None) if number else None
