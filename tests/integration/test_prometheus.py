"""A real Prometheus scrapes the broker, and its own checker finds nothing to mend."""

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.child import free_port
from tests.monitoring import prometheus
from tests.running import RunningBroker, running

INSTALL = "needs Debian's prometheus; to run it: sudo apt-get install prometheus"
absent = shutil.which("prometheus") is None
# A gate that skips its own checks is none: with CI=true the absence is a failure and not a skip.
pytestmark = pytest.mark.skipif(absent and os.environ.get("CI") != "true", reason=INSTALL)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        assert it.resolve("env:LOGFLUX_PAT").status == 200
        yield it


def test_promtool_finds_nothing_in_the_exposition(broker: RunningBroker) -> None:
    text = broker.operations("/metrics").body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "series",
    [
        'broker_requests_total{route="/v1/resolve",status="503"}',
        'broker_references_total{outcome="stale",provider="vault"}',
        'broker_handshakes_total{outcome="unknown_ca"}',
        'broker_policy_reloads_total{outcome="refused"}',
        'broker_upstream_refused_total{provider="vault"}',
    ],
)
def test_what_never_happened_is_zero_and_not_absent(broker: RunningBroker, series: str) -> None:
    assert f"{series} 0.0" in broker.operations("/metrics").body.decode().splitlines()


def test_openmetrics_is_offered(broker: RunningBroker) -> None:
    answer = broker.operations("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.rstrip().endswith(b"# EOF")


def test_a_real_prometheus_scrapes_the_series(broker: RunningBroker, tmp_path: Path) -> None:
    port = free_port()
    configuration = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "broker",
                "static_configs": [{"targets": [f"127.0.0.1:{broker.place.operations_port}"]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML.
    with prometheus(tmp_path, port, tmp_path):
        query = 'broker_references_total{provider="env",outcome="ok"}'
        assert _value(port, query) == 1.0
        assert _value(port, "up") == 1.0


def _value(port: int, query: str) -> float | None:
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
    for _ in range(150):
        with urllib.request.urlopen(url, timeout=5) as answer:
            result = json.load(answer)["data"]["result"]
        if result:
            return float(result[0]["value"][1])
        time.sleep(0.1)
    return None
