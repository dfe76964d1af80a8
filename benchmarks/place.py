"""A broker in a process of its own, with many identities, before a real store that writes down what it is asked."""

import http.client
import json
import os
import ssl
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from broker.cli.child import Process, process, wait_for
from tests.certificates import Files, TestAuthority, client_context
from tests.faults.setting import write_settings
from tests.openbao import OpenBao
from tests.vaults import private

Json = dict[str, Any]
_PATIENCE: Final = 300.0


class Place:
    """What a broker needs, below one directory: settings, policy, certificates and a role in the store."""

    def __init__(self, directory: Path, store: OpenBao, *, identities: int, allow: Sequence[str], rules: str) -> None:
        """Let `identities` have what `allow` names; `rules` are the broker's rights in the store."""
        self.directory = directory
        self.store = store
        self.authority = TestAuthority(directory / "pki")
        names = [f"spiffe://test.example/crowd/{number}" for number in range(identities)]
        self.agents = [self.authority.agent(name) for name in names]
        self._allow = list(allow)
        self._identities = {
            f"agent-{number}": {"spiffe": name, "environment": "test"} for number, name in enumerate(names)
        }
        self._ports: dict[str, int] = {}
        store.policy("broker", rules)
        role_id, secret_id = store.approle("broker", ["broker"])
        private(directory / "role_id", role_id)
        private(directory / "secret_id", secret_id)

    @contextmanager
    def broker(self, vault: Json, *, module: str = "broker", **sections: Json) -> Iterator[Process]:
        """Run it with the defaults of everything but `vault`, its section for the store, and `sections`."""
        file = write_settings(self.directory, self.authority, [self.store.address], {})
        settings = json.loads(file.read_text())
        known = settings["providers"]["vault"]
        settings["providers"]["vault"] = {"addresses": known["addresses"], "auth": known["auth"], **vault}
        for name, section in sections.items():
            settings[name] = settings.get(name, {}) | section
        file.write_text(json.dumps(settings))
        rule = {"name": "the crowd reads", "allow": self._allow, "to": list(self._identities)}
        policy = {"identities": self._identities, "rules": [rule]}
        (self.directory / "policy.yaml").write_text(json.dumps(policy))
        self._ports = {name: settings[name]["port"] for name in ("listen", "operations")}
        command = [sys.executable, "-m", module, "serve", "--config", str(file)]
        environment = {**os.environ, "LOGFLUX_LOG_LEVEL": "warning", "TIME_SHIFT": str(self.shift_file)}
        with process(command, log=self.directory / "broker.log", environment=environment) as child:
            wait_for(f"http://127.0.0.1:{self._ports['operations']}/readyz", child)
            yield child

    @property
    def port(self) -> int:
        """Return the port that agents connect to."""
        return self._ports["listen"]

    @property
    def shift_file(self) -> Path:
        """Return where `tests.shifting` reads how far the clocks are advanced."""
        return self.directory / "shift"

    def advance(self, seconds: float) -> None:
        """Advance both clocks of the broker, which runs as `tests.shifting`."""
        private(self.shift_file, str(seconds))

    def context(self, agent: Files) -> ssl.SSLContext:
        """Return what `agent` connects with."""
        return client_context(self.authority.ca_path, agent)

    def resolve(self, agent: Files, references: Sequence[str]) -> list[Json]:
        """Return the results of one request, all of which have to be there."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context(agent), timeout=_PATIENCE)
        try:
            body = json.dumps({"references": references})
            connection.request("POST", "/v1/resolve", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            document = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise SystemExit(f"a request failed: {answer.status} {document}")
        return list(document["results"])

    def metrics(self, name: str) -> dict[str, float]:
        """Return what the broker counts under `name`, by labels."""
        url = f"http://127.0.0.1:{self._ports['operations']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith((f"{name}{{", f"{name} ")))
        return {labels.removeprefix(name): float(value) for labels, _, value in found}


def resident_bytes(child: Process) -> int:
    """Return the memory that a process has now."""
    for line in Path(f"/proc/{child.handle.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the broker has ended")


def processor_seconds(pid: int) -> float:
    """Return what all threads of a process have used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
