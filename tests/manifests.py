"""The Kubernetes manifests as a cluster would get them: rendered by kubectl, each object a dictionary."""

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DIRECTORY = Path(__file__).parent.parent / "deploy" / "kubernetes"
OVERLAYS = ("overlays/embedded", "overlays/evaluation")
KUSTOMIZATIONS = (*OVERLAYS, "cert-manager", "monitoring", "examples")

absent = shutil.which("kubectl") is None
# A gate that skips its own checks is none: with CI=true the absence is a failure and not a skip.
needs_kubectl = pytest.mark.skipif(
    absent and os.environ.get("CI") != "true",
    reason="needs Debian's kubernetes-client; to run it: sudo apt-get install kubernetes-client",
)

Manifest = dict[str, Any]


@cache
def _rendered(kustomization: str) -> list[Manifest]:
    command = ["kubectl", "kustomize", str(DIRECTORY / kustomization)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def rendered(kustomization: str) -> list[Manifest]:
    """Return objects that the caller may change."""
    return copy.deepcopy(_rendered(kustomization))


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == kind}


def broker_pod(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = of_kind(manifests, "Deployment")["logflux-broker"]["spec"]["template"]["spec"]
    return pod


def containers(pod: Manifest) -> Iterator[Manifest]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def config_map(manifests: list[Manifest], prefix: str) -> dict[str, str]:
    """Return the data of the one ConfigMap whose name begins so; kustomize adds a hash to some."""
    (found,) = (data["data"] for name, data in of_kind(manifests, "ConfigMap").items() if name.startswith(prefix))
    return dict(found)
