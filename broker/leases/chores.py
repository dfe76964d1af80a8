"""What is due to one lease: to be renewed, revoked, looked up, or let go of."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from broker.clock import Clock
from broker.errors import (
    FetchError,
    MalformedReferenceError,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    StateUnavailableError,
    UpstreamDeniedError,
)
from broker.leases.book import LeaseBook
from broker.leases.held import Held
from broker.leases.record import LeaseReason, LeaseRecord, LeaseState
from broker.logs import EventLogger
from broker.providers.base import Leasing
from broker.reference import parse

_LOG: Final = EventLogger("broker.leases")
_LONGEST_RETRY_SECONDS: Final = 300.0


class Chores:
    """Do at the back end what the record of a lease asks for, and note in the book what came of it."""

    def __init__(self, *, book: LeaseBook, providers: Mapping[str, Leasing], clock: Clock) -> None:
        """Keep the collaborators."""
        self._book = book
        self._providers = providers
        self._clock = clock

    async def do(self, held: Held) -> None:
        """Do what is due to `held` in the state that it is in."""
        match held.record.state:
            case LeaseState.LIVE:
                await self._look_after(held)
            case LeaseState.SUPERSEDED:
                if held.record.due is None:
                    await self._let_go(held)
                else:
                    await self._book.withdraw(held, held.record.reason)
            case LeaseState.REVOKING:
                await self._revoke(held)
            case LeaseState.MINTING:
                # Whoever mints it goes on with it.
                return

    async def look_up(self, held: Held) -> None:
        """Find out whether `held` still lives, and let go of it when it does not."""
        leasing = self._providers[held.record.provider]
        try:
            await leasing.look_up(held.record.grip)
        except SecretMissingError:
            if held.record.state is LeaseState.LIVE:
                await self._lose(held)
        except FetchError:
            # It lives as long as nobody says otherwise.
            return

    async def _lose(self, held: Held) -> None:
        """Let go of `held`, which the back end does not know any more, and end what it hung on."""
        if not held.record.parent:
            await self._book.forget(held, "lost")
            return
        # A namespace that is sealed knows none of its leases either; without its parent, none comes back with it.
        await self._book.withdraw(held, LeaseReason.LOST)
        await self._revoke(held)

    async def _let_go(self, held: Held) -> None:
        """Forget `held`, which nobody is given any more, unless it lives longer than the clocks said."""
        leasing = self._providers.get(held.record.provider)
        left = 0.0
        try:
            if leasing is not None and held.record.handle:
                left = await leasing.look_up(held.record.grip)
        except SourceUnavailableError:
            held.attempts += 1
            self._book.remind(held, self._clock.monotonic() + 1.0 + _pause(held.attempts))
            return
        except FetchError:
            # It is gone, or nobody can tell.
            left = 0.0
        if held.record.state is not LeaseState.SUPERSEDED or held.record.due is not None:
            # Withdrawn or replaced meanwhile: what is due to it now is known already.
            return
        if 0 < left < math.inf:
            self._book.remind(held, self._clock.monotonic() + left + 1.0)
        else:
            await self._book.forget(held)

    async def _look_after(self, held: Held) -> None:
        now = self._clock.monotonic()
        if now >= held.ends and held.attempts:
            # The back end may have heard of a renewal whose answer was lost.
            await self._book.withdraw(held, LeaseReason.ENDED)
        elif now >= held.ends:
            await self._book.forget(held, "ended")
        elif held.lives_on_request and held.was_asked_lately(now):
            await self._renew(held)
        elif held.lives_on_request:
            # Somebody may still ask.
            self._book.remind(held, min(held.ends, now + max(1.0, (held.ends - now) / 4)))
        else:
            self._book.remind(held, held.ends)

    async def _renew(self, held: Held) -> None:
        began, wall = self._clock.monotonic(), self._clock.now()
        leasing = self._providers[held.record.provider]
        await self._book.announce(held, expires=wall + held.seconds)
        # One that was withdrawn meanwhile is to be revoked, and nothing that becomes of its renewal puts that off.
        try:
            extension = await leasing.renew(held.record.grip, seconds=held.seconds)
        except SecretMissingError:
            await self._lose(held)
        except FetchError as error:
            self._book.events.count(held.record, "renew_failed")
            if held.record.state is LeaseState.LIVE:
                self._not_renewed(held, error, began=began)
        else:
            if held.record.state is LeaseState.LIVE:
                held.attempts = 0
                ends = began + extension.seconds
                held.record = replace(held.record, expires=wall + extension.seconds)
                self._book.remind(held, held.lives_until(ends, from_=began, last=extension.capped))
                await self._book.extend(held)

    def _not_renewed(self, held: Held, error: FetchError, *, began: float) -> None:
        if isinstance(error, UpstreamDeniedError):
            # The next one who asks gets another lease while this one ends by itself.
            _LOG.warning("store_rights_missing", path="sys/leases/renew", capability="update")
            self._book.remind(held, held.lives_until(held.ends, from_=began, last=True))
            return
        held.attempts += 1
        pause = max(_pause(held.attempts), getattr(error, "retry_after", None) or 0.0)
        self._book.remind(held, min(began + pause, max(held.ends, began + 1.0)))

    async def _recognise(self, held: Held, leasing: Leasing) -> None:
        """Find what a mint without an answer has made. Raises: SourceUnavailableError, StateUnavailableError."""
        record = held.record
        known = {other.record.handle for other in self._book.all()}
        try:
            found = await leasing.left_behind(parse(record.source).source, created=record.created, known=known)
        except (UpstreamDeniedError, SecretUnusableError) as error:
            said = "" if error.words is None else error.words.said
            _LOG.warning("lease_not_looked_for", lease=record.id, reason=error.detail, said=said)
            found = ()
        except MalformedReferenceError as error:
            _LOG.warning("lease_not_looked_for", lease=record.id, reason=error.detail)
            found = ()
        if found:
            # Two that were cut off find the same; what is revoked twice is revoked.
            await self._book.recognise(held, found)
        elif not record.parent:
            _LOG.warning("lease_unknown", lease=record.id, effect="if it was made, it ends with its time to live")

    async def _revoke(self, held: Held) -> None:
        record = held.record
        leasing = self._providers.get(record.provider)
        try:
            if leasing is not None and record.reason is LeaseReason.ABANDONED and not record.handle:
                await self._recognise(held, leasing)
                record = held.record
            if leasing is not None and record.can_be_revoked:
                await leasing.revoke(record.grip)
        except StateUnavailableError as error:
            _LOG.error("lease_not_kept", lease=record.id, reason=error.detail)
            held.attempts += 1
            self._book.remind(held, self._clock.monotonic() + _pause(held.attempts))
        except FetchError as error:
            self._book.events.count(held.record, "revoke_failed")
            if isinstance(error, UpstreamDeniedError) and record.expires < self._clock.now():
                await self._book.forget(held, "ended")
                return
            if not held.attempts:
                said = "" if error.words is None else error.words.said
                _LOG.warning(
                    "lease_not_revoked", lease=record.id, reason=error.detail, said=said, effect="it is tried again"
                )
            if isinstance(error, UpstreamDeniedError) and not isinstance(held.failure, UpstreamDeniedError):
                await self._book.events.tell_denied(record, error)
            held.failure = error
            held.attempts += 1
            self._book.remind(held, self._clock.monotonic() + _pause(held.attempts))
            await self._book.keep_withdrawn(held)
        else:
            await self._book.forget(held, _gone(record, is_revoked=leasing is not None and record.can_be_revoked))


def _gone(record: LeaseRecord, *, is_revoked: bool) -> str:
    """Return the event that tells how a withdrawn lease went; none of what was perhaps never made."""
    if is_revoked:
        return "lost" if record.reason is LeaseReason.LOST else "revoked"
    return "" if record.reason is LeaseReason.ABANDONED else "dropped"


def _pause(attempts: int) -> float:
    """Return the seconds before the next attempt: a random part of a bound that doubles."""
    bound = min(_LONGEST_RETRY_SECONDS, 2.0 ** min(attempts, 30))
    return random.uniform(0, bound)  # noqa: S311  A pause is no secret.
