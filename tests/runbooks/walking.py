"""One walk: a broker set up as the pages assume, its fault, and the commands of its page.

What a page says is what a walk asserts, so that neither can change without the other: a command is taken from the page
by its beginning, and `Shown.says` looks for each of its words on the page and in what the command shows. At its end a
walk has run every command of its page that can run here.
"""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from broker.cli.sandbox import Sandbox
from tests.docs.surroundings import (
    AGENT_PORT,
    OPERATIONS_PORT,
    STORE_PORT,
    Surroundings,
    empty,
    install,
    shell_environment,
)
from tests.runbooks.pages import ELSEWHERE, Runbook
from tests.runbooks.watching import Watcher
from tests.running import Answer, RunningBroker, serving, verb
from tests.waiting import wait_until

HURRIED = "tests.runbooks.hurried"
API_KEY = "vault:secret/logflux#api_key"


@dataclass(frozen=True)
class Shown:
    """What a command of a page showed."""

    page: Runbook
    command: str
    status: int
    output: str

    def says(self, *words: str) -> "Shown":
        """Assert that the page speaks of each of `words`, and that the command showed it."""
        for word in words:
            assert self.page.says(word), f"{self.page.name} does not speak of {word!r}"
            assert word in self.output, f"{self.command}: no {word!r} in\n{self.output}"
        return self

    def has(self, *words: str) -> "Shown":
        """Assert that the command showed each of `words`, which are of this walk alone."""
        for word in words:
            assert word in self.output, f"{self.command}: no {word!r} in\n{self.output}"
        return self


@dataclass
class Walk:
    """A broker whose fault one page is about."""

    page: Runbook
    here: Surroundings
    place: Sandbox
    watcher: Watcher
    # What the journal of each unit would hold.
    journal: dict[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    _broker: RunningBroker | None = None
    _running: ExitStack = field(default_factory=ExitStack)
    _done: set[str] = field(default_factory=set)

    def start(self, *, path: str = "/readyz") -> None:
        """Start the broker and wait until Prometheus has seen it."""
        running = serving(self.place, environment=dict(self.environment), module=HURRIED, path=path)
        self._broker = self._running.enter_context(running)
        wait_until(lambda: self.watcher.sees, "Prometheus sees the broker")

    def stop(self) -> None:
        self._running.close()
        self._broker = None

    def restart(self, *, path: str = "/readyz") -> None:
        self.stop()
        self.start(path=path)

    @property
    def broker(self) -> RunningBroker:
        assert self._broker is not None, "it does not run"
        return self._broker

    def resolve(self, *references: str, **how: Any) -> Answer:
        return self.broker.resolve(*references or (API_KEY,), **how)

    def path(self, page_path: str) -> Path:
        """Return where the file is that a page has at `page_path`."""
        return Path(self.here.here(page_path))

    @property
    def database(self) -> Path:
        return self.path("/var/lib/logflux-broker/audit.db")

    def change_settings(self, **sections: Any) -> None:
        file = self.path("/etc/logflux-broker/broker.yaml")
        file.write_text(yaml.safe_dump(_merged(yaml.safe_load(file.read_text()), sections)))

    def change_policy(self, old: str, new: str) -> None:
        file = self.path("/etc/logflux-broker/policy.yaml")
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def hang_up(self) -> None:
        """Let the broker read its files again, as `systemctl reload` does."""
        self.broker.child.handle.send_signal(signal.SIGHUP)

    # What Prometheus sees.

    def is_quiet(self) -> None:
        """Wait until none of the page's alerts is raised: Prometheus may have looked while the broker started."""
        wait_until(
            lambda: not any(self.watcher.raises(alert) for alert in self.page.alerts), "no alert before the fault"
        )

    def raises(self, *alerts: str) -> None:
        """Wait until the expression of each alert, of all that the page names by default, finds the fault."""
        for alert in alerts or self.page.alerts:
            wait_until(lambda: self.watcher.raises(alert), f"{alert} is raised")  # noqa: B023  Called here.

    def ends(self, *alerts: str) -> None:
        """Wait until the expression of each alert, looking at the last seconds, finds it no more."""
        for alert in alerts or self.page.alerts:
            wait_until(lambda: not self.watcher.raised_lately(alert), f"{alert} ends")  # noqa: B023  As above.

    # What the page shows.

    def run(self, beginning: str, *, status: int = 0) -> Shown:
        """Run the command of the page that begins so, and assert its exit status."""
        [command] = [one for one in self.page.commands if f"{one}\n".startswith(beginning)]
        self._done.add(command)
        shown = self._journal(command) if command.startswith("journalctl") else self._run(command)
        assert shown.status == status, f"{command}: exit status {shown.status}\n{shown.output}"
        return shown

    def not_run(self) -> list[str]:
        """Return the commands of the page that could run here and did not yet."""
        return [
            one for one in self.page.commands if one not in self._done and one.split(maxsplit=1)[0] not in ELSEWHERE
        ]

    def _run(self, command: str) -> Shown:
        line = self.here.here(command.replace("https://vault.prod.example:8200", self.place.store_address))
        if line.startswith("broker "):
            with mock.patch.dict(os.environ, self.here.environment):
                done = verb(*shlex.split(line)[1:])
        else:
            shell, environment = ["sh", "-c", line], shell_environment(self.here)
            done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False, env=environment)
        return Shown(self.page, command, done.returncode, done.stdout + done.stderr)

    def _journal(self, command: str) -> Shown:
        """Answer `journalctl -u UNIT -n COUNT --grep PATTERN` from what the unit wrote."""
        words = shlex.split(command)
        given = dict(zip(words[1::2], words[2::2], strict=True))
        assert set(given) <= {"-u", "-n", "--grep"}, command
        unit = given["-u"]
        text = self.journal.get(unit) or self.broker.log
        pattern = given.get("--grep", "")
        # As journalctl: a pattern without capitals does not look at the case.
        lines = [
            line for line in text.splitlines() if re.search(pattern, line, re.IGNORECASE if pattern.islower() else 0)
        ]
        return Shown(self.page, command, 0, "\n".join(lines[-int(given.get("-n", "1000")) :]))


@contextmanager
def walking(root: Path, *, page: Runbook, store: Sandbox, watcher: Watcher, port: int) -> Iterator[Walk]:
    """Set a broker up, which the walk starts, and end it."""
    here = empty(root)
    here.ports[OPERATIONS_PORT] = port
    here.ports[STORE_PORT] = int(store.store_address.rpartition(":")[2])
    install(here, store)
    operator = here.work / "operator"
    here.environment.update(
        {
            "BAO_ADDR": store.store_address,
            "BAO_TOKEN": store.store_token,
            # By which `broker health` finds the broker of this machine.
            "LOGFLUX_OPERATIONS__PORT": str(port),
            "LOGFLUX_BROKER_URL": f"https://localhost:{here.ports[AGENT_PORT]}",
            "LOGFLUX_BROKER_CA": str(here.work / "ca.crt"),
            "LOGFLUX_AGENT_CERT": f"{operator}.crt",
            "LOGFLUX_AGENT_KEY": f"{operator}.key",
        }
    )
    place = replace(
        store,
        directory=here.work,
        settings_file=here.root / "etc" / "logflux-broker" / "broker.yaml",
        agent_port=here.ports[AGENT_PORT],
        operations_port=port,
    )
    walk = Walk(page=page, here=here, place=place, watcher=watcher)
    try:
        yield walk
    finally:
        walk.stop()


@contextmanager
def sealed(store: Sandbox) -> Iterator[None]:
    """Seal the store for as long as the block lasts."""
    ask(store, "PUT", "sys/seal")
    try:
        yield
    finally:
        keys = [line.split()[-1] for line in store.store.log.read_text().splitlines() if line.startswith("Unseal Key:")]
        ask(store, "PUT", "sys/unseal", key=keys[0])


@contextmanager
def hanging(store: Sandbox) -> Iterator[None]:
    """Let the store answer nothing for as long as the block lasts."""
    os.kill(store.store.handle.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(store.store.handle.pid, signal.SIGCONT)


def ask(store: Sandbox, method: str, path: str, **body: Any) -> dict[str, Any]:
    """Ask the store as its administrator."""
    return store.ask_store(method, path, body)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        merged[key] = _merged(merged.get(key) or {}, value) if isinstance(value, Mapping) else value
    return merged
