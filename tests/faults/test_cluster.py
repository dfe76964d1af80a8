"""Two nodes of one store: the broker comes to one that lags, to one without a leader, and over a change of leader."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker.cli.child import free_port
from tests.faults.asked import count
from tests.faults.lagging import Lag
from tests.faults.matrix import fault
from tests.faults.record import StoreRecord
from tests.faults.scene import Scene
from tests.faults.setting import fill
from tests.faults.stage import row_of, staged
from tests.openbao import Cluster, OpenBao

LEADER_SECONDS = 2
# Readiness looks each second, here.
NOTICED_SECONDS = 8
LATE = "vault:secret/late#v"
# So often it is tried to meet a node that is behind, should a busy machine let it catch up first.
PATIENT = 10


@dataclass(frozen=True, slots=True)
class Nodes:
    """A scene whose relay leads to the leader at first; `lag` is between the leader and the other node."""

    scene: Scene
    leader: OpenBao
    standby: OpenBao
    lag: Lag

    @staticmethod
    def leads(node: OpenBao) -> bool:
        return node.request("GET", "sys/health").status == 200

    def lead_to(self, node: OpenBao) -> None:
        """Let every connection from now on go to `node`, as a load balancer may."""
        self.scene.relay.target = node.port
        self.scene.relay.reset()


@pytest.fixture
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Nodes]:
    lag = Lag(free_port())
    await lag.start()
    # Patient enough to live with the lag without an election.
    cluster = Cluster(patience=5, port=lag.target, told=lag.port)
    # The nodes have one table of audit devices, and so one log on one machine.
    log = tmp_path / "audit.log"
    leader = await asyncio.to_thread(OpenBao, tmp_path / "one", durable=True, audit=log)
    standby = await asyncio.to_thread(OpenBao, tmp_path / "two", durable=True, join=leader, cluster=cluster, audit=log)
    try:
        await asyncio.to_thread(leader.mount, "secret", "kv", {"version": "2"})
        await asyncio.to_thread(fill, leader, tmp_path)
        record = StoreRecord(leader, standby)
        async with staged(row_of(request), leader, tmp_path, record=record, leader_seconds=LEADER_SECONDS) as scene:
            yield Nodes(scene, leader, standby, lag)
    finally:
        await asyncio.to_thread(standby.close)
        await asyncio.to_thread(leader.close)
        await lag.aclose()


@fault(
    name="Follower lags",
    made="two nodes; the line from the leader to the other is slow, and the broker is led to the other one",
    agents="`ok` or `stale`: a false 404 drops nothing, and makes nothing `missing` that nobody has read before",
    heals_within=15,
)
async def test_a_follower_that_lags(nodes: Nodes) -> None:
    scene = nodes.scene
    # Step by step: a leader that suddenly hears nothing steps down.
    for step in range(1, 11):
        nodes.lag.delay = step * 0.2
        await asyncio.sleep(0.2)
    scene.begin()
    await reads_what_nobody_has_read_before(nodes)
    await asyncio.to_thread(nodes.leader.put_secret, "late", v="x")
    first = await result_of(scene)
    nodes.lead_to(nodes.standby)
    while (later := await result_of(scene))["fetched_at"] == first["fetched_at"]:
        assert later["status"] in {"ok", "stale"}
    assert later["status"] == "ok"
    assert await asyncio.to_thread(knows_nothing_of, nodes.standby, "late"), "when the secret was read again"
    nodes.lag.delay = 0.0
    scene.ended()
    await scene.heals()


@fault(
    name="Leader lost",
    made="two nodes; the broker is at one that says 200 without end when the other, its leader, is killed; later both",
    agents="`ok` for `leader_seconds` (2 here, 300 by default), then `stale`",
    heals_within=40,
)
async def test_a_standby_without_a_leader(nodes: Nodes) -> None:
    scene = nodes.scene
    nodes.lead_to(nodes.standby)
    # It knows everything that the broker has seen, so that it can answer by itself.
    read = count(scene.relay.asked, "/data/")
    await scene.until(lambda: count(scene.relay.asked, "/data/") > read + 2)
    scene.begin()
    await asyncio.to_thread(nodes.leader.kill)
    await scene.unready("standby without a leader", is_away=False)
    await scene.see("stale")
    stale = min(seen.at for seen in scene.since(scene.began_at) if seen.status == "stale")
    assert stale - scene.began_at >= LEADER_SECONDS, "the standby is believed for a while"
    await scene.refuse()
    await asyncio.to_thread(nodes.leader.start)
    await asyncio.to_thread(nodes.leader.request, "PUT", "sys/unseal", {"key": nodes.leader.unseal_key})
    scene.ended()
    await scene.heals()


@fault(
    name="Leader steps down",
    made="two nodes; `PUT sys/step-down` at the leader, where the broker is, until one of them leads again",
    agents="`ok` or `stale`",
    heals_within=40,
)
async def test_a_leader_that_steps_down(nodes: Nodes) -> None:
    scene = nodes.scene
    scene.begin()
    await asyncio.to_thread(nodes.leader.request, "PUT", "sys/step-down")
    await scene.until_store(lambda: not nodes.leads(nodes.leader))
    began, said = time.monotonic(), {""}

    async def leads_again() -> bool:
        said.add(scene.said)
        return await asyncio.to_thread(lambda: nodes.leads(nodes.leader) or nodes.leads(nodes.standby))

    await scene.until_true(leads_again, "a node leads again")
    # How long that takes is for the nodes to say; ten seconds, where the one that has stepped down is elected again.
    assert time.monotonic() - began < NOTICED_SECONDS or any("leader" in reason for reason in said), said
    scene.ended()
    await scene.heals()
    assert await scene.asked("auth/approle/login") == 1, "nobody took a valid token for a dead one"


async def reads_what_nobody_has_read_before(nodes: Nodes) -> None:
    """Let the broker meet a false 404 for a secret that it has never read: to its agent, the secret is there.

    A node that is asked for a later state than its own passes the request on, so this takes one that has come as far as
    the broker has seen, and no further.
    """
    for number in range(PATIENT):
        name = f"never-read-{number}"
        nodes.lead_to(nodes.standby)
        await asyncio.to_thread(nodes.leader.put_secret, name, v="new")
        [result] = (await nodes.scene.agents.ask(f"vault:secret/{name}#v"))[1]["results"]
        assert (result["status"], result.get("value")) == ("ok", "new"), result
        nodes.lead_to(nodes.leader)
        if count(nodes.scene.relay.asked, f"/data/{name}") > 1:
            # Read again, because at first there was none.
            return
        await nodes.scene.until_store(lambda name=name: not knows_nothing_of(nodes.standby, name))
    raise AssertionError("the node was never behind when it was asked")


def knows_nothing_of(node: OpenBao, name: str) -> bool:
    """Tell whether `node` says by itself that there is no such secret, which its leader has."""
    return node.request("GET", f"secret/data/{name}").status == 404


async def result_of(scene: Scene) -> dict[str, Any]:
    await asyncio.sleep(0.05)
    return dict((await scene.agents.ask(LATE))[1]["results"][0])
