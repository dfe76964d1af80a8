"""What an operator copies from `deploy/prometheus/`: checked by Prometheus' own tools, and complete."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import fake_metrics

ROOT = Path(__file__).parents[2]
DEPLOYED = ROOT / "deploy" / "prometheus"
TESTS = sorted((ROOT / "tests" / "promtool").glob("*.yml"))
RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
INSTALL = "needs Debian's prometheus; to run it: sudo apt-get install prometheus prometheus-alertmanager"
absent = shutil.which("promtool") is None or shutil.which("amtool") is None
needs_tools = pytest.mark.skipif(absent and os.environ.get("CI") != "true", reason=INSTALL)


def tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    files = sorted((DEPLOYED / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = [rule for rule in rules() if "alert" in rule]


@needs_tools
def test_the_configuration_and_its_rules_are_valid() -> None:
    tool("promtool", "check", "config", str(DEPLOYED / "prometheus.yml"))


@needs_tools
def test_the_alertmanager_takes_its_configuration() -> None:
    tool("amtool", "check-config", str(DEPLOYED / "alertmanager.yml"))


@needs_tools
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_the_alerts_fire_when_they_should_and_only_then(file: Path) -> None:
    tool("promtool", "test", "rules", str(file))


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases: dict[str, set[bool]] = {rule["alert"]: set() for rule in ALERTS}
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                cases[case["alertname"]].add(bool(case["exp_alerts"]))
    assert {name: found for name, found in cases.items() if found != {True, False}} == {}


def test_every_rule_file_is_loaded() -> None:
    loaded = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())["rule_files"]
    assert sorted(loaded) == sorted(f"rules/{file.name}" for file in (DEPLOYED / "rules").iterdir())


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_how_urgent_it_is_and_names_its_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    page = ROOT / alert["annotations"]["runbook"]
    assert page in RUNBOOKS
    assert f"`{alert['alert']}`" in page.read_text().splitlines()[2]


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_every_runbook_says_what_it_means_who_notices_where_to_look_and_what_to_do(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["What it means", "Who notices", "What to look at", "What to do"]
    named = set(re.findall(r"`(Broker\w+)`", page.read_text().splitlines()[2]))
    assert named
    assert named <= {rule["alert"] for rule in ALERTS}
    assert any(shlex.split(line)[:1] == ["broker"] for line in _commands(page))


def test_every_series_of_the_rules_is_one_of_the_brokers() -> None:
    known = {family.name for family in fake_metrics().registry.collect()}
    verification = (ROOT / "broker" / "audit" / "textfile.py").read_text()
    used = {name for rule in rules() for name in re.findall(r"(?<![:\w])broker_\w+", rule["expr"])}
    stems = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in used}
    assert stems
    unknown = [stem for stem in stems if stem not in known]
    assert [stem for stem in unknown if f'"{stem.removeprefix("broker_audit_verify_")}"' not in verification] == []


def test_the_objectives_page_has_the_numbers_of_the_rules() -> None:
    page = (ROOT / "docs" / "slo.md").read_text()
    burns = json.dumps([alert["expr"] for alert in ALERTS if "Burns" in alert["alert"]])
    for factor in ("14.4", "6", "3", "1"):
        assert f"> {factor} * " in burns
        assert f"| {factor} |" in page


def _commands(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]
