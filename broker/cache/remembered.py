"""What was read, with the clocks of those who may use it, and what they are told of it."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from broker.reference import Source
from broker.secret import Reading

Fetch = Callable[[Source], Awaitable[Reading]]


class Clocks(NamedTuple):
    """The two clocks of a policy, in seconds since the read began."""

    fresh_for: float
    gone_after: float

    @classmethod
    def of(cls, fresh_for: float, max_stale: float) -> "Clocks":
        """Return both; the second one counts from the read too, zero switches it off, and the first ends with it."""
        gone = max_stale if max_stale > 0 else fresh_for
        return cls(min(fresh_for, gone), gone)


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """What an asker is told of a lease: the broker's name of it, its end (wall seconds), whether it may live longer."""

    id: str
    expires_at: float
    renewable: bool


@dataclass(frozen=True, slots=True)
class Cached:
    """One reading with its clocks.

    Attributes:
        reading: What was read.
        fetched_at: Wall time at which the read began.
        fresh_until: Wall time of the end of the first clock.
        stale_until: Wall time of the end of the second clock; `fresh_until` when it is switched off.
        stale: The first clock has ended, and the source gave nothing newer.
        lease: What it is leased by; None when it is not.
        derived: What was made of it for one answer and serves the next one too; it goes when the reading goes.

    """

    reading: Reading
    fetched_at: float
    fresh_until: float
    stale_until: float
    stale: bool
    lease: LeaseFacts | None = None
    derived: dict[tuple[str, str], object] = field(default_factory=dict, repr=False, compare=False)


@dataclass(slots=True)
class Entry:
    """One reading in memory. Steady times are of `Clock.monotonic`.

    Attributes:
        reading: What was read.
        fetch: How it was read, for the next time.
        fetched_at: Wall time at which the read began.
        born: Steady time at which the read began.
        dies: Steady time at which the source itself says it is gone.
        clocks: Of those for whom it was read.
        early: The part of the fresh time after which a refresh may start, drawn for each entry; -1 when outdated.
        lasts_until: Steady end of the longest second clock that it was asked with.
        asked_age: Its age in seconds when somebody asked for it last; None when nobody has.
        retry_at: Steady time before which the source is not asked again.
        answered: The answer given last while it was fresh, with its clocks: nearly every look-up has the same ones.

    """

    reading: Reading
    fetch: Fetch
    fetched_at: float
    born: float
    dies: float
    clocks: Clocks
    early: float
    lasts_until: float
    asked_age: float | None = None
    retry_at: float = -math.inf
    answered: tuple[Clocks, Cached] | None = None

    @classmethod
    def restored(cls, reading: Reading, *, fetched_at: float, ends_at: float, born: float, fetch: Fetch) -> "Entry":
        """Return what an earlier run read, fresh to nobody; `fetched_at` and `ends_at` are wall times."""
        ends = born + ends_at - fetched_at
        entry = cls(
            reading=replace(reading, not_after=ends_at),
            fetch=fetch,
            fetched_at=fetched_at,
            born=born,
            dies=ends,
            clocks=Clocks(0.0, ends_at - fetched_at),
            early=1.0,
            lasts_until=ends,
        )
        entry.outdate()
        return entry

    @property
    def refresh_at(self) -> float:
        """Return the steady time from which it is read again if somebody asked; never when nothing is ever fresh."""
        max_age = self.reading.facts.max_age
        fresh_for = self.clocks.fresh_for if max_age is None else min(self.clocks.fresh_for, max_age)
        return self.born + fresh_for * self.early if fresh_for > 0 else math.inf

    @property
    def outdated(self) -> bool:
        """Tell whether somebody said that there is a newer one."""
        return self.early < 0

    def outdate(self) -> None:
        """Let it be fresh to nobody any more, and be read again whether somebody asked or not."""
        # The part of the fresh time that counts is what every look-up compares with, so that costs no look-up anything.
        self.early = -1.0

    def was_asked_lately(self, now: float) -> bool:
        """Tell whether somebody asked since it was read, within one fresh time before the steady time `now`."""
        return self.asked_age is not None and now - self.born - self.asked_age <= self.clocks.fresh_for

    def ask(self, clocks: Clocks, *, age: float) -> None:
        """Note that somebody asked at `age` seconds, and let it last as long as that one may use it."""
        self.asked_age = age
        self.lasts_until = max(self.lasts_until, min(self.dies, self.born + clocks.gone_after))

    def answer(self, clocks: Clocks) -> Cached:
        """Return the answer for somebody with `clocks`, to whom the reading is fresh."""
        if self.answered is None or self.answered[0] != clocks:
            self.answered = clocks, self.made(clocks, stale=False)
        return self.answered[1]

    def made(self, clocks: Clocks, *, stale: bool) -> Cached:
        """Return a new answer for somebody with `clocks`."""
        end = math.inf if self.reading.not_after is None else self.reading.not_after
        return Cached(
            reading=self.reading,
            fetched_at=self.fetched_at,
            fresh_until=min(end, self.fetched_at + clocks.fresh_for),
            stale_until=min(end, self.fetched_at + clocks.gone_after),
            stale=stale,
        )
