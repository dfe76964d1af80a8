"""Configuration that changes while the broker runs: read again on SIGHUP, and when its files change.

Everything is read and checked before anything is put in force. A part that can't be used keeps its old value,
and says so in the log, in a metric and in the trail; it holds up no other part.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from broker.audit.event import AuditEvent, EventKind, EventSink, Outcome
from broker.errors import AuditUnavailableError
from broker.logs import EventLogger
from broker.series.reloads import ReloadSeries

_LOG: Final = EventLogger("broker.reload")
RESTART_NEEDED: Final = "restart_needed"


class PartName(StrEnum):
    """What can be put in force anew: the closed set of a metric's label."""

    POLICY = "policy"
    CERTIFICATE = "certificate"
    CLIENT_TRUST = "client_trust"
    SETTINGS = "settings"
    WEBHOOK_KEYS = "webhook_keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A part that can be put in force.

    Attributes:
        part: Which one.
        apply: Puts it in force: only swaps references, and never fails.
        before: What tells the old value: a digest or the value.
        after: The same of the new value; equal to `before` when nothing has changed.
        kept: The settings that have changed and can't be put in force before a restart.

    """

    part: PartName
    apply: Callable[[], None]
    before: str
    after: str
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A part that keeps its old value.

    Attributes:
        part: Which one.
        code: Why, as a stable code.
        detail: Why, in words.
        in_force: What tells the value that it keeps, as `Accepted.before`; empty where nothing short does.

    """

    part: PartName
    code: str
    detail: str
    in_force: str = ""


class Part(Protocol):
    """One source of configuration."""

    @property
    def name(self) -> PartName:
        """Return what a bug in `read` is told under."""
        ...

    @property
    def watched(self) -> Sequence[Path]:
        """Return the files whose change means a reload."""
        ...

    def read(self) -> Sequence[Accepted | Refused]:
        """Read and check everything, and change nothing. Blocks."""
        ...


_Stamp = tuple[tuple[int, int, int] | None, ...]


class Reloader:
    """Keep the parts equal to their files."""

    def __init__(self, *, parts: Sequence[Part], trail: EventSink, metrics: ReloadSeries, seconds: float = 1.0) -> None:
        """Look at the files of `parts` every `seconds`; what they say now is in force already."""
        self._parts = parts
        self._trail = trail
        self._metrics = metrics
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._in_force: list[_Stamp] = [() for _ in parts]

    async def watch(self) -> None:
        """Reload for ever, each part whose files are others than those last read.

        Polling sees what inotify does not: the swapped link of a Kubernetes volume, and a network file system.
        A change counts when it has stood still for one look, so that a certificate and its key, or a large
        file, are not read half written.
        """
        self._in_force = last = await asyncio.to_thread(self._stamps)
        while True:
            await asyncio.sleep(self._seconds)
            stamps = await asyncio.to_thread(self._stamps)
            changed = [
                part
                for part, stamp, before, known in zip(self._parts, stamps, last, self._in_force, strict=True)
                if stamp == before != known
            ]
            last = stamps
            if changed:
                async with self._turn:
                    await self._reload(changed)

    async def reload(self) -> bool:
        """Read every part again; return whether all of them are in force as their files stand."""
        async with self._turn:
            return await self._reload(self._parts)

    async def _reload(self, parts: Sequence[Part]) -> bool:
        stamps = await asyncio.to_thread(self._stamps)
        outcomes = await asyncio.to_thread(lambda: [outcome for part in parts for outcome in _read(part)])
        for index, part in enumerate(self._parts):
            if part in parts:
                self._in_force[index] = stamps[index]
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                outcome.apply()
        for outcome in outcomes:
            await self._tell(outcome)
        return all(isinstance(outcome, Accepted) and not outcome.kept for outcome in outcomes)

    async def _tell(self, outcome: Accepted | Refused) -> None:
        match outcome:
            case Refused(part=part, code=code, detail=detail, in_force=in_force):
                _LOG.error("reload_refused", part=part, code=code, reason=detail, effect="the old one stays in force")
                self._metrics.reload(part=part, outcome="refused")
                details = {"in_force": in_force} if in_force else {}
                await self._record(part, Outcome.FAILURE, reason=code, details=details)
            case Accepted(part=part, kept=(_, *_) as kept):
                names = ", ".join(kept)
                _LOG.warning(RESTART_NEEDED, part=part, kept=names)
                self._metrics.reload(part=part, outcome=RESTART_NEEDED)
                details = {"before": outcome.before, "after": outcome.after, "kept": names}
                await self._record(part, Outcome.FAILURE, reason=RESTART_NEEDED, details=details)
            case Accepted(part=part, before=before, after=after):
                self._metrics.reload(part=part, outcome="accepted")
                if before == after:
                    _LOG.info("unchanged", part=part)
                    return
                _LOG.info("in_force", part=part, before=before, after=after)
                await self._record(part, Outcome.SUCCESS, reason="", details={"before": before, "after": after})

    async def _record(self, part: PartName, outcome: Outcome, *, reason: str, details: dict[str, str]) -> None:
        kind = EventKind.POLICY if part is PartName.POLICY else EventKind.CONFIGURATION
        event = AuditEvent(kind=kind, outcome=outcome, reason=reason, details={"part": part.value, **details})
        try:
            await self._trail.append(event)
        except AuditUnavailableError:
            # Readiness is off already and nothing is revealed meanwhile; a revocation must not wait for the disk.
            _LOG.error("reload_not_recorded", part=part, reason="the audit trail is unavailable")

    def _stamps(self) -> list[_Stamp]:
        return [tuple(_stamp(file) for file in part.watched) for part in self._parts]


def _read(part: Part) -> Sequence[Accepted | Refused]:
    try:
        return part.read()
    except Exception as error:  # noqa: BLE001  A bug in reading one part must not end the watch over all of them.
        detail = f"the broker met a bug while it read this: {type(error).__name__}"
        return [Refused(part=part.name, code="internal", detail=detail)]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
