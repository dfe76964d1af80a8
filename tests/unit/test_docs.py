"""The documentation tells the truth: generated pages, links, commands."""

import re
import shlex
from pathlib import Path

import pytest

from broker.cli.docs import configuration_page
from broker.verbs import VERBS, parser_of

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_configuration_page_equals_the_code() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_page(), "run: make docs"


def test_the_readme_has_150_lines_at_most() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_quoted_command_of_ours_is_accepted_by_its_parser(page: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parser = parser_of(VERBS)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["broker"]:
            parser.parse_args(words[1:])


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    # "make are" is the sentence "Python and make are all they need".
    assert named - {"are"} <= targets


def test_every_path_that_the_request_page_names_exists() -> None:
    page = (ROOT / "docs" / "one-request.md").read_text()
    paths = re.findall(r"`(broker/[a-z_/]+\.py)`", page)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
