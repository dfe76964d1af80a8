"""Every page is walked, with commands that are run here or known to be of another machine."""

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.pages import ALL, ROOT
from tests.runbooks.pages import ALERTS, ELSEWHERE, RUNBOOKS, lately, page_of, walks_in

HERE = ("broker", "curl", "openssl", "bao", "journalctl", "df", "ls", "date", "mkdir", "cp")


def test_every_page_has_a_walk_of_its_name() -> None:
    assert sorted(RUNBOOKS.keys() - set(walks_in(Path(__file__).parent))) == []


def test_every_alert_leads_to_a_page_that_names_it() -> None:
    assert sorted(alert for page in RUNBOOKS.values() for alert in page.alerts) == sorted(ALERTS)


def test_every_command_is_run_here_or_known_to_be_of_another_machine() -> None:
    words = {shlex.split(line)[0] for page in RUNBOOKS.values() for line in page.commands}
    assert words <= {*HERE, *ELSEWHERE}


def test_the_page_of_a_test_is_the_one_that_its_name_begins_with() -> None:
    assert page_of("test_store_alarm_of_the_files").stem == "store-alarm"
    with pytest.raises(StopIteration):
        page_of("test_nothing_of_this")


def test_a_recorded_rule_is_computed_anew_over_the_last_seconds_and_the_day_before_is_left() -> None:
    expression = lately(ALERTS["BrokerDenialsJump"], window="2s")
    assert 'rate(broker_references_total{outcome="denied"}[2s])' in expression
    assert "avg_over_time(job:broker_references_denied:rate10m[1d] offset 15m)" in expression


def test_every_unit_that_a_page_asks_systemd_about_is_one_of_ours() -> None:
    pages = [page for page in ALL if page.name.startswith(("docs/runbooks/", "docs/how-to/"))]
    lines = [line for page in pages for line in page.text.splitlines() if "systemctl" in line or "journalctl" in line]
    named = {
        word
        for line in lines
        for word in re.findall(r"(?:-u |\b)((?:logflux-)?broker[a-z-]*)(?:\.service|\.socket|\.timer| |$)", line)
    }
    ours = {path.stem for path in (ROOT / "deploy" / "systemd").glob("broker*.*")}
    assert named
    assert named <= {*ours, "logflux-broker-verify"}
