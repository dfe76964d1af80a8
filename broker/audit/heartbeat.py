"""Checkpoints as a heartbeat: a broker that runs signs one each period, so a missing one is a finding. Pure.

Each checkpoint carries the number of its beat in the run of the broker that signed it, and that run's steady
time, which no change of the wall clock moves. So a removed checkpoint leaves a hole in the numbers, and a
broker that was kept from signing leaves a hole in the time.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Final

# A busy machine may be late, and a checkpoint that could not be written is tried again within the period.
_GRACE_MS: Final = 15_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Which checkpoint of a run this is.

    Attributes:
        run: The run of the broker, 16 hex digits, new at each start.
        number: The checkpoint's number in that run, from 1.
        uptime_ms: Steady time since the run began.
        interval_ms: The time after which the broker promises the next one.

    """

    run: str
    number: int
    uptime_ms: int
    interval_ms: int

    @property
    def text(self) -> str:
        """Return the beat as a line of a note says it."""
        return f"{self.run} {self.number} {self.uptime_ms} {self.interval_ms}"

    @property
    def patience_ms(self) -> int:
        """Return the time after this one in which the next one has to come."""
        return self.interval_ms * 3 // 2 + _GRACE_MS

    @classmethod
    def parse(cls, text: str) -> "Heartbeat | None":
        """Return what `text` says, None when it is no beat."""
        match text.split(" "):
            case [run, *words] if len(words) == 3 and all(word.isascii() and word.isdecimal() for word in words):  # noqa: PLR2004  Number, uptime, interval.
                number, uptime_ms, interval_ms = (int(word[:19]) for word in words)
                return cls(run=run, number=number, uptime_ms=uptime_ms, interval_ms=interval_ms)
        return None


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat, and how many records the trail had."""

    size: int
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class Silence:
    """What is missing after the checkpoint that covers `size` records."""

    size: int
    detail: str


def silences(beats: Iterable[Beat], *, outages: Collection[int]) -> Iterator[Silence]:
    """Return where a run of the broker has no checkpoint and should have one.

    Args:
        beats: The beats of all checkpoints that verify, in any order.
        outages: The numbers of the records that say that nothing could be written before them.

    """
    by_run = sorted(beats, key=lambda beat: (beat.heartbeat.run, beat.heartbeat.number, beat.size))
    for _, group in groupby(by_run, key=attrgetter("heartbeat.run")):
        run = list(group)
        if run[0].heartbeat.number > 1:
            yield Silence(
                run[0].size, f"{_missing(run[0].heartbeat.number - 1)} before it, in the same run of the broker"
            )
        for before, after in pairwise(run):
            if silence := _between(before, after, outages):
                yield silence


def _between(before: Beat, after: Beat, outages: Collection[int]) -> Silence | None:
    missing = after.heartbeat.number - before.heartbeat.number - 1
    if missing > 0:
        return Silence(before.size, f"{_missing(missing)} after it, in the same run of the broker")
    silent_ms = after.heartbeat.uptime_ms - before.heartbeat.uptime_ms
    if silent_ms <= before.heartbeat.patience_ms or any(before.size < seq <= after.size for seq in outages):
        return None
    promised = before.heartbeat.interval_ms / 1000
    return Silence(
        before.size, f"none was signed for {silent_ms // 1000} s while the broker ran, {promised:g} s is the period"
    )


def _missing(count: int) -> str:
    return "1 checkpoint is missing" if count == 1 else f"{count} checkpoints are missing"
