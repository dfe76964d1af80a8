"""What `deploy/prometheus/` describes, running: Prometheus, Alertmanager, node exporter, and somebody who is told.

The files are the deployed ones. Replaced are the addresses and, as docs/monitoring.md says, each `for:` and the
intervals by one second; the expressions stay as they are.
"""

import json
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from broker.cli.child import free_port, process, wait_for
from tests.answering import answering

ROOT = Path(__file__).parents[1]
DEPLOYED = ROOT / "deploy" / "prometheus"


@dataclass
class Receiver:
    """Keeps the alerts that Alertmanager sends."""

    told: list[tuple[str, str, str]] = field(default_factory=list)

    def was_told(self, status: str, alert: str) -> bool:
        return any(one[:2] == (status, alert) for one in self.told)

    def summary(self, alert: str) -> str:
        return next(text for status, name, text in self.told if (status, name) == ("firing", alert))


@dataclass(frozen=True)
class Monitoring:
    port: int
    receiver: Receiver
    collected: Path

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/api/v1/query?query={urllib.parse.quote(expression)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return list(json.load(answer)["data"]["result"])


@contextmanager
def monitoring(directory: Path, *, operations_port: int) -> Iterator[Monitoring]:
    """Run the deployed monitoring against the broker whose operations listener has that port."""
    collected = directory / "collected"
    collected.mkdir()
    with ExitStack() as stack:
        receiver, hook = stack.enter_context(_receiving())
        ports = {name: free_port() for name in ("prometheus", "alertmanager", "node")}
        replaced = {
            "127.0.0.1:9093": f"127.0.0.1:{ports['alertmanager']}",
            "127.0.0.1:9100": f"127.0.0.1:{ports['node']}",
            "127.0.0.1:9102": f"127.0.0.1:{operations_port}",
            "127.0.0.1:9099": f"127.0.0.1:{hook}",
        }
        place = directory / "prometheus"
        shutil.copytree(DEPLOYED, place)
        for file in place.rglob("*.yml"):
            file.write_text(hurried(file.read_text(), replaced))
        stack.enter_context(node_exporter(directory, ports["node"], collected))
        stack.enter_context(_alertmanager(directory, ports["alertmanager"], place))
        stack.enter_context(prometheus(directory, ports["prometheus"], place))
        yield Monitoring(ports["prometheus"], receiver, collected)


def hurried(text: str, replaced: dict[str, str], *, every: str = "1s") -> str:
    """Return a deployed file with the addresses of this place, and with every time of waiting so short."""
    for old, new in replaced.items():
        text = text.replace(old, new)
    return re.sub(
        r"^(\s*)(for|scrape_interval|evaluation_interval|group_wait|group_interval): \S+$",
        rf"\1\2: {every}",
        text,
        flags=re.MULTILINE,
    )


@contextmanager
def _receiving() -> Iterator[tuple[Receiver, int]]:
    receiver = Receiver()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
                told = (alert["status"], alert["labels"]["alertname"], alert["annotations"]["summary"])
                receiver.told.append(told)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with answering(ThreadingHTTPServer(("127.0.0.1", 0), Hook)) as server:
        yield receiver, server.server_port


def node_exporter(directory: Path, port: int, collected: Path) -> AbstractContextManager[None]:
    """Run the textfile collector over `collected`."""
    command = [
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={collected}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    return _program(command, log=directory / "node.log", answers=f"http://127.0.0.1:{port}/metrics")


def _alertmanager(directory: Path, port: int, place: Path) -> AbstractContextManager[None]:
    command = [
        "prometheus-alertmanager",
        f"--config.file={place / 'alertmanager.yml'}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # No cluster of its own kind is looked for.
        "--cluster.listen-address=",
    ]
    return _program(command, log=directory / "alertmanager.log", answers=f"http://127.0.0.1:{port}/-/ready")


def prometheus(directory: Path, port: int, place: Path) -> AbstractContextManager[None]:
    """Run Prometheus with the configuration in `place`."""
    command = [
        "prometheus",
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    return _program(command, log=directory / "prometheus.log", answers=f"http://127.0.0.1:{port}/-/ready")


@contextmanager
def _program(command: Sequence[str], *, log: Path, answers: str) -> Iterator[None]:
    """Run a program until the block ends; the block begins when the address `answers` does."""
    with process(command, log=log) as child:
        wait_for(answers, child)
        yield
