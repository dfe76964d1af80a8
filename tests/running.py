"""A whole broker for tests: real store, real certificates, `broker serve` in a process of its own."""

import contextlib
import http.client
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.__main__ import main
from broker.cli.child import Process, process, wait_for
from broker.cli.sandbox import Sandbox, sandbox

# What the shipper of a sandbox may read.
API_KEY = "vault:secret/logflux#api_key"
PAT = "env:LOGFLUX_PAT"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class RunningBroker:
    place: Sandbox
    child: Process

    def context(self, agent: str | None = "shipper") -> ssl.SSLContext:
        """Return what a connection of `agent` needs; None: of somebody without a certificate."""
        context = ssl.create_default_context(cafile=str(self.place.authority))
        if agent is not None:
            context.load_cert_chain(*self.place.certificate(agent))
        return context

    def connection(self, agent: str | None = "shipper", *, seconds: float = 20.0) -> http.client.HTTPSConnection:
        """Return a connection of `agent` that is not open yet."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.place.agent_port, context=self.context(agent), timeout=seconds
        )

    def post(
        self, path: str, body: bytes | str, *, agent: str | None = "shipper", headers: dict[str, str] | None = None
    ) -> Answer:
        return self.send(
            "POST", path, body, agent=agent, headers={"Content-Type": "application/json", **(headers or {})}
        )

    def send(
        self,
        method: str,
        path: str,
        body: bytes | str | None,
        *,
        headers: dict[str, str],
        agent: str | None = "shipper",
    ) -> Answer:
        connection = self.connection(agent)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def resolve(
        self, *references: str, agent: str = "shipper", require: str = "all", token: str | None = None
    ) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.post(
            "/v1/resolve", json.dumps({"references": references, "require": require}), agent=agent, headers=headers
        )

    def operations(self, path: str, accept: str = "*/*") -> Answer:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.place.operations_port}{path}", headers={"Accept": accept}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())

    def write_api_key(self, value: str) -> None:
        """Write another value of `API_KEY` into the store, and leave the other fields as they are."""
        fields = self.place.ask_store("GET", "secret/data/logflux")["data"]["data"]
        self.place.ask_store("POST", "secret/data/logflux", {"data": {**fields, "api_key": value}})

    def terminate(self) -> int:
        self.child.handle.send_signal(signal.SIGTERM)
        return self.child.handle.wait(timeout=60)

    @property
    def log(self) -> str:
        return self.child.log.read_text(errors="replace")


@contextmanager
def serving(
    place: Sandbox,
    *,
    environment: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
    module: str = "broker",
    path: str = "/readyz",
) -> Iterator[RunningBroker]:
    command = [*wrapper, sys.executable, "-m", module, "serve", "--config", str(place.settings_file)]
    log = place.directory / "broker.log"
    with process(command, log=log, environment={**os.environ, **(environment or {})}) as child:
        wait_for(f"http://127.0.0.1:{place.operations_port}{path}", child)
        yield RunningBroker(place, child)


@contextmanager
def running(
    *, fresh_for: str = "5m", environment: dict[str, str] | None = None, wrapper: Sequence[str] = ()
) -> Iterator[RunningBroker]:
    with (
        sandbox(fresh_for=fresh_for) as place,
        serving(place, environment=environment, wrapper=wrapper) as broker,
    ):
        yield broker


def serve_again(settings: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `broker serve` where it is expected to end by itself."""
    command = [sys.executable, "-m", "broker", "serve", "--config", str(settings)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def verb(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run `broker WORDS` in this process, which costs a tenth of a process of its own."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(list(words))
    return subprocess.CompletedProcess(words, status, output.getvalue(), errors.getvalue())


def audit(broker: RunningBroker, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `broker audit NAME` on the trail of `broker`."""
    return verb("audit", name, "--database", str(broker.place.database), *arguments)


def append_line(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)
