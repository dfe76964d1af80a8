"""fsGroup for real: root writes the volumes as the kubelet does, and the broker reads them as user 1000."""

import os
import socket
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from broker.agent.answer import ResolveRefusedError
from broker.agent.client import BrokerClient
from broker.agent.settings import ClientSettings
from broker.cli.child import free_port
from tests.certificates import Files, TestAuthority, client_context
from tests.kubelet import USER, Pod, open_directory
from tests.manifests import broker_pod, needs_kubectl, of_kind, rendered
from tests.waiting import wait_until

pytestmark = [
    needs_kubectl,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="only root can write a volume as the kubelet does; to run it: sudo make test"
    ),
]
SHIPPER = "spiffe://prod.example/logflux/shipper"
PAT, KEY = "/var/secrets/logflux/pat", "/var/secrets/logflux/private-key"


@dataclass(frozen=True)
class Cluster:
    pod: Pod
    authority: TestAuthority
    port: str

    def resolve(self, path: str) -> Any:
        files = shipper(self.authority)
        client = BrokerClient(
            settings=ClientSettings(
                url=f"https://localhost:{self.port}",
                authority=self.authority.ca_path,
                certificate=files.certificate,
                key=files.key,
                wait_seconds=0,
            )
        )
        (answer,) = client.resolve([self.pod.translated(path)])
        assert answer.value is not None
        return answer.value.reveal()

    def told(self, path: str) -> str:
        """Return what an agent is told in the place of a value; nothing when it gets the value."""
        try:
            self.resolve(path)
        except ResolveRefusedError as error:
            return f"{error.results[0]['status']}: {error.results[0]['detail']}"
        return ""

    def mounts(self, value: bytes) -> None:
        """Mount credentials, and return when the broker has seen them."""
        self.pod.rewrite("credentials", credentials(value))
        wait_until(lambda: not self.told(PAT) and self.resolve(PAT) == value)


def shipper(authority: TestAuthority) -> Files:
    """Return what cert-manager makes of `cert-manager/agent-certificate.yaml`: one URI, no subject, a client alone."""
    return authority.leaf(uris=(SHIPPER,), common_name=None, eku="client")


def server(authority: TestAuthority) -> dict[str, bytes]:
    """Return the Secret that cert-manager makes for the broker, its key in the older form that is its default."""
    files = authority.leaf(dns=("localhost",), common_name=None, eku="server")
    key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    older = serialization.PrivateFormat.TraditionalOpenSSL
    return {
        "tls.crt": files.certificate.read_bytes(),
        "tls.key": key.private_bytes(serialization.Encoding.PEM, older, serialization.NoEncryption()),
        "ca.crt": authority.ca_path.read_bytes(),
    }


def credentials(value: bytes) -> dict[str, bytes]:
    return {"pat": value, "private-key": b"key of " + value}


def embedded(directory: Path, authority: TestAuthority) -> Cluster:
    """Return the overlay `embedded` with Secrets of our own, a port of our own, and values that age quickly."""
    manifests = rendered("overlays/embedded")
    port = str(free_port())
    pod = Pod(
        spec=broker_pod(manifests),
        directory=directory,
        config_maps={name: found["data"] for name, found in of_kind(manifests, "ConfigMap").items()},
        secrets={
            "logflux-broker-tls": server(authority),
            "logflux-broker-vault": {"role_id": b"r", "secret_id": b"s", "ca.crt": authority.ca_path.read_bytes()},
            "logflux-credentials": credentials(b"first"),
        },
        replace={
            "8443": port,
            "9102": str(free_port()),
            # No store here; this is about files.
            "openbao.openbao.svc:8200": f"127.0.0.1:{free_port()}",
            "logflux-broker.logflux:": "localhost:",
            "fresh_for: 5m": "fresh_for: 1s",
            "max_stale: 1h": "max_stale: 1s",
        },
        identity=True,
    )
    return Cluster(pod, authority, port)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def cluster(authority: TestAuthority) -> Iterator[Cluster]:
    with open_directory() as directory:
        it = embedded(directory, authority)
        with it.pod.run():
            wait_until(lambda: it.pod.probe(*readiness(it)))
            yield it


def readiness(cluster: Cluster) -> tuple[Any, Any]:
    (broker,) = cluster.pod.spec["containers"]
    return broker, broker["readinessProbe"]


def test_user_1000_reads_what_the_fs_group_may_and_sees_the_swap(cluster: Cluster) -> None:
    cluster.mounts(b"first")
    file = (cluster.pod.volume("credentials") / "pat").stat()
    assert (file.st_uid, file.st_gid, file.st_mode & 0o7777) == (0, USER, 0o440)
    (status,) = [
        line
        for line in Path(f"/proc/{cluster.pod.running['broker'].handle.pid}/status").read_text().splitlines()
        if line.startswith("Uid:")
    ]
    assert set(status.split()[1:]) == {str(USER)}
    cluster.mounts(b"second")
    assert cluster.resolve(KEY) == b"key of second"


def test_a_new_policy_in_the_config_map_is_in_force_without_a_restart(cluster: Cluster) -> None:
    text = (cluster.pod.volume("policy") / "policy.yaml").read_bytes()
    cluster.mounts(b"value")
    cluster.pod.rewrite("policy", {"policy.yaml": text.replace(b"logflux/shipper", b"logflux/nobody")})
    wait_until(lambda: "denied" in cluster.told(PAT))
    cluster.pod.rewrite("policy", {"policy.yaml": text})
    wait_until(lambda: not cluster.told(PAT))


def test_check_config_finds_nothing_in_what_is_mounted(cluster: Cluster) -> None:
    (broker,) = cluster.pod.spec["containers"]
    done = cluster.pod.exec({**broker, "args": ["check-config", "--running"]})
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_renewed_certificate_is_shown_without_a_restart(cluster: Cluster) -> None:
    renewed = server(cluster.authority)
    before = shown(cluster)
    cluster.pod.rewrite("tls", {name.replace("ca.crt", "agents-ca.crt"): data for name, data in renewed.items()})
    wait_until(lambda: shown(cluster) != before)
    assert shown(cluster) == ssl.PEM_cert_to_DER_cert(renewed["tls.crt"].decode())
    cluster.mounts(b"value")


def shown(cluster: Cluster) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", int(cluster.port)), timeout=10) as plain,
        client_context(cluster.authority.ca_path, shipper(cluster.authority)).wrap_socket(
            plain, server_hostname="localhost"
        ) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def test_the_state_is_the_brokers_own_below_the_volume_of_the_group(cluster: Cluster) -> None:
    state = cluster.pod.volume("state") / "state"
    assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (USER, 0o700)
    assert {file.stat().st_mode & 0o077 for file in state.iterdir()} == {0}
    with closing(sqlite3.connect(f"file:{state}/audit.db?mode=ro", uri=True)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_the_second_start_takes_its_own_keys_and_not_those_that_the_kubelet_opened(authority: TestAuthority) -> None:
    with open_directory() as directory:
        cluster = embedded(directory, authority)
        with cluster.pod.run():
            pass
        with cluster.pod.run(remount=False):
            assert cluster.resolve(PAT) == b"first"
        # What fsGroupChangePolicy: Always, the default, does at each mount of a volume.
        for file in (cluster.pod.volume("state") / "state").iterdir():
            file.chmod(file.stat().st_mode | 0o060)
        done = cluster.pod.exec("broker")
        assert done.returncode == 3
        assert "mode 0660" in done.stderr


# --- wrong modes on mounted secrets ---


def refused_with(cluster: Cluster, change: Callable[[Path], None]) -> str:
    """Return what an agent is told after `change` of the mounted file."""
    cluster.mounts(b"value")
    change(cluster.pod.volume("credentials") / "..data" / "pat")
    wait_until(lambda: bool(cluster.told(PAT)))
    return cluster.told(PAT)


def test_a_secret_of_another_group_is_refused_and_its_name_is_told(cluster: Cluster) -> None:
    told = refused_with(cluster, lambda file: os.chown(file, 0, 4242))
    assert "may not read this file; look at its owner and its mode" in told


def test_a_secret_that_the_group_may_write_is_refused(cluster: Cluster) -> None:
    told = refused_with(cluster, lambda file: file.chmod(0o660))
    assert "mode 0660" in told


def test_a_link_out_of_the_volume_is_refused(cluster: Cluster) -> None:
    outside = cluster.pod.directory / "outside"
    outside.write_bytes(b"not for agents")
    outside.chmod(0o644)

    def lead_out(file: Path) -> None:
        file.unlink()
        file.symlink_to(outside)

    told = refused_with(cluster, lead_out)
    assert "outside the root" in told


# --- what stops the broker before it starts ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.chmod(0o644), "mode 0644 lets others at the key; give the volume defaultMode: 0400"),
        (lambda file: file.chmod(0o460), "mode 0460 lets others at the key; give the volume defaultMode: 0400"),
        (lambda file: os.chown(file, 0, 4242), "Permission denied; let the broker's user read it"),
    ],
    ids=["0644", "group may write", "another group"],
)
def test_a_tls_key_of_a_wrong_mode_stops_the_start_with_the_file_and_what_to_do(
    authority: TestAuthority, change: Callable[[Path], None], said: str
) -> None:
    with open_directory() as directory:
        cluster = embedded(directory, authority)
        cluster.pod.mount()
        change(cluster.pod.volume("tls") / "..data" / "tls.key")
        done = cluster.pod.exec("broker")
        assert done.returncode == 3
        assert "tls.key" in done.stderr
        assert said in done.stderr
