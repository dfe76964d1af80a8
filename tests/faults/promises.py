"""What holds for every fault, asserted when it is over; and the figures of the row."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from broker.assembly.implementations import open_trail_reader
from broker.audit.event import EventKind
from broker.audit.search import Query
from broker.audit.verify import verify
from tests.faults.agents import Seen
from tests.faults.asked import Asked, between, count, peak
from tests.faults.matrix import Measured
from tests.faults.scene import Scene
from tests.faults.setting import PER_SECOND

_OUTCOMES: Final = ("ok", "stale", "denied", "missing", "unavailable", "invalid")
_WINDOWS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)


async def assert_what_holds_for_every_fault(scene: Scene) -> Measured:
    """Return the figures of a scene whose agents and whose broker have been stopped, and whose store is well again."""
    audited, answered = await asyncio.to_thread(lambda: (scene.record.audited(), scene.record.answered()))
    await _each_answer_is_on_record(scene)
    _store_was_asked_within_the_budget(scene, audited, answered)
    assert failures(scene) == []
    assert scene.may_lose or scene.agents.lost == []
    return _measured(scene, audited, answered)


def failures(scene: Scene) -> list[Seen]:
    """Return what was answered against the promise: without a value where there is one, or with a wrong one."""
    return [seen for seen in scene.agents.seen if not _is_kept(scene, seen)]


def _is_kept(scene: Scene, seen: Seen) -> bool:
    if seen.status in {"ok", "stale"}:
        return seen.value in scene.values[seen.reference]
    return seen.status in scene.may_see.get(seen.reference, ())


async def _each_answer_is_on_record(scene: Scene) -> None:
    records, findings = await asyncio.to_thread(_read_trail, scene.directory / "state" / "audit.db")
    assert scene.agents.answered <= records <= scene.agents.requests, "each answer has its record"
    assert findings == ()


def _read_trail(database: Path) -> tuple[int, tuple[object, ...]]:
    with closing(open_trail_reader(database)) as reader:
        records = sum(1 for _ in reader.records(Query(kind=EventKind.RESOLVE)))
        return records, verify(reader).findings


def _store_was_asked_within_the_budget(scene: Scene, audited: Sequence[Asked], answered: Sequence[Asked]) -> None:
    assert count(audited, "auth/approle/login") >= 1, "the audit log of the store has what the broker asked"
    assert len(audited) <= len(scene.relay.asked), "nothing came to the store but through the relay"
    assert len(answered) <= len(scene.relay.asked), "nothing came to the store but through the relay"
    for seconds in _WINDOWS:
        # A request is seen later than the broker sends it; on a loaded machine up to a tenth of a second.
        most = PER_SECOND * (max(1.0, seconds) + 0.1)
        for where, asked in (
            ("the store's audit log", audited),
            ("the store's log of requests", answered),
            ("the relay", scene.relay.attempts),
        ):
            assert peak(asked, seconds) <= most, f"within {seconds} s, by {where}"


async def assert_metrics_count_what_agents_were_told(scene: Scene) -> None:
    """Compare what the busy agents and those that ask once have heard with what the running broker has counted."""
    if scene.may_lose:
        # The counters of the broker that was stopped have gone with it.
        return
    for outcome in _OUTCOMES:
        counted = await scene.operations.series("broker_references_total", provider="vault", outcome=outcome)
        told = scene.agents.told[outcome]
        assert told <= counted <= told + scene.agents.untold, f"{outcome}: {told} told, {counted} counted"


def _measured(scene: Scene, audited: Sequence[Asked], answered: Sequence[Asked]) -> Measured:
    seen = [one for one in scene.since(scene.began_at) if one.at <= scene.healed_at]
    counts = Counter(one.status for one in seen)
    attempts, answered, audited = (
        between(asked, scene.began_at, scene.healed_at) for asked in (scene.relay.attempts, answered, audited)
    )
    return Measured(
        fresh=counts["ok"],
        stale=counts["stale"],
        refused=sum(counts.values()) - counts["ok"] - counts["stale"],
        failed=len(failures(scene)) + (0 if scene.may_lose else len(scene.agents.lost)),
        slowest=max((one.seconds for one in seen), default=0.0),
        lasted=scene.ended_at - scene.began_at,
        attempts=len(attempts),
        answered=len(answered),
        audited=len(audited),
        peak=max(peak(answered), peak(audited)),
        healed=scene.healed_at - scene.ended_at,
    )
