"""The way to the store, or what comes back over it, is broken."""

import asyncio

import pytest

from tests.faults.asked import count
from tests.faults.matrix import fault
from tests.faults.relay import http
from tests.faults.scene import Scene
from tests.faults.setting import APP, BRIEF, DB, STALE, VALUES

STOOD_IN = "what the relay answers in the store's place"


async def is_stale_and_heals(scene: Scene, reason: str) -> None:
    await scene.serves_stale(reason)
    scene.relay.heal()
    scene.ended()
    await scene.heals()


@fault(name="Every answer 10 s late", made="relay; the time-out is 1 s", agents=STALE, heals_within=15)
async def test_answers_ten_seconds_late(scene: Scene) -> None:
    scene.begin()
    scene.relay.delay = 10
    await is_stale_and_heals(scene, "in time")


@fault(name="One byte a second", made="relay; the time-out is 1 s", agents=STALE, heals_within=15)
async def test_one_byte_a_second(scene: Scene) -> None:
    scene.begin()
    scene.relay.rate = 1
    await is_stale_and_heals(scene, "in time")


@fault(name="Connection reset midway", made="relay: a reset after 100 bytes", agents=STALE, heals_within=15)
async def test_a_connection_reset_midway(scene: Scene) -> None:
    scene.begin()
    scene.relay.cut_after = 100
    scene.relay.reset()
    await is_stale_and_heals(scene, "lost")


@fault(name="Black hole", made="relay: connections open, and nothing passes", agents=STALE, heals_within=15)
async def test_a_black_hole(scene: Scene) -> None:
    scene.begin()
    scene.relay.silent = True
    await is_stale_and_heals(scene, "in time")


@fault(
    name="Half-open connections",
    made="relay: the kept connections go dead without a word, new ones work",
    agents="`ok` or `stale`",
    heals_within=10,
    unlogged="what goes into the dead connections",
)
async def test_half_open_connections(scene: Scene) -> None:
    scene.begin()
    assert scene.relay.freeze() > 0
    scene.ended()
    await scene.heals()


@fault(
    name="Truncated JSON",
    made="relay: 200 with half a document, for everything",
    agents=STALE,
    heals_within=15,
    unlogged=STOOD_IN,
)
async def test_truncated_json(scene: Scene) -> None:
    scene.begin()
    scene.relay.stand_in = lambda _path: http(b'{"data": {"data": {"v": "')
    await is_stale_and_heals(scene, "no valid JSON")


@fault(
    name="200 with HTML",
    made="relay: a portal's page, for everything",
    agents=STALE,
    heals_within=15,
    unlogged=STOOD_IN,
)
async def test_a_page_instead_of_an_answer(scene: Scene) -> None:
    scene.begin()
    scene.relay.stand_in = lambda _path: http(b"<html>Please log in</html>", kind="text/html")
    await is_stale_and_heals(scene, "not what Vault or OpenBao says")


@fault(
    name="500 for one path only",
    made="relay, for the path and for that of a secret that may be used for 1 s",
    agents="that secret: `ok`, then `stale`; past its bound `unavailable`; every other one `ok`",
    heals_within=10,
    unlogged=STOOD_IN,
)
async def test_one_path_fails(scene: Scene) -> None:
    broken = http(b'{"errors": ["1 error occurred"]}', status="500 Internal Server Error")
    scene.begin()
    scene.relay.stand_in = lambda path: broken if path.endswith(("/data/app", "/data/brief")) else None
    await scene.see("stale", APP)
    since = len(scene.agents.seen)
    await scene.until(lambda: sum(seen.reference == DB for seen in scene.agents.seen[since:]) > 20)
    assert {seen.status for seen in scene.agents.seen[since:] if seen.reference == DB} == {"ok"}
    await scene.refuse(BRIEF)
    await scene.stays_ready()
    scene.relay.heal()
    scene.ended()
    await scene.heals()


@fault(
    name="Answer of 5 MB",
    made="the secret is written with 5 MB, later with its value again",
    agents="that secret: `invalid`, and its old value no more; every other one `ok`",
    heals_within=10,
)
async def test_an_answer_of_five_megabytes(scene: Scene) -> None:
    scene.may_see[APP] = {"invalid"}
    scene.begin()
    await asyncio.to_thread(scene.store.put_secret, "app", v="x" * 5_000_000)
    await scene.see("invalid", APP)
    await scene.stays_ready()
    await asyncio.to_thread(scene.store.put_secret, "app", v=VALUES[APP])
    scene.ended()
    await scene.heals()


@fault(
    name="429 by a quota",
    made="a rate limit of the store for the mount, with `Retry-After`; removed later",
    agents=STALE,
    heals_within=15,
)
async def test_a_quota(scene: Scene) -> None:
    await asyncio.to_thread(
        scene.store.write,
        "sys/quotas/config",
        {
            "enable_rate_limit_response_headers": True,
            "enable_rate_limit_audit_logging": True,
            "rate_limit_exempt_paths": ["sys/health"],
        },
    )
    scene.begin()
    quota = {"path": "secret", "rate": 1, "interval": "60s", "block_interval": "60s"}
    await asyncio.to_thread(scene.store.write, "sys/quotas/rate-limit/tight", quota)
    await scene.see("stale")
    await scene.refuse()
    await scene.stays_ready()
    before = await scene.asked(), count(scene.relay.asked, "/data/")
    await asyncio.sleep(2)
    after = await scene.asked(), count(scene.relay.asked, "/data/")
    assert after == before, "nothing is asked before the pause is over"
    await asyncio.to_thread(scene.store.delete, "sys/quotas/rate-limit/tight")
    scene.clock.ahead += 60
    scene.ended()
    await scene.heals()


@fault(
    name="DNS gone",
    made="the store is named, and its name can't be resolved any more; the connections are reset too",
    agents="`ok` or `stale`: the last good addresses are used",
    heals_within=10,
)
async def test_no_names(named_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = named_scene
    scene.begin()
    failed = scene.lose_names(monkeypatch)
    scene.relay.reset()
    scene.ended()
    await scene.heals()
    assert failed, "somebody asked for the name"
