"""The page of the faults names exactly those that tests make, with the promises that they assert."""

import datetime as dt
from pathlib import Path

import pytest

from tests.faults.matrix import Measured, rows
from tests.faults.page import page, promise_of

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def table(title: str) -> list[tuple[str, ...]]:
    section = PAGE.read_text().partition(f"## {title}")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def test_the_promises_of_the_page_are_those_of_the_tests() -> None:
    assert table("The faults, and what is promised") == [promise_of(row) for row in rows()], "run: make reliability"


def test_every_fault_was_measured_and_nothing_failed() -> None:
    measured = table("As measured")
    assert [line[0] for line in measured] == [row.name for row in rows()], "run: make reliability"
    assert {line[3] for line in measured} == {"0"}


def test_no_two_faults_have_one_name() -> None:
    names = [row.slug for row in rows()]
    assert len(set(names)) == len(names)


def test_a_page_is_not_written_with_a_fault_that_was_not_measured() -> None:
    one = Measured(
        fresh=1,
        stale=0,
        refused=0,
        failed=0,
        slowest=0.1,
        lasted=1.0,
        attempts=3,
        answered=2,
        audited=1,
        peak=1,
        healed=1.0,
    )
    first, *others = rows()
    measured = {row.name: one for row in others}
    with pytest.raises(SystemExit, match=first.name):
        page(measured, dt.date(2026, 1, 1))
