"""A real Prometheus and a real Alertmanager, with the deployed rules, see real faults of a real broker.

Here an alert goes all the way to whoever is told. Each alert's expression finds its fault in `tests/runbooks/`.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import sqlite3
import ssl
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.__main__ import main
from broker.cli.sandbox import SHIPPER
from tests.monitoring import Monitoring, monitoring
from tests.running import RunningBroker, running
from tests.waiting import wait_until

SERVERS = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
INSTALL = f"needs Debian's servers; to run it: sudo apt-get install {' '.join(SERVERS)}"
absent = not all(shutil.which(server) for server in SERVERS)
pytestmark = [
    pytest.mark.skipif(absent and os.environ.get("CI") != "true", reason=INSTALL),
    # Alerts take their time to come and to go, on a loaded machine more of it.
    pytest.mark.timeout(300),
]

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "logflux-broker.json"
API_KEY = "vault:secret/logflux#api_key"


@dataclass(frozen=True)
class Watched:
    broker: RunningBroker
    monitoring: Monitoring

    def verify(self, database: Path | None = None) -> int:
        file = self.monitoring.collected / "broker_audit.prom"
        verb = ["audit", "verify", "--database", str(database or self.broker.place.database), "--metrics", str(file)]
        return main(verb)

    def fires(self, *alerts: str) -> None:
        for alert in alerts:
            wait_until(lambda: self.monitoring.receiver.was_told("firing", alert), f"{alert} fires")  # noqa: B023  Called here.

    def ends(self, *alerts: str) -> None:
        for alert in alerts:
            wait_until(lambda: self.monitoring.receiver.was_told("resolved", alert), f"{alert} ends")  # noqa: B023  As above.


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with running(fresh_for="1s") as broker:
        port = broker.place.operations_port
        with monitoring(tmp_path_factory.mktemp("monitoring"), operations_port=port) as watching:
            assert broker.resolve(API_KEY).status == 200
            it = Watched(broker, watching)
            assert it.verify() == 0
            wait_until(lambda: watching.query('broker_cache_usable_sources{provider="vault"} > 0') != [], "the outlook")
            wait_until(lambda: watching.query("broker_audit_verify_good == 1") != [], "the verification is collected")
            yield it


def test_a_store_that_hangs_raises_its_alert_with_how_long_memory_lasts_and_ends_it(watched: Watched) -> None:
    store = watched.broker.place.store.handle
    os.kill(store.pid, signal.SIGSTOP)
    try:
        watched.fires("BrokerStoreUnreachable")
        summary = watched.monitoring.receiver.summary("BrokerStoreUnreachable")
        assert "Memory answers for 1 sources." in summary
        assert "The first of them is lost in 59m" in summary
        assert watched.broker.resolve(API_KEY).json["results"][0]["status"] == "stale"
    finally:
        os.kill(store.pid, signal.SIGCONT)
    watched.ends("BrokerStoreUnreachable")


def test_a_changed_trail_raises_its_alert_by_the_textfile_collector(watched: Watched, tmp_path: Path) -> None:
    copy = tmp_path / "audit.db"
    with contextlib.closing(sqlite3.connect(watched.broker.place.database)) as source:
        source.execute("VACUUM INTO ?", (str(copy),))
    with contextlib.closing(sqlite3.connect(copy)) as changed, changed:
        changed.execute("UPDATE record SET identity = 'spiffe://demo.example/nobody' WHERE seq = 2")
    assert watched.verify(copy) == 1
    watched.fires("BrokerAuditTampered")
    assert watched.verify() == 0
    watched.ends("BrokerAuditTampered")


def test_every_query_of_the_dashboard_returns_data(watched: Watched) -> None:
    waiting = dict.fromkeys(expressions())
    assert len(waiting) > 40

    def all_answered() -> bool:
        drive(watched.broker)
        for expression in list(waiting):
            if any(math.isfinite(float(one["value"][1])) for one in watched.monitoring.query(concrete(expression))):
                del waiting[expression]
        return not waiting

    with contextlib.suppress(AssertionError):
        wait_until(all_answered, "the dashboard")
    assert list(waiting) == []


def test_the_dashboard_asks_the_data_source_that_was_chosen_and_nothing_overlaps() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert (board["uid"], board["id"]) == ("logflux-broker", None)
    assert board["templating"]["list"][0]["type"] == "datasource"
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    sources = {one["datasource"]["uid"] for panel in panels for one in [panel, *panel["targets"]]}
    assert sources == {"${datasource}"}
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = [cell for panel in board["panels"] for cell in _cells(panel["gridPos"])]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24


def _cells(place: dict[str, int]) -> list[tuple[int, int]]:
    columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
    return [(column, line) for column in columns for line in lines]


def expressions() -> Iterator[str]:
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    for variable in board["templating"]["list"][1:]:
        # What stands before the label in `label_values`.
        yield variable["definition"].removeprefix("label_values(").rpartition(",")[0]


def concrete(expression: str) -> str:
    for name, value in (("$__rate_interval", "20s"), ("$job", "broker"), ("$instance", ".*")):
        expression = expression.replace(name, value)
    return expression


def drive(broker: RunningBroker) -> None:
    """Do a little of everything, so that every series moves."""
    file = str(broker.place.files / "tls_passphrase")
    form = {"grant_type": "client_credentials", "client_id": SHIPPER, "scope": API_KEY}
    answer = broker.post(
        "/oauth2/token",
        urllib.parse.urlencode(form),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert broker.resolve(API_KEY, token=answer.json["access_token"]).status == 200
    assert broker.resolve(file, "env:LOGFLUX_PAT").status == 200
    assert broker.resolve(API_KEY, agent="stranger").status == 403
    with pytest.raises((ssl.SSLError, ConnectionError)):
        broker.post("/v1/resolve", "{}", agent=None)
