"""What the store says of one secret: it is gone, it is another one, or its mount is."""

import asyncio

from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import APP, DB, NAMES, VALUES

GONE = "that secret: `missing` at the next read, its value no more; every other one `ok`"
LATER = "value-of-app, later"


@fault(name="Secret deleted", made="`DELETE`, later undeleted", agents=GONE, heals_within=10)
async def test_a_deleted_secret(scene: Scene) -> None:
    scene.may_see[APP] = {"missing"}
    scene.begin()
    await asyncio.to_thread(scene.store.delete, "secret/data/app")
    await stays_missing(scene)
    await asyncio.to_thread(scene.store.write, "secret/undelete/app", {"versions": [1]})
    scene.ended()
    await scene.heals()


@fault(name="Secret destroyed", made="`destroy`, later a new version", agents=GONE, heals_within=10)
async def test_a_destroyed_secret(scene: Scene) -> None:
    scene.may_see[APP] = {"missing"}
    scene.begin()
    await asyncio.to_thread(scene.store.write, "secret/destroy/app", {"versions": [1]})
    await stays_missing(scene)
    scene.values[APP] = {VALUES[APP], LATER}
    await asyncio.to_thread(scene.store.put_secret, "app", v=LATER)
    scene.ended()
    await scene.heals()
    assert scene.agents.seen[-1].at
    assert last_value(scene) == LATER


@fault(
    name="Secret rolled back",
    made="version 2 is read; its metadata is deleted, and the old value written again as version 1",
    agents="the value of the store at each read, whatever its number; `missing` while there is none",
    heals_within=10,
)
async def test_a_secret_rolled_back(scene: Scene) -> None:
    scene.may_see[APP] = {"missing"}
    scene.values[APP].add(LATER)
    await asyncio.to_thread(scene.store.put_secret, "app", v=LATER)
    await scene.until(lambda: last_value(scene) == LATER, "the new version")
    scene.begin()
    await asyncio.to_thread(scene.store.delete, "secret/metadata/app")
    assert await asyncio.to_thread(scene.store.put_secret, "app", v=VALUES[APP]) == 1
    scene.ended()
    await scene.heals()
    await scene.until(lambda: last_value(scene) == VALUES[APP], "the first value again")


@fault(
    name="Mount disabled, enabled as KV version 1",
    made="the mount goes; the other version comes with the same secrets",
    agents="`stale` while there is no mount; `missing` while the new one is empty",
    heals_within=15,
)
async def test_a_mount_that_becomes_the_other_version(scene: Scene) -> None:
    for reference in VALUES:
        scene.may_see[reference] = {"missing"}
    scene.begin()
    await asyncio.to_thread(scene.store.unmount, "secret")
    await scene.see("stale")
    await scene.refuse()
    await scene.stays_ready()
    await asyncio.to_thread(scene.store.mount, "secret", "kv", {"version": "1"})
    for name in NAMES:
        await asyncio.to_thread(scene.store.write, f"secret/{name}", {"v": f"value-of-{name}"})
    scene.ended()
    await scene.heals()


async def stays_missing(scene: Scene) -> None:
    """Return when the first secret is missing for good, and the other one is not touched by that."""
    await scene.see("missing", APP)
    since = len(scene.agents.seen)
    await scene.until(lambda: len(scene.agents.seen) > since + 40)
    later = scene.agents.seen[since + 6 :]
    assert {seen.status for seen in later if seen.reference == APP} == {"missing"}
    assert {seen.status for seen in later if seen.reference == DB} == {"ok"}
    await scene.stays_ready()


def last_value(scene: Scene) -> str | None:
    return next((seen.value for seen in reversed(scene.agents.seen) if seen.reference == APP), None)
