"""The compose file: valid, hardened, consistent, and its services run here as processes of this machine."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.cli.child import free_port, process, wait_for
from broker.config import Settings
from broker.config_source import read_settings
from broker.policy_file import load_policy
from tests.kubelet import Pod

DIRECTORY = Path(__file__).parents[2] / "deploy" / "compose"
Service = dict[str, Any]

HARDENED = {
    "user": "1000:1000",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
NEVER = ("privileged", "cap_add", "devices", "pid", "ipc", "userns_mode")


def composed() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DIRECTORY / "compose.yaml").read_text())
    return document


def services() -> dict[str, Service]:
    return dict(composed()["services"])


def weaknesses(service: Service) -> list[str]:
    found = [key for key, wanted in HARDENED.items() if service.get(key) != wanted]
    found += [key for key in NEVER if key in service]
    found += [key for key in ("mem_limit", "pids_limit") if key not in service]
    return found + [str(mount) for mount in service.get("volumes", []) if "docker.sock" in str(mount)]


def test_it_fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(DIRECTORY / "compose.yaml")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_misspelt_key_does_not_fit(tmp_path: Path) -> None:
    document = composed()
    document["services"]["broker"]["read_onli"] = True
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, str(tmp_path / "compose.yaml")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "read_onli" in done.stdout


def test_there_are_a_store_a_broker_prometheus_and_an_agent() -> None:
    assert services().keys() == {"prepare", "store", "fill", "broker", "agent", "prometheus"}


def test_every_service_is_hardened() -> None:
    assert {name: weaknesses(service) for name, service in services().items()} == {name: [] for name in services()}


@pytest.mark.parametrize("key", [*HARDENED, "mem_limit", "pids_limit"])
def test_a_line_that_goes_is_found_in_every_service(key: str) -> None:
    for service in services().values():
        changed = copy.deepcopy(service)
        del changed[key]
        assert weaknesses(changed) == [key]


def test_every_image_has_an_exact_version() -> None:
    images = {service["image"] for service in services().values()}
    assert all(re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", image) for image in images)
    assert {image for image in images if "logflux" in image} == {"logflux-broker:0.1.0"}


def test_nothing_is_published_beyond_this_host() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8443:8443", "127.0.0.1:9090:9090"]


def test_the_agent_shares_no_network_with_the_store() -> None:
    networks = {name: set(service.get("networks", [])) for name, service in services().items()}
    assert not networks["agent"] & networks["store"]
    assert not networks["prometheus"] & networks["store"]
    assert not networks["agent"] & networks["prometheus"]


def test_every_file_that_is_mounted_is_there_or_made_by_prepare() -> None:
    document = composed()
    sources = [mount["source"] for service in services().values() for mount in service.get("volumes", [])]
    sources += [entry["file"] for kind in ("configs", "secrets") for entry in document[kind].values()]
    named = [source for source in sources if source.startswith(".") and not source.startswith("./secrets")]
    assert {source for source in named if not (DIRECTORY / source).exists()} == set()


def settings() -> Settings:
    return read_settings(DIRECTORY / "broker.yaml", environment={})


def test_settings_and_policy_are_read_by_the_broker_and_fit_the_service() -> None:
    assert load_policy(DIRECTORY / "policy" / "policy.yaml").digest
    broker = services()["broker"]
    assert broker["environment"] == {"LOGFLUX_CONFIG": "/etc/logflux-broker/broker.yaml"}
    mounts = {mount["target"] for mount in broker["volumes"]}
    assert {str(settings().policy_file.parent), str(settings().tls.key.parent)} <= mounts
    assert str(settings().state_directory.parent) in mounts
    assert int(broker["stop_grace_period"].removesuffix("s")) >= settings().listen.drain_seconds + 10


# --- run ---


def container(name: str, service: Service) -> dict[str, Any]:
    """Return the service in the words of a pod, for the kubelet of the tests."""
    made = {
        "name": name,
        # Compose writes $$ for a dollar that is not its own.
        "command": [word.replace("$$", "$") for word in service.get("entrypoint", ["broker"])],
        "args": [word.replace("$$", "$") for word in service.get("command", ["serve"])],
        "env": [{"name": key, "value": value} for key, value in service.get("environment", {}).items()],
        "volumeMounts": [],
    }
    if test := service.get("healthcheck", {}).get("test"):
        made["startupProbe"] = {"exec": {"command": test[1:]}}
    return made


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    here = tmp_path_factory.mktemp("compose")
    places = {
        mount["target"]: str(here / mount["source"])
        for service in services().values()
        for mount in service.get("volumes", [])
    }
    places |= {
        "/run/secrets": str(here / "run-secrets"),
        "/run/agent": str(here / "run-agent"),
        "/tmp": str(here / "tmp"),
    }
    configs = composed()["configs"]
    for service in services().values():
        for config in service.get("configs", []):
            places[config["target"]] = str(here / configs[config["source"]]["file"])
    ports = {port: str(free_port()) for port in ("8443", "8200", "8300", "9102")}
    pod = Pod(
        spec={},
        directory=here,
        config_maps={},
        secrets={},
        # The names of services are this machine here.
        replace={
            **ports,
            "//store:": "//localhost:",
            "//broker:": "//localhost:",
            "broker:9102": f"127.0.0.1:{ports['9102']}",
        },
        places=places,
    )
    for file in ("broker.yaml", "openbao.hcl", "prometheus.yml", "policy/policy.yaml"):
        (here / file).parent.mkdir(exist_ok=True)
        (here / file).write_text(pod.translated((DIRECTORY / file).read_text()))
    for directory in ("secrets", "run-secrets", "run-agent", "tmp", "state"):
        (here / directory).mkdir(mode=0o700)
    made = {name: container(name, service) for name, service in services().items()}
    done = pod.exec(made["prepare"])
    assert done.returncode == 0, done.stderr
    shutil.copy(here / "secrets" / "logflux_pat", here / "run-secrets" / "logflux_pat")
    # `broker health` asks the port that it has in a container.
    made["broker"]["startupProbe"]["exec"]["command"] += ["--url", f"http://127.0.0.1:{ports['9102']}/readyz"]
    store = {**made["store"], "restartPolicy": "Always"}
    pod.spec = {"initContainers": [store, made["fill"]], "containers": [made["broker"], made["agent"]], "volumes": []}
    with pod.run():
        yield pod


def test_the_agent_gets_the_secret_that_fill_put_into_the_store(stack: Pod) -> None:
    value = (stack.directory / "secrets" / "store" / "api_key").read_text()
    assert len(value) == 48
    assert (stack.directory / "run-agent" / "api_key").read_text() == value


def test_the_agent_may_ask_for_the_mounted_secret(stack: Pod) -> None:
    done = stack.exec("agent", "broker", "get", stack.translated("/run/secrets/logflux_pat"))
    assert (done.returncode, done.stdout) == (0, (stack.directory / "secrets" / "logflux_pat").read_text())


def test_fill_can_run_again_after_the_store_has_forgotten(stack: Pod) -> None:
    (fill,) = (each for each in stack.spec["initContainers"] if each["name"] == "fill")
    assert stack.exec(fill).returncode == 0


@pytest.mark.skipif(
    shutil.which("prometheus") is None and os.environ.get("CI") != "true",
    reason="needs Debian's prometheus; to run it: sudo apt-get install prometheus",
)
def test_prometheus_reads_its_configuration_and_scrapes_the_broker(stack: Pod) -> None:
    port = free_port()
    data, log = stack.directory / "prometheus", stack.directory / "prometheus.log"
    command = ["prometheus", f"--config.file={stack.directory}/prometheus.yml", f"--storage.tsdb.path={data}"]
    shutil.copytree(DIRECTORY.parent / "prometheus" / "rules", stack.directory / "rules")
    # Every quarter of a minute is for production.
    configuration = stack.directory / "prometheus.yml"
    configuration.write_text(configuration.read_text().replace("scrape_interval: 15s", "scrape_interval: 1s"))
    with process([*command, f"--web.listen-address=127.0.0.1:{port}"], log=log) as child:
        wait_for(f"http://127.0.0.1:{port}/-/ready", child)
        deadline = time.monotonic() + 30
        while (result := up(port)) != ["1"]:
            assert time.monotonic() < deadline, result
            time.sleep(0.2)


def up(port: int) -> list[str]:
    url = f"http://127.0.0.1:{port}/api/v1/query?query=up%7Bjob%3D%22broker%22%7D"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [series["value"][1] for series in json.loads(answer.read())["data"]["result"]]
