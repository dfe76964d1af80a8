"""The files below deploy/systemd, checked by systemd itself, and a broker confined as they say."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.cli.sandbox import sandbox
from broker.config_source import read_settings
from tests.confined import allowed_calls
from tests.running import RunningBroker
from tests.service_manager import supervisor

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
SERVICE = UNITS / "broker.service"
GUIDE = ROOT / "docs" / "how-to" / "linux-host.md"
CONFINED = ROOT / "tests" / "confined.py"
MOST_EXPOSED = 2.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and os.environ.get("CI") != "true",
    reason="needs systemd's tools: sudo apt-get install systemd",
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", SERVICE.read_text(), re.MULTILINE)


@needs_systemd
def test_the_units_verify_without_a_word(tmp_path: Path) -> None:
    names = [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]
    for file in names:
        # The broker is not installed here; everything else is as it will be.
        text = file.read_text().replace("/opt/logflux-broker/bin/broker", shutil.which("true") or "")
        (tmp_path / file.name).write_text(text)
    shutil.copytree(UNITS / "broker.service.d", tmp_path / "broker.service.d")
    verified = analyze("verify", *(str(tmp_path / file.name) for file in names))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_systemd
def test_the_exposure_is_at_most_2_0_and_is_what_the_guide_says() -> None:
    judged = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", str(SERVICE))
    assert judged.returncode == 0, judged.stdout + judged.stderr
    figure = re.search(r"Overall exposure level for broker\.service: (\d+\.\d)", judged.stdout)
    assert figure is not None
    said = re.findall(r"exposure level (\d+\.\d)", GUIDE.read_text())
    # The figure of a newer systemd may differ by what it looks at besides; the one in the guide names its version.
    assert said
    assert float(figure[1]) <= MOST_EXPOSED
    if " 252 " in analyze("--version").stdout:
        assert set(said) == {figure[1]}


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may make files of root")
def test_the_directories_and_the_user_are_made_as_said(tmp_path: Path) -> None:
    credentials = tmp_path / "etc" / "logflux-broker" / "credentials"
    credentials.mkdir(parents=True, mode=0o755)
    (credentials / "tls.key").touch(mode=0o644)
    for command, file in (("systemd-sysusers", "sysusers.conf"), ("systemd-tmpfiles", "tmpfiles.conf")):
        options = ["--create"] if command == "systemd-tmpfiles" else []
        subprocess.run([command, f"--root={tmp_path}", *options, UNITS / file], check=True, timeout=60)
    assert "logflux-broker:" in (tmp_path / "etc" / "passwd").read_text()
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (credentials.parent, credentials, credentials / "tls.key")
    }
    assert modes == {"logflux-broker": 0o755, "credentials": 0o700, "tls.key": 0o600}


def test_every_credential_that_the_settings_name_is_loaded_by_the_unit() -> None:
    settings = read_settings(UNITS / "broker.yaml", environment={})
    loaded = {value.partition(":")[0] for value in setting("LoadCredential")}
    named = set(re.findall(r"/run/credentials/broker\.service/(\S+)", (UNITS / "broker.yaml").read_text()))
    assert named == loaded
    assert settings.tls.key == Path("/run/credentials/broker.service/tls.key")


def test_the_unit_and_the_settings_agree() -> None:
    settings = read_settings(UNITS / "broker.yaml", environment={})
    assert settings.state_directory == Path("/var/lib") / setting("StateDirectory")[0]
    stop = float(setting("TimeoutStopSec")[0].removesuffix("s"))
    assert stop > settings.listen.drain_seconds
    files = int(setting("LimitNOFILE")[0])
    assert files > settings.listen.max_connections + 1024
    for socket_unit in sorted(UNITS.glob("*.socket")):
        assert socket_unit.name in setting("Requires")[0].split()
        assert "Service=broker.service" in socket_unit.read_text()


@contextmanager
def confined_broker(*options: str) -> Iterator[RunningBroker]:
    before = (sys.executable, str(CONFINED), str(SERVICE))
    with (
        sandbox(fresh_for="5m") as place,
        supervisor(place) as manager,
        manager.broker(before=before, options=options) as child,
    ):
        manager.notify.wait_for("READY=1")
        yield RunningBroker(place, child)
        assert manager.stop(child) == 0


@needs_systemd
@pytest.mark.skipif(
    tuple(int(part) for part in platform.release().split(".")[:2]) < (6, 3),
    reason="the kernel can refuse writable and executable memory by itself since Linux 6.3",
)
@pytest.mark.parametrize("options", [(), ("--uvloop",)], ids=["asyncio", "uvloop"])
def test_a_broker_confined_like_the_unit_resolves_every_kind_of_reference(options: tuple[str, ...]) -> None:
    with confined_broker(*options) as broker:
        status = Path(f"/proc/{broker.child.handle.pid}/status").read_text()
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
        file = f"file:{broker.place.files}/tls_passphrase"
        answer = broker.resolve("vault:secret/logflux#api_key", "env:LOGFLUX_PAT", file)
        assert answer.status == 200, answer.body
        assert {result["status"] for result in answer.json["results"]} == {"ok"}
        assert broker.operations("/readyz").status == 200


@needs_systemd
def test_the_filter_allows_openat2_and_nothing_that_mounts_or_changes_the_user() -> None:
    calls = allowed_calls(SERVICE)
    assert {"openat2", "accept4", "fsync"} <= calls
    assert not {"mount", "setuid", "setresuid", "ptrace", "bpf", "chown", "kexec_load", "clock_settime"} & calls
