"""When a standby is believed: as long as its leader is heard of, and for a while after that."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.errors import SourceUnavailableError, UpstreamDeniedError
from broker.providers.vault.exchange.answers import StoreAnswerError
from broker.providers.vault.health.leader import LeaderWatch
from broker.providers.vault.own_token.login import StoreLogin
from tests.vaults import Seen

SECONDS = 100.0


class Standby:
    """A node whose log is at `index`; a write through it raises `fault`."""

    write = StoreLogin.write

    def __init__(self) -> None:
        self.adapter = self
        self.index = 1
        self.fault: Exception | None = None
        self.writes = 0

    async def get(self, path: str) -> dict[str, Any]:
        assert path == "/v1/sys/leader"
        return {"raft_committed_index": self.index}

    async def call(self, _ask: Callable[[Any], Awaitable[Any]]) -> dict[str, Any]:
        self.writes += 1
        if self.fault is not None:
            raise self.fault
        return {"auth": {}}


@pytest.fixture
def clock() -> Seen:
    return Seen()


@pytest.fixture
def standby() -> Standby:
    return Standby()


@pytest.fixture
def watch(clock: Seen, standby: Standby) -> LeaderWatch:
    return LeaderWatch(login=standby, clock=clock, seconds=SECONDS)  # type: ignore[arg-type]  # All that is called.


LOST = SourceUnavailableError("the store redirects")


async def lose(watch: LeaderWatch, clock: Seen, standby: Standby) -> None:
    await watch.look(standby)
    clock.advance(31)
    standby.fault = LOST
    with pytest.raises(SourceUnavailableError, match="standby without a leader"):
        await watch.look(standby)


async def test_a_log_that_moves_is_proof_enough(watch: LeaderWatch, clock: Seen, standby: Standby) -> None:
    for _ in range(5):
        clock.advance(60)
        standby.index += 1
        await watch.look(standby)
    assert standby.writes == 0


async def test_a_log_that_stands_still_is_tried_by_one_write_in_half_a_minute(
    watch: LeaderWatch, clock: Seen, standby: Standby
) -> None:
    for _ in range(13):
        await watch.look(standby)
        clock.advance(5)
    assert standby.writes == 2
    watch.check()


async def test_a_standby_without_a_leader_is_believed_for_a_while_only(
    watch: LeaderWatch, clock: Seen, standby: Standby
) -> None:
    await lose(watch, clock, standby)
    watch.check()
    clock.advance(SECONDS)
    with pytest.raises(SourceUnavailableError, match="standby without a leader"):
        watch.check()


@pytest.mark.parametrize("how", ["write", "log", "active"])
async def test_a_leader_that_is_found_again_makes_it_believed(
    how: str, watch: LeaderWatch, clock: Seen, standby: Standby
) -> None:
    await lose(watch, clock, standby)
    clock.advance(SECONDS)
    if how == "write":
        standby.fault = None
        await watch.look(standby)
    elif how == "log":
        standby.index += 1
        await watch.look(standby)
    else:
        watch.leads()
    watch.check()


@pytest.mark.parametrize(
    "fault",
    [UpstreamDeniedError("no right to renew"), StoreAnswerError(400, {}, None, asked="")],
    ids=["denied", "refused"],
)
async def test_a_token_that_can_not_be_renewed_tells_nothing(
    fault: Exception, watch: LeaderWatch, clock: Seen, standby: Standby
) -> None:
    await watch.look(standby)
    clock.advance(31)
    standby.fault = fault
    await watch.look(standby)
    clock.advance(SECONDS)
    watch.check()


async def test_a_store_without_a_leader_says_so_with_500_too(watch: LeaderWatch, clock: Seen, standby: Standby) -> None:
    await watch.look(standby)
    clock.advance(31)
    standby.fault = StoreAnswerError(500, {}, None, asked="")
    with pytest.raises(SourceUnavailableError, match="standby without a leader"):
        await watch.look(standby)
