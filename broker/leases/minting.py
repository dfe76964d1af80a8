"""Leases for those who ask: one for each source and identity, minted once however many ask at once."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from broker.cache.remembered import Cached
from broker.clock import Clock
from broker.errors import (
    FetchError,
    LeaseLimitError,
    SecretMissingError,
    SourceUnavailableError,
    StateUnavailableError,
    UpstreamDeniedError,
)
from broker.leases.book import LeaseBook
from broker.leases.held import Asker, Held, LeaseKey
from broker.leases.minted import begun, end_of, filled, held_by
from broker.leases.record import LeaseReason, LeaseState
from broker.leases.settings import LeaseSettings
from broker.leases.standing import Standing
from broker.limits.fair_queue import FairQueues
from broker.logs import EventLogger
from broker.providers.base import Leasing, Parent, UnusableMintError
from broker.reference import Reference, Source
from broker.trace_context import untraced

_T = TypeVar("_T")
_LOG: Final = EventLogger("broker.leases")
# Nobody makes the broker ask a back end that has just failed more often than this.
_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
# How long a back end may take to finish what the broker does not wait for any more.
_SETTLED_SECONDS: Final = 30.0


class Minting:
    """Answer from a lease that lives, or mint one."""

    def __init__(
        self,
        *,
        book: LeaseBook,
        providers: Mapping[str, Leasing],
        clock: Clock,
        queues: FairQueues,
        standing: Standing,
        doubt: Callable[[Held], None],
        settings: LeaseSettings,
        mint_seconds: float = 30.0,
    ) -> None:
        """Mint by `providers`, by their schemes; a mint that takes longer than `mint_seconds` is given up.

        Each waits for its turn in `queues`, in the lane of its identity.
        `doubt` is told of leases that were not heard of for long, and finds out without holding anybody up.
        """
        self._queues = queues
        self._settings = settings
        self._standing = standing
        self._doubt = doubt
        self._book = book
        self._providers = providers
        self._clock = clock
        self._mint_seconds = mint_seconds
        self._flights: dict[LeaseKey, asyncio.Task[Held | Cached | FetchError]] = {}
        self._pauses: dict[LeaseKey, tuple[float, FetchError]] = {}
        # Those that are about to be counted among the leases of their identity.
        self._coming: set[LeaseKey] = set()
        # Until when, and why, nothing can be made durable.
        self._not_durable: tuple[float, StateUnavailableError] | None = None
        self._closed = False

    async def lookup(
        self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float
    ) -> Cached | None:
        """Return the answer from a lease that lives and need not be replaced, else None.

        One that was not heard of for `fresh_for` seconds is looked at behind.

        Raises:
            SourceUnavailableError: It was withdrawn meanwhile.
            StateUnavailableError: That this certificate gets it can't be made durable.

        """
        held = self._asked_for(source, asker, references, fresh_for=fresh_for)
        return None if held is None else await self._hand_out(held, asker)

    def watched(self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float) -> str | None:
        """Return the name of the lease of an asker who watches, "" when it should be replaced, None without one.

        Who watches asks for it, so that it is renewed. It is looked at as by `lookup`.
        """
        held = self._asked_for(source, asker, references, fresh_for=fresh_for)
        if held is not None:
            return held.record.id
        held = self._book.live(asker.key(source))
        return None if held is None or self._clock.monotonic() >= held.ends else ""

    async def get(self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float) -> Cached:
        """Return the answer from the lease of this asker, which is minted when there is none that will do.

        Raises:
            FetchError: As `Leasing.mint`.
            StateUnavailableError: What is minted can't be made durable, so nothing is.
            AuditUnavailableError: It can't be put on record.

        """
        references = tuple(references)
        known = await self.lookup(source, asker, references, fresh_for=fresh_for)
        if known is not None:
            return known
        key = asker.key(source)
        pause = self._pauses.get(key)
        if pause is None or self._clock.monotonic() >= pause[0]:
            outcome = await self._join(key, asker, references)
        else:
            outcome = pause[1]
        if isinstance(outcome, Held):
            outcome.ask(asker, references, now=self._clock.monotonic())
            return await self._hand_out(outcome, asker, minted=True)
        if isinstance(outcome, Cached):
            return outcome
        return await self._old_or_error(key, asker, outcome)

    async def aclose(self, *, seconds: float) -> None:
        """Wait at most `seconds` for what is being minted, and mint nothing more."""
        self._closed = True
        flights = list(self._flights.values())
        if flights:
            _, late = await asyncio.wait(flights, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _asked_for(
        self, source: Source, asker: Asker, references: Iterable[Reference], *, fresh_for: float
    ) -> Held | None:
        """Return the lease that lives and need not be replaced, which is kept alive by that, else None."""
        held = self._book.live(asker.key(source))
        now = self._clock.monotonic()
        if held is None or now >= min(held.ends, held.replace_at):
            return None
        held.ask(asker, references, now=now)
        if held.is_doubtful(now, fresh_for=fresh_for):
            self._doubt(held)
        return held

    async def _hand_out(self, held: Held, asker: Asker, *, minted: bool = False) -> Cached:
        """Return the answer, once it is durable who has got it.

        Raises:
            SourceUnavailableError: It was withdrawn meanwhile.
            StateUnavailableError: It can't be made durable.

        """
        if await self._book.give(held, asker.peer) or minted:
            # The certificate may have been revoked since this request began, and when all leases were looked at for
            # that, this one was not made yet, or had not this holder.
            await self._standing.check(held)
        return held.answer()

    async def _old_or_error(self, key: LeaseKey, asker: Asker, error: FetchError) -> Cached:
        held = self._book.live(key)
        if held is not None and self._clock.monotonic() < held.ends:
            if isinstance(error, SourceUnavailableError):
                return await self._hand_out(held, asker)
            # The back end was asked about it and says no: what it gave before counts no more either.
            await self._book.withdraw(held, LeaseReason.DENIED)
        raise error.with_traceback(None)

    async def _join(self, key: LeaseKey, asker: Asker, references: tuple[Reference, ...]) -> Held | Cached | FetchError:
        if self._closed:
            return SourceUnavailableError("the broker is shutting down")
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(key, asker, references), context=untraced())
            self._flights[key] = flight
            flight.add_done_callback(lambda task: self._landed(key, task))
        await asyncio.wait({flight})
        if flight.cancelled():
            return SourceUnavailableError("the broker is shutting down")
        return flight.result()

    def _landed(self, key: LeaseKey, task: "asyncio.Task[Held | Cached | FetchError]") -> None:
        del self._flights[key]
        if not task.cancelled():
            # Every asker may have gone meanwhile.
            task.exception()

    async def _fly(self, key: LeaseKey, asker: Asker, references: tuple[Reference, ...]) -> Held | Cached | FetchError:
        self._drop_old_pauses()
        try:
            async with asyncio.timeout(self._mint_seconds) as limit, self._queues.turn(key.source.scheme, key.name):
                limit.reschedule(None)
                return await self._mint(key, asker, references)
        except TimeoutError:
            message = "more ask the source than it answers in time"
            return SourceUnavailableError(message, retry_after=_PAUSE_SECONDS)
        except LeaseLimitError as error:
            # Asked again at any time: it costs the back end nothing.
            return error
        except SourceUnavailableError as error:
            seconds = min(max(error.retry_after or 0.0, _PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            self._pauses[key] = (self._clock.monotonic() + seconds, error)
            return error
        except FetchError as error:
            self._pauses[key] = (self._clock.monotonic() + self._settings.refused_seconds, error)
            return error

    async def _begin(self, key: LeaseKey, asker: Asker) -> tuple[Held, Parent]:
        """Make durable that something is about to be minted, and return it with what it shall hang on."""
        now = self._clock.monotonic()
        if self._not_durable is not None and now < self._not_durable[0]:
            # Each try costs the back end what it would have hung on.
            raise self._not_durable[1].with_traceback(None)
        self._check_number(key)
        self._coming.add(key)
        try:
            parent = await self._in_time(self._providers[key.source.scheme].prepare(key.source))
            held = begun(key, parent, clock=self._clock)
            await self._book.begin(held, asker.peer)
        except StateUnavailableError as error:
            self._not_durable = (self._clock.monotonic() + _PAUSE_SECONDS, error)
            raise
        finally:
            self._coming.discard(key)
        return held, parent

    async def _mint(self, key: LeaseKey, asker: Asker, references: tuple[Reference, ...]) -> Held | Cached:
        held, parent = await self._begin(key, asker)
        leasing = self._providers[key.source.scheme]
        try:
            reading = await self._in_time(leasing.mint(key.source, parent))
        except UnusableMintError as error:
            held.record = held_by(held.record, error.lease)
            await self._abandon(held, error.reason)
            raise error.reason from None
        except FetchError as error:
            await self._abandon(held, error)
            raise
        now = self._clock.monotonic()
        ends = end_of(held, reading)
        if reading.lease is None and (ends is None or ends <= now):
            # Nothing that lives on: an answer for one request.
            await self._book.forget(held)
            at = held.record.created
            return Cached(reading=reading, fetched_at=at, fresh_until=at, stale_until=at, stale=False)
        self._book.remind(held, filled(held, reading, now if ends is None else ends))
        held.ask(asker, references, now=now)
        try:
            await self._book.adopt(held, key)
        except BaseException:
            if self._book.live(key) is not held:
                await self._book.withdraw(held, LeaseReason.ABANDONED)
            raise
        return held

    def _check_number(self, key: LeaseKey) -> None:
        """Let nobody have more leases than one may; another in place of one is well. Raises: LeaseLimitError."""
        counted = {LeaseState.MINTING, LeaseState.LIVE}
        others = (held for held in self._book.of(key.kind, key.name) if held.key != key)
        coming = sum((other.kind, other.name) == (key.kind, key.name) for other in self._coming)
        if coming + sum(held.record.state in counted for held in others) >= self._settings.max_per_identity:
            message = (
                f"this identity has {self._settings.max_per_identity} leases already, as many as one may have; give "
                "back what it does not use (DELETE /v1/leases/ID), or raise leases.max_per_identity"
            )
            raise LeaseLimitError(message, retry_after=_LONGEST_PAUSE_SECONDS)

    async def _abandon(self, held: Held, error: FetchError) -> None:
        """Leave nothing behind of a mint that gave nothing."""
        self._book.events.count(held.record, "mint_failed")
        nothing = isinstance(error, SecretMissingError | UpstreamDeniedError)
        if held.record.handle:
            await self._book.withdraw(held, LeaseReason.ABANDONED)
        elif isinstance(error, SourceUnavailableError) and error.was_asked:
            # The back end may still be at it, and what it makes under a parent that has just ended outlives that.
            await self._book.withdraw(held, LeaseReason.ABANDONED, seconds=_SETTLED_SECONDS)
        elif held.record.parent and not nothing:
            await self._book.withdraw(held, LeaseReason.ABANDONED)
        else:
            await self._book.forget(held)

    async def _in_time(self, asked: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with asyncio.timeout(self._mint_seconds):
                return await asked
        except TimeoutError:
            message = "the source did not answer in time"
            raise SourceUnavailableError(message) from None

    def _drop_old_pauses(self) -> None:
        now = self._clock.monotonic()
        self._pauses = {key: pause for key, pause in self._pauses.items() if pause[0] > now}
