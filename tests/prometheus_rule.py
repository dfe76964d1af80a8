"""The rules of `deploy/prometheus/` as the one object that the Prometheus operator takes.

Run as `python -m tests.prometheus_rule FILE`, which `make docs` does: kustomize can't put a file into an object.
"""

import sys
import textwrap
from pathlib import Path
from typing import Final

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
FILE: Final = DEPLOY / "kubernetes" / "monitoring" / "prometheus-rule.yaml"
_HEAD: Final = """\
# Made by `make docs` out of deploy/prometheus/rules/: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: logflux-broker
  # What the ruleSelector of your Prometheus asks for comes beside it, such as `release: kube-prometheus-stack`.
  labels: { app.kubernetes.io/name: logflux-broker }
spec:
  groups:
"""


def text() -> str:
    """Return the object, with the comments of the rules."""
    rules = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    return _HEAD + "".join(textwrap.indent(_groups(file), "  ") for file in rules)


def _groups(file: Path) -> str:
    _, _, groups = file.read_text().partition("\ngroups:\n")
    return groups


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text())
