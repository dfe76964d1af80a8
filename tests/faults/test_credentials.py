"""The broker's own access to the store is taken away: its token, its policy, its role, its credential."""

import asyncio

from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import READER, STALE, VALUES, fill
from tests.vaults import private


@fault(
    name="Token revoked",
    made="every token of the broker is revoked",
    agents="`ok` or `stale`: the broker logs in once more",
    heals_within=5,
)
async def test_a_revoked_token(scene: Scene) -> None:
    scene.begin()
    await asyncio.to_thread(scene.store.revoke_tokens)
    scene.ended()
    await scene.heals()
    assert await logins(scene) == 2, "one at the start, and one for the dead token"


@fault(
    name="Policy of the token taken away",
    made="the policy is deleted in the store, later written again",
    agents="`denied` at the next read, the values no more",
    heals_within=10,
)
async def test_a_policy_taken_away(scene: Scene) -> None:
    for reference in VALUES:
        scene.may_see[reference] = {"denied"}
    scene.begin()
    await asyncio.to_thread(scene.store.delete, "sys/policies/acl/broker")
    await scene.see("denied")
    since = len(scene.agents.seen)
    await scene.until(lambda: len(scene.agents.seen) > since + 20)
    assert {seen.status for seen in scene.agents.seen[since + 6 :]} == {"denied"}
    await scene.stays_ready()
    await asyncio.to_thread(scene.store.policy, "broker", READER)
    scene.ended()
    await scene.heals()
    assert await logins(scene) == 1, "a denial is not mistaken for a dead token"


@fault(
    name="AppRole deleted",
    made="the role goes and its tokens are revoked; later it is there again with a new credential",
    agents=STALE,
    heals_within=30,
)
async def test_a_role_deleted(scene: Scene) -> None:
    scene.begin()
    await asyncio.to_thread(scene.store.delete, "auth/approle/role/broker")
    await asyncio.to_thread(scene.store.revoke_tokens)
    await scene.serves_stale("refuse", is_away=False)
    await asyncio.to_thread(fill, scene.store, scene.directory)
    scene.ended()
    await scene.heals()


@fault(
    name="Wrong secret id, in a store that locks roles out",
    made="a wrong credential in the file, and the token is revoked; later the right one",
    agents=STALE,
    heals_within=30,
)
async def test_a_wrong_credential_does_not_lock_the_role_out(lockout_scene: Scene) -> None:
    scene = lockout_scene
    file = scene.directory / "secret_id"
    right = file.read_text()
    scene.begin()
    private(file, "00000000-0000-0000-0000-000000000000")
    await asyncio.to_thread(scene.store.revoke_tokens)
    await scene.serves_stale("refused the broker's login twice", is_away=False)
    assert await logins(scene) == 3, "one at the start, and two of the five that lock a role out"
    private(file, right)
    scene.ended()
    await scene.heals()


async def logins(scene: Scene) -> int:
    return await scene.asked("auth/approle/login")
