"""The memory limit of a control group, and that the cache gives way before it."""

import asyncio
from pathlib import Path

import pytest

from broker.cache import Cache
from broker.memory_limit import MemoryUse, keep_below_limit, memory_use
from broker.reference import Source
from tests.fakes import FakeClock, FakeProvider, fake_metrics, text_reading

CLOCKS = {"fresh_for": 300.0, "max_stale": 3600.0}


def group(root: Path, *, limit: str, used: int, below: str = "") -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(f"0::/{below}\n")
    place = root / "sys/fs/cgroup" / below
    place.mkdir(parents=True, exist_ok=True)
    (place / "memory.max").write_text(f"{limit}\n")
    (place / "memory.stat").write_text(f"anon {used}\nfile 999999999\n")


def test_what_the_processes_have_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    group(tmp_path, limit="1000", used=700)
    assert memory_use(tmp_path) == MemoryUse(limit=1000, used=700)


def test_the_group_of_a_unit_is_found_below_the_tree(tmp_path: Path) -> None:
    group(tmp_path, limit="1000", used=900, below="system.slice/broker.service")
    use = memory_use(tmp_path)
    assert use == MemoryUse(limit=1000, used=900)
    assert use.is_high


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    place = tmp_path / "sys/fs/cgroup/memory"
    place.mkdir(parents=True)
    (place / "memory.limit_in_bytes").write_text("2000\n")
    (place / "memory.stat").write_text("rss 1\ntotal_rss 500\n")
    assert memory_use(tmp_path) == MemoryUse(limit=2000, used=500)
    (place / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_use(tmp_path) is None


@pytest.mark.parametrize("limit", ["max", "", "12 MB"])
def test_no_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    group(tmp_path, limit=limit, used=700)
    assert memory_use(tmp_path) is None


async def filled_cache() -> Cache:
    provider = FakeProvider({str(number): text_reading("x" * 100) for number in range(8)})
    cache = Cache(clock=FakeClock(), metrics=fake_metrics(), max_entries=99, max_bytes=9999, fetch_seconds=5)
    for number in range(8):
        await cache.get(Source("vault", str(number)), **CLOCKS, fetch=provider.fetch)
    return cache


async def test_half_of_the_cache_goes_and_what_was_used_last_stays() -> None:
    cache = await filled_cache()
    cache.lookup(Source("vault", "0"), **CLOCKS)
    assert cache.give_way() == 400
    kept = [number for number in range(8) if cache.lookup(Source("vault", str(number)), **CLOCKS)]
    assert kept == [0, 5, 6, 7]
    await cache.aclose()


class Giver:
    """Counts how often it gives way."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def give_way(self) -> int:
        self.asked.set()
        return 1


async def test_the_cache_gives_way_when_memory_is_high_and_not_before(tmp_path: Path) -> None:
    giver = Giver()
    group(tmp_path, limit="1000", used=850)
    task = asyncio.create_task(keep_below_limit(giver, root=tmp_path, look_seconds=0.01))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(giver.asked.wait(), 0.1)
    group(tmp_path, limit="1000", used=851)
    await asyncio.wait_for(giver.asked.wait(), 30)
    task.cancel()
    await asyncio.wait({task})
