"""The runbooks walked through: every command on them that can run here runs against a real broker."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.__main__ import main
from broker.cli.child import free_port
from broker.cli.sandbox import SHIPPER
from tests.running import RunningBroker, running

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
# What is there on the operator's machine, and not here.
ELSEWHERE = ("journalctl", "systemctl", "chronyc", "bao", "kubectl", "df", "ls", "date")
HERE = ("broker", "curl", "openssl")


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


STEPS = [
    pytest.param(line, id=f"{page.stem}: {line[:60]}")
    for page in PAGES
    for line in commands(page)
    if line.split(maxsplit=1)[0] in HERE
]


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        assert it.resolve("vault:secret/logflux#api_key").status == 200
        assert it.resolve("vault:secret/logflux#api_key", agent="stranger").status == 403
        yield it


@pytest.fixture
def here(broker: RunningBroker, tmp_path: Path) -> dict[str, str]:
    """Return what stands in the place of an operator's paths and names."""
    place = broker.place
    return {
        "/var/lib/logflux-broker/audit.db": str(place.database),
        "/mnt/worm/checkpoints.log": str(place.database.with_name("checkpoints.log")),
        "/etc/logflux-broker/broker.yaml": str(place.settings_file),
        "/etc/logflux-broker/policy.yaml": str(place.directory / "policy.yaml"),
        "/etc/logflux-broker/tls/tls.crt": str(place.certificate("broker")[0]),
        "/etc/logflux-broker/tls/agents-ca.crt": str(place.authority),
        "/var/lib/prometheus/node-exporter": str(tmp_path),
        "http://127.0.0.1:9102": f"http://127.0.0.1:{place.operations_port}",
        "spiffe://prod.example/logflux/shipper": SHIPPER,
        "broker health": f"broker health --url http://127.0.0.1:{place.operations_port}/readyz",
    }


def test_every_command_is_run_here_or_known_to_be_of_another_machine() -> None:
    words = {line.split(maxsplit=1)[0] for page in PAGES for line in commands(page)}
    assert words - set(HERE) == words & set(ELSEWHERE)


def test_every_unit_that_a_page_asks_systemd_about_is_one_of_ours() -> None:
    pages = [*PAGES, *(ROOT / "docs" / "how-to").glob("*.md")]
    lines = [
        line for page in pages for line in page.read_text().splitlines() if "systemctl" in line or "journalctl" in line
    ]
    named = {
        word
        for line in lines
        for word in re.findall(r"(?:-u |\b)((?:logflux-)?broker[a-z-]*)(?:\.service|\.socket|\.timer| |$)", line)
    }
    ours = {path.stem for path in (ROOT / "deploy" / "systemd").glob("broker*.*")}
    assert named
    assert named <= {*ours, "logflux-broker-verify"}


@pytest.mark.parametrize("line", STEPS)
def test_a_command_of_a_runbook_is_run(
    line: str, here: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "check-config" in line and "--running" not in line:
        # Where the page's broker is down, nothing listens on its ports.
        monkeypatch.setenv("LOGFLUX_LISTEN__PORT", str(free_port()))
        monkeypatch.setenv("LOGFLUX_OPERATIONS__PORT", str(free_port()))
    for old, new in here.items():
        line = line.replace(old, new)
    tool, *arguments = shlex.split(line)
    if tool == "broker":
        status, output = main(arguments), capsys.readouterr().out
    elif shutil.which(tool) is None and os.environ.get("CI") != "true":
        pytest.skip(f"needs {tool}; to run it: sudo apt-get install {tool}")
    else:
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
        status, output = done.returncode, done.stdout + done.stderr
    # Also the status of `grep`: a series that the page names and that is not there is a fault of the page.
    assert status == 0, output
    # Nothing was refused at the handshake or reloaded yet, so that some searches find nothing.
    assert output or "audit search" in line
