"""Whoever answers at the store's address can't prove to be the store. The relay ends TLS, as a load balancer does."""

import asyncio
import datetime as dt

from tests.certificates import Files, TestAuthority
from tests.faults.matrix import fault
from tests.faults.scene import Scene
from tests.faults.setting import STALE


@fault(
    name="Wrong certificate after a change",
    made="another authority's certificate for new connections, the kept ones are reset; later the right one",
    agents=STALE,
    heals_within=15,
    unlogged="connections are given up in TLS, before anything is said",
)
async def test_a_wrong_certificate(tls_scene: Scene) -> None:
    other = await asyncio.to_thread(TestAuthority, tls_scene.directory / "other", common_name="somebody else")
    await shows(tls_scene, await asyncio.to_thread(other.server))


@fault(
    name="Expired certificate",
    made="a certificate that ended an hour ago, as above; later a valid one",
    agents=STALE,
    heals_within=15,
    unlogged="connections are given up in TLS, before anything is said",
)
async def test_an_expired_certificate(tls_scene: Scene) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    expired = await asyncio.to_thread(tls_scene.authority.leaf, ips=("127.0.0.1",), eku="server", not_after=past)
    await shows(tls_scene, expired)


async def shows(scene: Scene, files: Files) -> None:
    scene.begin()
    await scene.show(files)
    asked = len(scene.relay.asked)
    await scene.serves_stale("certificate is not trusted")
    assert len(scene.relay.asked) == asked, "nothing was said to a stranger"
    await scene.show(await asyncio.to_thread(scene.authority.server))
    scene.ended()
    await scene.heals()
