"""Whether a standby still has a leader: without one it answers reads from its own copy, with 200 and without end."""

from typing import Any, Final

from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.logs import EventLogger
from broker.providers.vault.exchange.answers import StoreAnswerError
from broker.providers.vault.own_token.login import StoreLogin

_LOG: Final = EventLogger("broker.providers.vault")
# A cluster in use moves its log all the time. When it has stood still for so long, a write finds out.
_QUIET_SECONDS: Final = 30.0


class LeaderWatch:
    """Follow a standby's leader, and stop believing the standby when it has lost it for too long."""

    def __init__(self, *, login: StoreLogin, clock: Clock, seconds: float) -> None:
        """Believe a standby without a leader for `seconds`."""
        self._login = login
        self._clock = clock
        self._seconds = seconds
        self._quiet_seconds = min(_QUIET_SECONDS, seconds / 2)
        self._index: object = None
        self._heard = float("-inf")
        self._lost_since: float | None = None

    def check(self) -> None:
        """Return when the node that answers is believed.

        Raises:
            SourceUnavailableError: It has been without a leader for too long.

        """
        if self._lost_since is not None and self._clock.monotonic() - self._lost_since >= self._seconds:
            raise _lost()

    def leads(self) -> None:
        """Note that the node is the leader itself."""
        self._index = None
        self._found()

    async def look(self, client: Any) -> None:  # noqa: ANN401  hvac has no types.
        """Ask a standby, with a client that needs no token, how far its log is; when that stands still, write.

        Raises:
            SourceUnavailableError: It can't be asked, or has no leader.

        """
        try:
            document = await client.adapter.get("/v1/sys/leader")
        except StoreAnswerError:
            # Not every node tells; it is believed then.
            return
        index = document.get("raft_committed_index") if isinstance(document, dict) else None
        if index != self._index:
            self._index = index
            self._found()
        elif self._clock.monotonic() - self._heard >= self._quiet_seconds:
            await self._write()

    async def _write(self) -> None:
        try:
            # When the token can't be renewed, nothing is known, and the node is believed.
            await self._login.write()
        except SourceUnavailableError:
            self._lose()
        else:
            self._found()

    def _found(self) -> None:
        if self._lost_since is not None:
            _LOG.info("store_leader_found")
        self._heard = self._clock.monotonic()
        self._lost_since = None

    def _lose(self) -> None:
        if self._lost_since is None:
            self._lost_since = self._clock.monotonic()
            _LOG.warning("store_leader_lost", effect="its values are believed for a while", seconds=self._seconds)
        raise _lost() from None


def _lost() -> SourceUnavailableError:
    return SourceUnavailableError("the store is a standby without a leader, so that what it says may be old")
