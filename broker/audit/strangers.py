"""Refusals of those whom nobody knows: on record, and so few that no flood of them fills the trail.

Whoever reaches the port can be refused thousands of times a second, and a full disk stops a broker that reveals
nothing off the record. So the first refusals of one kind from one address are recorded each, and of those that
follow at once how many there were, minute by minute.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from broker.audit.event import AuditEvent, EventKind, EventSink
from broker.clock import Clock
from broker.errors import AuditUnavailableError
from broker.limits.token_bucket import TokenBucket

_SECONDS: Final = 60.0
# Enough for a fleet with a wrong certificate to be seen agent by agent where each has its address.
_EACH: Final = 10.0
_MAX_KNOWN: Final = 64

# What was refused, why, and from where; no address for those who are too many to be told apart.
_Key = tuple[EventKind, str, str]


@dataclass(slots=True)
class _Repeated:
    """Refusals of one kind from one address: the last that was only counted, and how many were."""

    bucket: TokenBucket
    last: AuditEvent | None = None
    count: int = 0


class Strangers:
    """Put refusals on record, each or by their number."""

    def __init__(self, *, trail: EventSink, clock: Clock) -> None:
        """Write to `trail`."""
        self._trail = trail
        self._clock = clock
        self._known: dict[_Key, _Repeated] = {}

    async def append(self, event: AuditEvent) -> None:
        """Return when `event`, which tells of a stranger, is durable or counted.

        Raises:
            AuditUnavailableError: It can't be put on record.

        """
        now = self._clock.monotonic()
        repeated = self._repeated(event, now)
        if repeated.bucket.take(now):
            repeated.last, repeated.count = event, repeated.count + 1
        else:
            await self._trail.append(event)

    async def keep(self) -> None:
        """Put the numbers on record once a minute, for ever, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(_SECONDS)
                await self.tell()
        finally:
            await self.tell()

    async def tell(self) -> None:
        """Put the numbers on record; what can't be written now is in the next ones."""
        for key, repeated in list(self._known.items()):
            if repeated.last is None or not repeated.count:
                continue
            count, repeated.count = repeated.count, 0
            details = {**repeated.last.details, "repeated": count}
            try:
                # No single address and no request: the record stands for all of them.
                await self._trail.append(replace(repeated.last, address=key[-1], request="", details=details))
            except AuditUnavailableError:
                repeated.count += count
                return
        now = self._clock.monotonic()
        # Who was not refused for a minute begins anew.
        self._known = {
            key: repeated
            for key, repeated in self._known.items()
            if repeated.count or now - repeated.bucket.at < _SECONDS
        }

    def _repeated(self, event: AuditEvent, now: float) -> _Repeated:
        key = (event.kind, event.reason, event.address)
        if key not in self._known and len(self._known) >= _MAX_KNOWN:
            key = (event.kind, event.reason, "")
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _Repeated(TokenBucket.full(burst=_EACH, per_second=1 / _SECONDS, now=now))
        return found
