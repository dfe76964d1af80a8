"""The image, really built and really run; `make image-check` runs this, and `make test` does not collect it."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from tests.image.conftest import ROOT, STATE, Builds, Report, Running
from tests.image.package_index import PackageIndex

REFERENCE = "vault:secret/logflux#api_key"
ADDED_BYTES = 60_000_000
BUILDERS_FILES = re.compile(r"pip\.conf|/pip/|/hatchling|\.cache|direct_url|/opt/build")
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40,}")
NOT_COMPILED = """
import json, os, sys
from importlib.machinery import SourceFileLoader
import broker.cli.serve, broker.cli.health
sources = [m for m in sys.modules.values() if isinstance(getattr(m, "__loader__", None), SourceFileLoader)]
print(json.dumps([m.__file__ for m in sources if not os.path.exists(m.__cached__)]))
"""


def test_two_builds_of_one_commit_have_the_same_contents(builds: Builds, report: Report) -> None:
    assert builds.first.layers == builds.second.layers
    # Docker's format carries the build container's own name, so the digest is compared in the OCI format.
    pushed = builds.first.pushed()
    assert pushed.digest == builds.second.pushed().digest
    report.figure("manifest, both builds", pushed.digest)
    report.figure("compressed", f"{pushed.bytes_in_layers[-1] / 1e6:.1f} MB above the base")


def test_the_image_adds_at_most_60_megabytes_to_its_base(builds: Builds, report: Report) -> None:
    added = sum(path.stat().st_size for path in builds.added.values())
    whole = sum(path.lstat().st_size for path in builds.first.files.values() if not path.is_dir())
    report.figure("size", f"{whole / 1e6:.1f} MB, of which {added / 1e6:.1f} MB above the base")
    assert added <= ADDED_BYTES


def test_the_image_says_how_it_is_run(builds: Builds) -> None:
    wanted = builds.first.configuration
    assert wanted["User"] == "1000:1000"
    assert wanted["StopSignal"] == "SIGTERM"
    assert list(wanted["Volumes"]) == [STATE]
    assert list(wanted["ExposedPorts"]) == ["8443/tcp"]
    assert [*wanted["Entrypoint"], *wanted["Cmd"]] == ["broker", "serve"]
    assert wanted["Healthcheck"]["Test"] == ["CMD", "broker", "health", "--exclude", "vault"]


def test_the_image_names_its_version_and_its_commit(builds: Builds) -> None:
    labels = builds.first.configuration["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.revision"] == builds.revision


def test_no_trace_of_the_builder_is_in_the_image(builds: Builds, package_index: PackageIndex) -> None:
    for trace in (*package_index.traces(), str(ROOT).encode(), b"/src/broker"):
        assert [name for name, path in builds.added.items() if trace in path.read_bytes()] == []
        assert trace.decode() not in builds.first.history
    new = builds.first.files.keys() - builds.base.files.keys()
    assert {
        name for name in new if re.search(r"pip\.conf|/pip/|/hatchling|\.cache|direct_url|/opt/build", name)
    } == set()
    # A mount point that the build left behind would be a new entry outside these places.
    library = os.path.commonpath([name for name in new if name.startswith("/usr/")])
    places = ("/opt/broker", "/etc/logflux-broker", STATE, library)
    assert {name for name in new if not name.startswith(places)} == set()


def test_no_private_key_is_in_the_image(builds: Builds) -> None:
    assert [name for name, path in builds.added.items() if PRIVATE_KEY.search(path.read_bytes())] == []


def test_nobody_but_root_may_change_what_the_image_adds(builds: Builds) -> None:
    own = {name: path.lstat() for name, path in builds.first.files.items() if name not in builds.base.files}
    writable = {n for n, s in own.items() if not stat.S_ISLNK(s.st_mode) and s.st_mode & (stat.S_IWGRP | stat.S_IWOTH)}
    assert writable == set()
    assert {name for name, status in own.items() if status.st_mode & (stat.S_ISUID | stat.S_ISGID)} == set()
    assert {name for name, status in own.items() if status.st_uid != 0} == {STATE}
    assert stat.S_IMODE(own[STATE].st_mode) == 0o700


def test_the_broker_becomes_ready(served: Running, report: Report) -> None:
    report.figure("time to ready", f"{served.seconds_to_ready:.2f} s from the start of the container")


def test_the_broker_runs_as_uid_and_gid_1000_without_any_capability(served: Running) -> None:
    status = served.container.status
    assert set(status["Uid"].split()) == {"1000"}
    assert set(status["Gid"].split()) == {"1000"}
    capabilities = {key: value for key, value in status.items() if key.startswith("Cap")}
    assert len(capabilities) == 5
    assert {int(value, 16) for value in capabilities.values()} == {0}
    assert status["NoNewPrivs"] == "1"


def test_only_tmp_and_the_state_volume_can_be_written(served: Running) -> None:
    probe = Path(__file__).with_name("writable_places.py").read_text()
    places = json.loads(served.container.execute("python", "-c", probe))
    assert places == ["/tmp", STATE]


def test_an_agent_outside_gets_the_value_that_the_store_outside_holds(served: Running, report: Report) -> None:
    place = served.place
    stored = place.ask_store("GET", "secret/data/logflux")
    assert _get(served, agent="shipper").stdout.strip() == stored["data"]["data"]["api_key"]
    status = served.container.status
    report.figure("resident memory, idle", f"{int(status['VmRSS'].split()[0]) / 1024:.1f} MiB after one request")


def test_an_agent_without_a_rule_gets_nothing(served: Running) -> None:
    refused = _get(served, agent="stranger")
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert "denied" in refused.stderr


def test_the_health_check_of_the_image_works_in_the_container(served: Running, builds: Builds, report: Report) -> None:
    kind, *command = builds.first.configuration["Healthcheck"]["Test"]
    assert kind == "CMD"
    began = time.monotonic()
    assert json.loads(served.container.execute(*command))["ready"] is True
    report.figure("health check", f"{time.monotonic() - began:.2f} s, with the start of its process")


def test_the_broker_in_the_container_names_the_commit_of_its_build(served: Running, builds: Builds) -> None:
    assert json.loads(served.container.execute("broker", "version", "--json"))["commit"] == builds.revision


def test_nothing_is_compiled_when_the_broker_or_its_health_check_starts(served: Running) -> None:
    told = served.container.execute("python", "-c", NOT_COMPILED)
    assert json.loads(told) == []


def test_the_stop_signal_ends_the_container_in_order(served: Running, builds: Builds) -> None:
    number = signal.Signals[builds.first.configuration["StopSignal"]]
    assert served.container.stop(number, seconds=30) == 0, served.container.log
    # What the container left on its volume is a whole trail, checked from outside.
    command = [sys.executable, "-m", "broker", "audit", "verify", "--database", str(served.state / "audit.db")]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def _get(served: Running, *, agent: str) -> "subprocess.CompletedProcess[str]":
    certificate, key = served.place.certificate(agent)
    environment = {
        "LOGFLUX_BROKER_URL": served.place.url,
        "LOGFLUX_BROKER_CA": str(served.place.authority),
        "LOGFLUX_AGENT_CERT": str(certificate),
        "LOGFLUX_AGENT_KEY": str(key),
    }
    command = [sys.executable, "-m", "broker", "get", REFERENCE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
