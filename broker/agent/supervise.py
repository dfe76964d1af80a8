"""`broker exec --watch`: run the command as a child, and restart or signal it when one of its secrets has changed."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from broker.agent.answer import Answer
from broker.agent.client import BrokerClient
from broker.agent.refusal import say
from broker.errors import BrokerError

RESTART: Final = "restart"
SIGNALS: Final = ("HUP", "USR1", "USR2")
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_POLL_SECONDS: Final = 0.1
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What a change does.

    Attributes:
        action: `restart`, or the name of a signal without `SIG`.
        splay_seconds: A random part of it passes before, so that a fleet does not act together.
        grace_seconds: Time between SIGTERM and SIGKILL of a restart.

    """

    action: str
    splay_seconds: float
    grace_seconds: float


class ChangeWatcher(threading.Thread):
    """Follow the broker's stream for ever, and set `changed` when a reference has another version."""

    def __init__(self, *, connect: Callable[[], BrokerClient], answers: Sequence[Answer], texts: Sequence[str]) -> None:
        """Watch `texts`, of which `answers` are held; `connect` reads the certificate anew each time."""
        super().__init__(name="watch", daemon=True)
        self.changed = threading.Event()
        self._connect = connect
        self._texts = list(texts)
        self._lock = threading.Lock()
        self._versions: dict[str, str] = {}
        self.hold(answers)

    def hold(self, answers: Sequence[Answer]) -> None:
        """Take the versions and leases of `answers` for what the command has now."""
        pairs = zip(self._texts, answers, strict=True)
        names = ((text, answer.version or answer.lease) for text, answer in pairs)
        with self._lock:
            self._versions = {text: name for text, name in names if name is not None}

    def run(self) -> None:
        """Follow, and come back after growing pauses."""
        pause, last = _FIRST_PAUSE, ""
        while True:
            began = time.monotonic()
            try:
                with self._lock:
                    versions = dict(self._versions)
                for name, position, data in self._connect().watch(self._texts, versions=versions, after=last):
                    last = position or last
                    if name == "change" and self._is_news(data):
                        self.changed.set()
            except BrokerError as error:
                say(error)
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            # Full jitter: a broker that comes back is not met by its whole fleet at once.
            time.sleep(random.uniform(0, pause))  # noqa: S311  A pause is no secret.
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_news(self, change: Mapping[str, object]) -> bool:
        with self._lock:
            held = self._versions.get(str(change.get("reference")))
        return held is None or change.get("version") != held


class Supervisor:
    """One child at a time."""

    def __init__(
        self,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        reaction: Reaction,
        watcher: ChangeWatcher,
        resolve: Callable[[], tuple[Mapping[str, str], Sequence[Answer]]],
    ) -> None:
        """Prepare; `resolve` returns a new environment, and the answers that it was made of."""
        self._command = command
        self._environment = environment
        self._reaction = reaction
        self._watcher = watcher
        self._resolve = resolve
        self._child: subprocess.Popen[bytes] | None = None
        self._ending = False

    def run(self) -> int:
        """Run the command until it ends by itself, and return its exit status.

        Raises:
            OSError: The command can't be run.

        """
        # Before the command is started: a signal in between would end this process alone.
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        self._start()
        self._watcher.start()
        while True:
            child = self._child
            if child is None:
                return 0
            status = child.poll()
            if status is not None:
                return status if status >= 0 else 128 - status
            if not self._ending and self._watcher.changed.wait(_POLL_SECONDS):
                self._react(child)
            elif self._ending:
                time.sleep(_POLL_SECONDS)

    def _start(self) -> None:
        self._child = subprocess.Popen(self._command, env=dict(self._environment))  # noqa: S603  The caller's command.
        if self._ending:
            # The signal came when there was nobody to pass it on to.
            self._child.terminate()

    def _react(self, child: "subprocess.Popen[bytes]") -> None:
        # What changes meanwhile is covered by the one reading after it.
        wait = random.uniform(0, self._reaction.splay_seconds)  # noqa: S311  A pause is no secret.
        if _ends_within(child, wait) or self._ending:
            return
        self._watcher.changed.clear()
        try:
            environment, answers = self._resolve()
        except BrokerError as error:
            # The command goes on with what it has.
            say(error)
            self._watcher.changed.set()
            _ends_within(child, _FIRST_PAUSE + wait)
            return
        self._watcher.hold(answers)
        if environment == self._environment:
            # A lease that should be replaced is told again and again while nothing can take its place.
            return
        self._environment = environment
        if self._reaction.action == RESTART:
            print("broker: a secret has changed; the command is restarted", file=sys.stderr)
            self._end(child)
            if not self._ending:
                self._start()
        else:
            print(f"broker: a secret has changed; the command gets SIG{self._reaction.action}", file=sys.stderr)
            child.send_signal(signal.Signals[f"SIG{self._reaction.action}"])

    def _end(self, child: "subprocess.Popen[bytes]") -> None:
        child.terminate()
        if not _ends_within(child, self._reaction.grace_seconds):
            child.kill()
            child.wait()

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if number in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}:
            self._ending = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def _ends_within(child: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
