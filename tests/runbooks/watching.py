"""A real Prometheus that watches the brokers of all walks, with the deployed rules.

Each walk has a job of its own, named by its test, because several rules add up over a job.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from broker.cli.child import free_port
from tests.monitoring import DEPLOYED, Monitoring, Receiver, hurried, node_exporter, prometheus
from tests.runbooks.pages import ALERTS, lately

_EVERY: Final = "250ms"
_LATELY: Final = "2s"
_DAY: Final = 86_400
# The one rule that asks for a job by its name.
_JOBS: Final = {"broker-down": "broker"}


@dataclass(frozen=True)
class Watcher:
    """What Prometheus says about the broker of one walk."""

    monitoring: Monitoring
    job: str

    def raises(self, alert: str) -> bool:
        """Tell whether the alert's own expression, as it is deployed, finds something now."""
        return bool(self.find(ALERTS[alert]))

    def raised_lately(self, alert: str) -> bool:
        """Tell whether it finds something when it looks at the last seconds only, or had too little to look at."""
        looked = self.find(f'count_over_time(up{{job="{self.job}"}}[{_LATELY}]) >= 2')
        return not looked or bool(self.find(lately(ALERTS[alert], window=_LATELY)))

    def find(self, expression: str) -> list[dict[str, Any]]:
        ours = {self.job, "node", None}
        return [one for one in self.monitoring.query(expression) if one["metric"].get("job") in ours]

    @property
    def sees(self) -> bool:
        return bool(self.find(f'up{{job="{self.job}"}} == 1'))


@dataclass(frozen=True)
class Watching:
    """The one Prometheus, and the ports at which it looks for the operations listener of each walk."""

    monitoring: Monitoring
    # Bound until the walk begins, so that nobody else is given them meanwhile.
    kept: dict[str, socket.socket]

    def port_of(self, walk: str) -> int:
        """Return the port of a walk, which is free from now on."""
        with self.kept[walk] as kept:
            return int(kept.getsockname()[1])

    def of(self, walk: str) -> Watcher:
        return Watcher(self.monitoring, _JOBS.get(walk, walk))


@contextmanager
def watching(directory: Path, *, walks: Iterable[str]) -> Iterator[Watching]:
    """Run Prometheus, which looks for a broker of each of `walks`."""
    collected, place = directory / "collected", directory / "prometheus"
    collected.mkdir()
    shutil.copytree(DEPLOYED, place)
    _write_yesterday(directory)
    with ExitStack() as stack:
        kept = {walk: stack.enter_context(_bound()) for walk in walks}
        ports = {walk: int(one.getsockname()[1]) for walk, one in kept.items()}
        node, own = free_port(), free_port()
        for file in place.rglob("*.yml"):
            file.write_text(hurried(file.read_text(), {"127.0.0.1:9100": f"127.0.0.1:{node}"}, every=_EVERY))
        settings = place / "prometheus.yml"
        settings.write_text(yaml.safe_dump(_for_each_walk(yaml.safe_load(settings.read_text()), ports)))
        stack.enter_context(node_exporter(directory, node, collected))
        stack.enter_context(prometheus(directory, own, place))
        yield Watching(Monitoring(own, Receiver(), collected), kept)


def _bound() -> socket.socket:
    """Return a socket that keeps a port and does not listen."""
    kept = socket.socket()
    kept.bind(("127.0.0.1", 0))
    return kept


def _for_each_walk(settings: dict[str, Any], ports: dict[str, int]) -> dict[str, Any]:
    broker, *others = settings["scrape_configs"]
    jobs = [
        {**broker, "job_name": _JOBS.get(walk, walk), "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        for walk, port in ports.items()
    ]
    return {**settings, "alerting": {}, "scrape_configs": [*jobs, *others]}


def _write_yesterday(directory: Path) -> None:
    """Give Prometheus a quiet day before, against which a jump is measured."""
    name, now = "job:broker_references_denied:rate10m", int(time.time())
    lines = [f'{name}{{job="denials-jump"}} 0.001 {at}\n' for at in range(now - _DAY, now - 900, 60)]
    file = directory / "yesterday.txt"
    # A colon in a name is for recorded rules; the type lets the tool take it.
    file.write_text(f"# TYPE {name} gauge\n{''.join(lines)}# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(file), str(directory / "tsdb")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
