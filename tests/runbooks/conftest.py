"""One store and one Prometheus for all walks, and a broker for each."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.sandbox import Sandbox, sandbox
from tests.runbooks.pages import page_of, walks_in
from tests.runbooks.walking import Walk, walking
from tests.runbooks.watching import Watching, watching

TOOLS = ("prometheus", "prometheus-node-exporter", "curl", "openssl")


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent and os.environ.get("CI") != "true":
        pytest.skip(f"needs Debian's tools; to run it: sudo apt-get install {' '.join(absent)}")
    with watching(tmp_path_factory.mktemp("watching"), walks=walks_in(Path(__file__).parent)) as it:
        yield it


@pytest.fixture(scope="session")
def store(prometheus: Watching) -> Iterator[Sandbox]:
    """Return the store, which each walk leaves as it was; Prometheus needs its first seconds to look for brokers."""
    del prometheus
    with sandbox(fresh_for="5m") as place:
        yield place


@pytest.fixture
def walk(
    request: pytest.FixtureRequest,
    prometheus: Watching,
    store: Sandbox,
    tmp_path: Path,
) -> Iterator[Walk]:
    """Return the walk of the page that the test is named after."""
    page = page_of(request.node.name)
    name = request.node.name.removeprefix("test_").replace("_", "-")
    port = prometheus.port_of(name)
    with walking(tmp_path, page=page, store=store, watcher=prometheus.of(name), port=port) as it:
        yield it
        # The other tests of a page walk one of its side ways.
        if name == page.stem:
            assert it.not_run() == []
    for file in prometheus.monitoring.collected.glob("*.prom"):
        file.unlink()
