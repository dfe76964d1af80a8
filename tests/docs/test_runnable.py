"""Every block of commands that is marked as runnable runs, page by page and from top to bottom, as a reader would."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs.pages import ALL, NEEDS, Page
from tests.docs.surroundings import Surroundings, broker_and_store, empty, shell_environment

RUNBOOKS = "docs/runbooks/"
RUNNABLE = [page for page in ALL if page.runnable]
# The runbooks' commands are run one by one, each page on a broker with its fault, in tests/runbooks.
REST = [page for page in ALL if page.not_run and not page.name.startswith(RUNBOOKS)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """Run the broker of all pages that leave it as it is."""
    with broker_and_store(tmp_path_factory.mktemp("pages")) as here:
        yield here


@pytest.fixture
def here(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Surroundings]:
    match page.front.get("needs", "nothing"):
        case "broker":
            yield request.getfixturevalue("shared").on_a_page(tmp_path / "work")
        case "nothing":
            yield empty(tmp_path)
        case needs:
            with broker_and_store(tmp_path, runs=needs != "stopped broker") as own:
                yield own


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(page: Page, here: Surroundings, tmp_path: Path) -> None:
    script, output = tmp_path / "page.sh", tmp_path / "output"
    script.write_text(here.here(page.script))
    with (
        output.open("wb") as log,
        subprocess.Popen(
            ["bash", "-euo", "pipefail", str(script)],
            cwd=here.work,
            env=shell_environment(here),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as shell,
    ):
        try:
            status = shell.wait(timeout=90)
        finally:
            # What the page left in the background ends with it.
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    assert status == 0, f"{page.name}:\n{output.read_text(errors='replace')[-4000:]}"


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_what_a_page_says_of_itself_is_understood(page: Page) -> None:
    assert set(page.front) <= {"needs", "elsewhere"}
    assert page.front.get("needs", "nothing") in NEEDS


@pytest.mark.parametrize("page", REST, ids=lambda page: page.name)
def test_a_page_says_why_the_rest_of_its_commands_is_not_run(page: Page) -> None:
    assert page.front.get("elsewhere"), f"lines {[block.line for block in page.not_run]}"


def test_most_pages_with_commands_run_some_of_them() -> None:
    assert len(RUNNABLE) >= 8
