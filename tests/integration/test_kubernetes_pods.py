"""The rendered pods run here, as near to a cluster as a machine without one comes (see tests/kubelet.py)."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.child import free_port
from tests.kubelet import Pod
from tests.manifests import broker_pod, needs_kubectl, of_kind, rendered

pytestmark = needs_kubectl


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    return {port: str(free_port()) for port in ("8443", "9102", "8200")}


@pytest.fixture(scope="module")
def evaluation(ports: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    manifests = rendered("overlays/evaluation")
    maps = {name: found["data"] for name, found in of_kind(manifests, "ConfigMap").items()}
    pod = Pod(
        spec=broker_pod(manifests),
        directory=tmp_path_factory.mktemp("evaluation"),
        config_maps=maps,
        secrets={},
        replace=ports,
    )
    with pod.run():
        yield pod


def test_the_evaluation_prepares_itself_and_answers_its_agent(evaluation: Pod) -> None:
    done = evaluation.exec("agent", "broker", "get", "vault:secret/logflux#api_key")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (evaluation.volume("store") / "api_key").read_text()
    assert len(done.stdout) == 48


def test_the_evaluations_probes_are_answered(evaluation: Pod) -> None:
    broker = evaluation.spec["containers"][0]
    assert evaluation.probe(broker, broker["livenessProbe"])
    assert evaluation.probe(broker, broker["readinessProbe"])


@pytest.mark.parametrize("file", ["agent-with-init-container", "agent-with-sidecar"])
def test_the_example_agents_get_their_secret_as_a_file(
    evaluation: Pod, ports: dict[str, str], tmp_path: Path, file: str
) -> None:
    deployment = of_kind(rendered("examples"), "Deployment")[f"shipper-with-{file.removeprefix('agent-with-')}"]
    agent = evaluation.volume("agent")
    certificate = {"ca.crt": "ca.crt", "tls.crt": "shipper.crt", "tls.key": "shipper.key"}
    pod = Pod(
        spec=deployment["spec"]["template"]["spec"],
        directory=tmp_path,
        config_maps={},
        secrets={"shipper-tls": {name: (agent / source).read_bytes() for name, source in certificate.items()}},
        replace={"logflux-broker.logflux.svc:8443": f"localhost:{ports['8443']}"},
    )
    with pod.run():
        secret = pod.volume("secrets") / "api_key"
        assert secret.read_text() == (evaluation.volume("store") / "api_key").read_text()
        assert secret.stat().st_mode & 0o777 == 0o600
        for container in pod.running.values():
            assert container.handle.poll() is None
        if "secrets" in pod.running:
            # A sidecar that ignored SIGTERM would hold each end of a pod up until it is killed.
            pod.running["secrets"].handle.send_signal(signal.SIGTERM)
            assert pod.running["secrets"].handle.wait(timeout=10) == 0
