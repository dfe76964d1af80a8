"""What kubectl renders: valid, hardened as the guide says, and consistent with the settings that it carries."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.cert_manager.v1 import Certificate, Issuer
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from broker.config import Settings
from broker.config_source import read_settings
from broker.policy_file import load_policy
from broker.web.routes.operations import LIVEZ_PATH, METRICS_PATH, READYZ_PATH
from tests import prometheus_rule
from tests.manifests import (
    KUSTOMIZATIONS,
    OVERLAYS,
    Manifest,
    broker_pod,
    config_map,
    containers,
    needs_kubectl,
    of_kind,
    rendered,
)

pytestmark = needs_kubectl
# The oldest that has sidecars, and the newest that the schemas know.
KUBERNETES = ("1.29", "1.37")
CUSTOM = {
    "Certificate": Certificate,
    "Issuer": Issuer,
    "ServiceMonitor": ServiceMonitor,
    "PrometheusRule": PrometheusRule,
}
# What an operator or cert-manager brings; everything else that is named must be rendered too.
BROUGHT = {"logflux-broker-tls", "logflux-broker-vault", "logflux-credentials", "shipper-tls"}
MISSING = object()


def pods(kustomization: str) -> list[Manifest]:
    return [
        deployment["spec"]["template"]["spec"] for deployment in of_kind(rendered(kustomization), "Deployment").values()
    ]


def at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key, MISSING) if isinstance(tree, dict) else MISSING
    return tree


# --- valid ---


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_each_object_fits_the_strict_schema_of_its_kind(kustomization: str, version: str) -> None:
    for manifest in rendered(kustomization):
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("kustomization", ["cert-manager", "monitoring"])
def test_custom_resources_fit_the_models_of_their_operators(kustomization: str) -> None:
    for manifest in rendered(kustomization):
        model = CUSTOM[manifest["kind"]].model_validate(manifest)
        # The models drop what they do not know, so a misspelt field shows as a difference.
        assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == manifest


def test_a_misspelt_field_of_a_custom_resource_is_found() -> None:
    (manifest,) = of_kind(rendered("monitoring"), "ServiceMonitor").values()
    manifest["spec"]["endpoints"][0]["intervall"] = "15s"
    model = ServiceMonitor.model_validate(manifest)
    assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) != manifest


# --- hardened ---

# The guide's own lines, and what this product adds below them.
POD = {
    "securityContext.runAsNonRoot": True,
    "securityContext.runAsUser": 1000,
    "securityContext.fsGroup": 1000,
    "securityContext.runAsGroup": 1000,
    "securityContext.seccompProfile.type": "RuntimeDefault",
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
}
CONTAINER = {
    "securityContext.allowPrivilegeEscalation": False,
    "securityContext.readOnlyRootFilesystem": True,
    "securityContext.capabilities.drop": ["ALL"],
}
# What would take back what is said above.
POD_NEVER = ("hostNetwork", "hostPID", "hostIPC", "hostUsers", "securityContext.sysctls")
CONTAINER_NEVER = (
    "securityContext.privileged",
    "securityContext.capabilities.add",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.runAsNonRoot",
    "securityContext.seccompProfile",
    "securityContext.procMount",
)


def weaknesses(pod: Manifest) -> list[str]:
    found = [path for path, wanted in POD.items() if at(pod, path) != wanted]
    found += [path for path in POD_NEVER if at(pod, path) is not MISSING]
    for container in containers(pod):
        name = container["name"]
        found += [f"{name}: {path}" for path, wanted in CONTAINER.items() if at(container, path) != wanted]
        found += [f"{name}: {path}" for path in CONTAINER_NEVER if at(container, path) is not MISSING]
        limits = at(container, "resources.limits.memory"), at(container, "resources.requests.memory")
        found += [f"{name}: memory"] if MISSING in limits else []
    found += [f"{volume['name']}: hostPath" for volume in pod["volumes"] if "hostPath" in volume]
    return found


@pytest.mark.parametrize("kustomization", [*OVERLAYS, "examples"])
def test_every_pod_and_container_is_hardened_as_the_guide_says(kustomization: str) -> None:
    assert [weaknesses(pod) for pod in pods(kustomization)] == [[] for _ in pods(kustomization)]


def drop(path: str) -> Callable[[Manifest], None]:
    def change(tree: Manifest) -> None:
        *parents, last = path.split(".")
        for key in parents:
            tree = tree[key]
        del tree[last]

    return change


def put(path: str, value: object) -> Callable[[Manifest], None]:
    def change(tree: Manifest) -> None:
        *parents, last = path.split(".")
        for key in parents:
            tree = tree.setdefault(key, {})
        tree[last] = value

    return change


def mutations() -> Iterator[Any]:
    for path in POD:
        yield pytest.param("pod", drop(path), id=f"pod without {path}")
    yield pytest.param("pod", put("securityContext.runAsUser", 0), id="pod as root")
    yield pytest.param("pod", put("hostNetwork", True), id="pod in the host's network")
    for path in (*CONTAINER, "resources.limits"):
        yield pytest.param("container", drop(path), id=f"container without {path}")
    yield pytest.param("container", put("securityContext.runAsUser", 0), id="container as root")
    yield pytest.param("container", put("securityContext.privileged", True), id="privileged container")
    yield pytest.param("container", put("securityContext.capabilities.add", ["NET_ADMIN"]), id="one capability back")


@pytest.mark.parametrize(("of", "change"), tuple(mutations()))
def test_a_line_that_goes_is_found_in_every_pod_and_container(of: str, change: Callable[[Manifest], None]) -> None:
    for pod in [pod for kustomization in (*OVERLAYS, "examples") for pod in pods(kustomization)]:
        for number in range(len(list(containers(pod))) if of == "container" else 1):
            changed = copy.deepcopy(pod)
            change(list(containers(changed))[number] if of == "container" else changed)
            assert len(weaknesses(changed)) == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_namespace_enforces_the_restricted_pod_security(overlay: str) -> None:
    (namespace,) = of_kind(rendered(overlay), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_kubelet_does_not_open_the_brokers_keys_to_the_group() -> None:
    # With the default, Always, the second start finds its own keys with mode 0660 and refuses them.
    assert at(broker_pod(rendered("overlays/embedded")), "securityContext.fsGroupChangePolicy") == "OnRootMismatch"


@pytest.mark.parametrize("kustomization", [*OVERLAYS, "examples"])
def test_mounted_secrets_are_for_the_owner_and_the_fs_group_alone(kustomization: str) -> None:
    for pod in pods(kustomization):
        for volume in pod["volumes"]:
            mounted = volume.get("secret") or volume.get("projected")
            assert mounted is None or mounted["defaultMode"] == 0o400


# --- consistent ---


def settings_of(overlay: str, tmp_path: Path) -> Settings:
    file = tmp_path / "broker.yaml"
    file.write_text(config_map(rendered(overlay), "logflux-broker-settings")["broker.yaml"])
    return read_settings(file, environment={})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_policy_is_one_that_the_broker_takes(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(config_map(rendered(overlay), "logflux-broker-policy")["policy.yaml"])
    assert load_policy(file).digest


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_and_the_pod_speak_of_the_same_ports_and_files(overlay: str, tmp_path: Path) -> None:
    settings, pod = settings_of(overlay, tmp_path), broker_pod(rendered(overlay))
    broker = pod["containers"][0]
    assert broker["name"] == "broker"
    ports = {port["name"]: port["containerPort"] for port in broker["ports"]}
    assert ports == {"agents": settings.listen.port, "operations": settings.operations.port}
    # The kubelet asks at the pod's address, where nothing that is bound to loopback answers.
    assert (settings.listen.host, settings.operations.host) == ("0.0.0.0", "0.0.0.0")
    mounts = {mount["mountPath"]: mount for mount in broker["volumeMounts"]}
    named = [settings.policy_file, settings.tls.certificate, settings.tls.key, settings.tls.client_ca]
    named += [Path(variable["value"]) for variable in broker["env"] if variable["name"] == "LOGFLUX_CONFIG"]
    assert {str(path.parent) for path in named} <= mounts.keys()
    written = [path for path, mount in mounts.items() if not mount.get("readOnly")]
    assert written == [str(settings.state_directory.parent), "/tmp"]
    # A file of a `subPath` mount is never updated.
    assert not any("subPath" in mount for mount in mounts.values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_probes_ask_what_the_operations_listener_answers(overlay: str) -> None:
    broker = broker_pod(rendered(overlay))["containers"][0]
    asked = {name: broker[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in asked.values()} == {"operations"}
    assert (asked["startup"]["path"], asked["liveness"]["path"]) == (LIVEZ_PATH, LIVEZ_PATH)
    # An outage of the store must not take away the broker that still has the values.
    assert asked["readiness"]["path"] == f"{READYZ_PATH}?exclude=vault"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_grace_period_holds_the_drain_and_what_comes_before_and_after(overlay: str, tmp_path: Path) -> None:
    pod = broker_pod(rendered(overlay))
    command, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    needed = int(seconds) + settings_of(overlay, tmp_path).listen.drain_seconds
    assert pod["terminationGracePeriodSeconds"] >= needed + 10


@pytest.mark.parametrize("kustomization", [*OVERLAYS, "examples"])
def test_every_mount_has_its_volume_and_every_volume_a_mount(kustomization: str) -> None:
    for pod in pods(kustomization):
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("kustomization", [*OVERLAYS, "examples"])
def test_everything_that_a_pod_names_is_there_or_brought_by_the_operator(kustomization: str) -> None:
    manifests = rendered(kustomization)
    there = {manifest["metadata"]["name"] for manifest in manifests} | BROUGHT
    for pod in pods(kustomization):
        named = {pod.get("serviceAccountName")} - {None}
        for volume in pod["volumes"]:
            named |= set(re.findall(r"'(?:secretName|claimName|name)': '([^']+)'", str({**volume, "name": None})))
        assert named <= there | {None}


def test_one_broker_at_a_time_has_the_database(tmp_path: Path) -> None:
    manifests = rendered("overlays/embedded")
    deployment = of_kind(manifests, "Deployment")["logflux-broker"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    (claim,) = of_kind(manifests, "PersistentVolumeClaim").values()
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_the_network_lets_agents_in_and_names_store_and_clock_out() -> None:
    policies = of_kind(rendered("overlays/embedded"), "NetworkPolicy")
    label = {"app.kubernetes.io/name": "logflux-broker"}
    assert all(policy["spec"]["podSelector"]["matchLabels"] == label for policy in policies.values())
    base = policies["logflux-broker"]["spec"]
    assert set(base["policyTypes"]) == {"Ingress", "Egress"}
    rules = [rule for policy in policies.values() for rule in policy["spec"].get("ingress", [])]
    # No rule without a peer: that would be everyone.
    assert all(rule["from"] for rule in rules)
    assert [port["port"] for rule in rules for port in rule["ports"]] == [8443, 9102]
    out = [rule for policy in policies.values() for rule in policy["spec"].get("egress", [])]
    assert sorted((port["port"], port["protocol"]) for rule in out for port in rule["ports"]) == [
        (53, "TCP"),
        (53, "UDP"),
        (123, "UDP"),
        (8200, "TCP"),
    ]


@pytest.mark.parametrize("kustomization", [*OVERLAYS, "examples"])
def test_each_image_has_an_exact_version_from_one_place(kustomization: str) -> None:
    images = {container["image"] for pod in pods(kustomization) for container in containers(pod)}
    assert all(re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+", image) for image in images)
    assert {image for image in images if "logflux" in image} == {"logflux-broker:0.1.0"}


def test_the_certificates_carry_the_names_that_settings_policy_and_pods_expect(tmp_path: Path) -> None:
    certificates = {name: found["spec"] for name, found in of_kind(rendered("cert-manager"), "Certificate").items()}
    settings = settings_of("overlays/embedded", tmp_path)
    hosts = {host.removesuffix(":8443") for host in settings.listen.allowed_hosts}
    assert set(certificates["logflux-broker"]["dnsNames"]) == hosts
    assert str(settings.tokens.issuer).removeprefix("https://") in settings.listen.allowed_hosts
    assert certificates["logflux-broker"]["usages"] == ["digital signature", "server auth"]
    shipper = certificates["shipper"]
    assert (len(shipper["uris"]), "dnsNames" in shipper) == (1, False)
    assert shipper["uris"][0] in config_map(rendered("overlays/embedded"), "logflux-broker-policy")["policy.yaml"]
    assert {certificate["secretName"] for certificate in certificates.values()} >= {"logflux-broker-tls", "shipper-tls"}


def test_the_service_monitor_selects_the_operations_service_and_its_port() -> None:
    (monitor,) = of_kind(rendered("monitoring"), "ServiceMonitor").values()
    services = of_kind(rendered("overlays/embedded"), "Service")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    selected = [name for name, service in services.items() if wanted <= service["metadata"]["labels"].items()]
    assert selected == ["logflux-broker-operations"]
    ports = {port["name"] for port in services[selected[0]]["spec"]["ports"]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in ports
    assert endpoint["path"] == METRICS_PATH


def test_the_prometheus_rule_has_the_rules_that_are_tried_on_a_prometheus() -> None:
    assert prometheus_rule.FILE.read_text() == prometheus_rule.text(), "write it anew: make docs"
    (rule,) = of_kind(rendered("monitoring"), "PrometheusRule").values()
    files = sorted((prometheus_rule.DEPLOY / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    assert groups
    assert rule["spec"]["groups"] == groups
    assert len({group["name"] for group in groups}) == len(groups)
