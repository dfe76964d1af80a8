"""Group commit, what callers are told when a commit fails, and that the chain goes on where it was left."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from broker.audit.chain import TrailRecord, record_hash
from broker.audit.checkpoint import load_or_create_checkpoint_key, notes_in, open_note
from broker.audit.trail import Trail
from broker.audit.writer import MAX_COMMIT, Take
from broker.errors import AuditUnavailableError, SettingsInvalidError
from tests.trails import MemoryStore, build, event, running
from tests.waiting import until


async def until_healthy(trail: Trail) -> None:
    await until(lambda: trail.healthy)


def is_one_chain(store: MemoryStore) -> bool:
    return [one.seq for one in store.records] == list(range(1, len(store.records) + 1)) and all(
        record_hash(prev=before.hash, seq=one.seq, body=one.body) == one.hash for before, one in pairwise(store.records)
    )


async def test_events_that_wait_share_a_commit_of_at_most_256(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as trail:
        await asyncio.gather(*(trail.append(event()) for _ in range(600)))
        assert store.commits[1:] == [MAX_COMMIT, MAX_COMMIT, 88]
    assert is_one_chain(store)


async def test_a_caller_goes_on_only_after_its_commit(tmp_path: Path) -> None:
    store = MemoryStore()
    gate = asyncio.Event()
    keep = store.write

    async def slow(records: object) -> None:
        await gate.wait()
        await keep(records)  # type: ignore[arg-type]  Passed on.

    async with running(tmp_path, store) as trail:
        store.write = slow  # type: ignore[method-assign]  The fault of this test.
        waiting = asyncio.create_task(trail.append(event()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        gate.set()
        await waiting
        assert len(store.records) == 2


@pytest.mark.parametrize("fate", ["refuse", "lose"])
async def test_after_a_failed_commit_the_chain_has_no_fork_and_no_gap(tmp_path: Path, fate: str) -> None:
    store = MemoryStore()
    async with running(tmp_path, store, probe_seconds=0.01) as trail:
        await trail.append(event())
        store.fates = [fate, "refuse", fate]
        with pytest.raises(AuditUnavailableError, match="the disk went away"):
            await trail.append(event())
        assert not trail.healthy
        await until_healthy(trail)
        await trail.append(event())
    assert is_one_chain(store)
    assert b'"reason":"recovered"' in b"".join(one.body for one in store.records)


async def test_everyone_who_waits_is_told_when_a_commit_fails_and_later_ones_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store, probe_seconds=60) as trail:
        since = trail.state.since
        store.fates = ["refuse"]
        answers = await asyncio.gather(*(trail.append(event()) for _ in range(300)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {AuditUnavailableError}
        assert (trail.healthy, trail.state.reason) == (False, "the disk went away")
        assert trail.state.since >= since
        with pytest.raises(AuditUnavailableError):
            await asyncio.wait_for(trail.append(event()), 0.5)


async def test_a_store_that_ends_elsewhere_is_never_written_again(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store, probe_seconds=0.01) as trail:
        await trail.append(event())
        await trail.append(event())
        store.fates = ["refuse"]
        with pytest.raises(AuditUnavailableError):
            await trail.append(event())
        del store.records[-1]
        await asyncio.sleep(0.1)
        assert not trail.healthy
        assert "does not end where it was left" in trail.state.reason
        assert len(store.records) == 2


async def test_a_commit_that_hangs_is_given_up(tmp_path: Path) -> None:
    store = MemoryStore()

    async def hang(records: object) -> None:
        await asyncio.Event().wait()

    async with running(tmp_path, store, commit_seconds=0.05, probe_seconds=0.01) as trail:
        keep, store.write = store.write, hang  # type: ignore[method-assign]  The fault of this test.
        with pytest.raises(AuditUnavailableError, match=r"more than 0\.05 s"):
            await trail.append(event())
        store.write = keep  # type: ignore[method-assign]  The fault is over.
        await until_healthy(trail)


async def test_a_commit_that_ends_after_it_was_given_up_lets_nobody_go_on_and_leaves_a_whole_chain(
    tmp_path: Path,
) -> None:
    store, gate, tasks = MemoryStore(), asyncio.Event(), set()

    async def commit(take: Take, kept: Callable[[], None]) -> None:
        async def late() -> None:
            records = take()
            await gate.wait()
            await store.write(records)
            kept()
            assert take() == ()

        tasks.add(asyncio.create_task(late()))
        await asyncio.shield(next(iter(tasks)))

    async with running(tmp_path, store, commit_seconds=0.05, probe_seconds=0.01) as trail:
        keep, store.commit = store.commit, commit  # type: ignore[method-assign]  The fault of this test.
        first = asyncio.create_task(trail.append(event()))
        await until(lambda: bool(tasks))
        second = asyncio.create_task(trail.append(event()))
        answers = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(answer) for answer in answers] == [AuditUnavailableError] * 2
        gate.set()
        await next(iter(tasks))
        store.commit = keep  # type: ignore[method-assign]  The fault is over.
        await until_healthy(trail)
        await trail.append(event())
    assert is_one_chain(store)


async def test_a_checkpoint_comes_also_when_something_always_waits(tmp_path: Path) -> None:
    store, tasks = MemoryStore(), []
    keep = store.write

    async with running(tmp_path, store, checkpoint_events=10) as trail:

        async def write(records: Sequence[TrailRecord]) -> None:
            await keep(records)
            if len(store.records) < 100:
                tasks.append(asyncio.create_task(trail.append(event())))
                await asyncio.sleep(0)

        store.write = write  # type: ignore[method-assign]  While one is written, the next one comes.
        await trail.append(event())
        await until(lambda: len(store.records) == 100)
        await asyncio.gather(*tasks)
        # One at the start, and one after ten records each.
        assert len(store.notes) == 10


async def test_a_defect_after_a_commit_refuses_those_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()

    async def commit(take: Take, kept: Callable[[], None]) -> None:
        while records := take():
            await store.write(records)
            asyncio.get_running_loop().call_soon(kept)
            await asyncio.sleep(0)

    async with running(tmp_path, store, probe_seconds=60) as trail:
        reported: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        monkeypatch.setattr(store, "commit", commit)
        monkeypatch.setattr(trail._metrics, "audit_commit", lambda **_: 1 / 0)
        with pytest.raises(AuditUnavailableError, match="a defect after a commit"):
            await asyncio.wait_for(trail.append(event()), 5)
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
        assert not trail.healthy


async def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store, max_pending=5) as trail:
        waiting = [asyncio.create_task(trail.append(event())) for _ in range(5)]
        overflow = asyncio.create_task(trail.append(event()))
        assert [type(one) for one in await asyncio.gather(*waiting, return_exceptions=True)] == [type(None)] * 5
        with pytest.raises(AuditUnavailableError, match="too many events wait"):
            await overflow


async def test_a_cancelled_caller_leaves_its_event_and_a_whole_chain(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as trail:
        tasks = [asyncio.create_task(trail.append(event())) for _ in range(40)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(store.records) == 41
    assert is_one_chain(store)


async def test_closing_makes_durable_what_waits_and_refuses_the_rest(tmp_path: Path) -> None:
    store = MemoryStore()
    trail = await build(tmp_path, store)
    await trail.start()
    waiting = [asyncio.create_task(trail.append(event())) for _ in range(10)]
    await asyncio.sleep(0)
    await trail.close()
    await trail.close()
    assert [task.exception() for task in waiting] == [None] * 10
    assert len(store.records) == 11
    with pytest.raises(AuditUnavailableError, match="closed"):
        await trail.append(event())


async def test_closing_while_the_store_fails_ends(tmp_path: Path) -> None:
    store = MemoryStore()
    trail = await build(tmp_path, store, probe_seconds=60)
    await trail.start()
    store.fates = ["refuse"] * 9
    with pytest.raises(AuditUnavailableError):
        await trail.append(event())
    await asyncio.wait_for(trail.close(), 2)


async def test_checkpoints_come_at_the_start_every_so_many_records_and_at_the_end(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store, checkpoint_events=10) as trail:
        for _ in range(25):
            await trail.append(event())
    key = (await asyncio.to_thread(load_or_create_checkpoint_key, tmp_path / "checkpoint.key")).verifier
    opened = [open_note(note, key) for note in store.notes]
    assert [one.size for one in opened if one] == [1, 11, 21, 26]
    assert list(notes_in((tmp_path / "checkpoints.log").read_bytes())) == store.notes


async def test_checkpoints_come_in_time_also_when_nothing_happens(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store, checkpoint_seconds=0.02):
        await until(lambda: len(store.notes) >= 3)
    assert len(store.records) == 1


async def test_a_checkpoint_file_that_fails_is_counted_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    trail = await build(tmp_path, MemoryStore(), registry, checkpoint_events=1)
    await trail.start()
    (tmp_path / "checkpoints.log").unlink()
    (tmp_path / "checkpoints.log").mkdir()
    await trail.append(event())
    await trail.append(event())
    await trail.close()
    assert (registry.get_sample_value("broker_audit_failures_total") or 0) >= 1


async def test_a_trail_that_was_begun_with_another_key_is_not_continued(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store):
        pass
    (tmp_path / "checkpoint.key").unlink()
    with pytest.raises(SettingsInvalidError, match="begun with checkpoint key"):
        await (await build(tmp_path, store)).start()


async def test_commits_and_failures_are_counted(tmp_path: Path) -> None:
    registry, store = CollectorRegistry(), MemoryStore()
    trail = await build(tmp_path, store, registry, probe_seconds=60)
    await trail.start()
    await trail.append(event())
    store.fates = ["refuse"]
    with pytest.raises(AuditUnavailableError):
        await trail.append(event())
    assert registry.get_sample_value("broker_audit_events_total", {"kind": "resolve"}) == 1
    assert registry.get_sample_value("broker_audit_failures_total") == 1
    assert registry.get_sample_value("broker_audit_pending_events") == 0
    await trail.close()
