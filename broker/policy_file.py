"""The policy in force, kept equal to its file: read again on SIGHUP and when the file changes.

A file that can't be used keeps the old policy, and says so in the log, in a metric and in the trail.
"""

import asyncio
import logging
from pathlib import Path
from typing import Protocol

from broker.audit.event import AuditEvent, EventKind, Outcome
from broker.clock import Clock
from broker.errors import AuditUnavailableError, DocumentInvalidError, PolicyInvalidError
from broker.metrics import Metrics
from broker.policy.current import CurrentPolicy
from broker.policy.engine import Policy, compile_policy

_LOG = logging.getLogger("broker.policy")


class EventSink(Protocol):
    """Where the outcome of a reload is recorded."""

    async def append(self, event: AuditEvent) -> None:
        """Return when `event` is durable."""
        ...


def load_policy(file: Path) -> Policy:
    """Return the compiled policy of `file`.

    Raises:
        PolicyInvalidError: The file can't be read or can't be used.

    """
    try:
        text = file.read_bytes()
    except OSError as error:
        message = f"{file}: {error.strerror}; name the policy with policy_file in the settings"
        raise PolicyInvalidError(message) from None
    try:
        return compile_policy(text)
    except DocumentInvalidError as error:
        message = f"{file}: {error.detail}"
        raise PolicyInvalidError(message, line=error.line, column=error.column) from None


class PolicyFile:
    """Watch one file and put what it says in force."""

    def __init__(
        self,
        *,
        file: Path,
        current: CurrentPolicy,
        trail: EventSink,
        metrics: Metrics,
        clock: Clock,
        seconds: float = 1.0,
    ) -> None:
        """Watch `file` every `seconds`; `current` already holds its policy."""
        self._file = file
        self._current = current
        self._trail = trail
        self._metrics = metrics
        self._clock = clock
        self._seconds = seconds
        self._seen: tuple[int, int, int] | None = None
        self._turn = asyncio.Lock()
        metrics.policy_reload(accepted=True, now=clock.now())

    async def watch(self) -> None:
        """Reload for ever, whenever the file is another one than at the last look.

        Polling sees what inotify does not: the swapped link of a Kubernetes volume, and a network file system.
        """
        self._seen = await asyncio.to_thread(self._stamp)
        while True:
            await asyncio.sleep(self._seconds)
            stamp = await asyncio.to_thread(self._stamp)
            if stamp != self._seen:
                await self.reload()

    async def reload(self) -> bool:
        """Put the file in force; return False and keep the old policy when it can't be used."""
        async with self._turn:
            self._seen = await asyncio.to_thread(self._stamp)
            before = self._current.current.digest
            try:
                policy = await asyncio.to_thread(load_policy, self._file)
            except PolicyInvalidError as error:
                where = f"line {error.line}, column {error.column}: " if error.line else ""
                _LOG.error("policy refused, the old one stays in force: %s%s", where, error.detail)
                self._metrics.policy_reload(accepted=False, now=self._clock.now())
                await self._record(Outcome.FAILURE, before=before, after="", reason=error.code)
                return False
            self._current.replace(policy)
            self._metrics.policy_reload(accepted=True, now=self._clock.now())
            _LOG.info("policy in force: %d rules, digest %s", policy.rule_count, policy.digest)
            await self._record(Outcome.SUCCESS, before=before, after=policy.digest, reason="")
            return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    async def _record(self, outcome: Outcome, *, before: str, after: str, reason: str) -> None:
        event = AuditEvent(
            kind=EventKind.POLICY, outcome=outcome, reason=reason, details={"before": before, "after": after}
        )
        try:
            await self._trail.append(event)
        except AuditUnavailableError:
            # Readiness is off already and nothing is revealed meanwhile; the policy itself must not wait for the disk.
            _LOG.error("the policy reload could not be recorded: the audit trail is unavailable")
