"""The documentation tells the truth: generated pages, links, commands, names. What it runs is in `tests/docs/`."""

import hashlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.cli.command_page import commands_page
from broker.cli.docs import configuration_page
from broker.verbs import VERBS, parser_of
from tests.docs.pages import ALL, ROOT, Page


def test_the_configuration_page_equals_the_code() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == configuration_page(), "run: make docs"


def test_the_page_of_commands_equals_the_parsers() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == commands_page(), "run: make docs"


def test_every_verb_and_every_flag_stands_on_the_page_of_commands() -> None:
    page = commands_page()
    assert [verb.name for verb in VERBS if f"### `broker {verb.name}`\n" not in page] == []
    flags = set(re.findall(r"`(--[a-z-]+)", page))
    assert {"--config", "--follow", "--output", "--require", "--key-type"} <= flags


def test_the_readme_has_150_lines_at_most() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Page) -> None:
    pages = {other.path: other for other in ALL}
    for link in page.links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{page.name}: {link}: no such file"
        if anchor:
            assert anchor in pages[path].anchors, f"{page.name}: {link}: the headings are {sorted(pages[path].anchors)}"


def test_a_heading_has_the_anchor_that_a_browser_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("# By `broker get`: one, two\n## Same\n## Same\n```sh\n# no heading\n```\n")
    assert Page(file).anchors == {"by-broker-get-one-two", "same", "same-1"}


def commands_in(text: str) -> Iterator[list[str]]:
    """Return the words of each `broker` command, also of one after `if`, `until` or `$(`."""
    for found in re.finditer(r"(?:^|\$\(|\bif (?:! )?|\buntil )broker (.*)$", text.replace("\\\n", " "), re.MULTILINE):
        words = shlex.shlex(found[1], posix=True, punctuation_chars=True)
        words.whitespace_split = True
        # A pipe, a redirection or a bracket ends the command.
        yield list(itertools.takewhile(lambda word: not set(word) <= set("();<>|&"), words))


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_quoted_command_of_ours_is_accepted_by_its_parser(page: Page) -> None:
    parser = parser_of(VERBS)
    for block in [*page.runnable, *page.not_run]:
        for words in commands_in(block.text):
            parser.parse_args(words)


def test_a_command_of_ours_is_found_wherever_it_stands() -> None:
    text = (
        "broker health\nif ! broker get 'a#b'; then exit 1; fi\nX=$(broker get \\\n  --json c | head)\n# broker none\n"
    )
    assert list(commands_in(text)) == [["health"], ["get", "a#b"], ["get", "--json", "c"]]


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in ALL for name in re.findall(r"(?:`|^(?:sudo )?)make ([a-z-]+)", page.text, re.MULTILINE)}
    assert named
    assert named <= targets


def test_every_path_that_the_request_page_names_exists() -> None:
    page = (ROOT / "docs" / "one-request.md").read_text()
    paths = re.findall(r"`(broker/[a-z_/]+\.py)`", page)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_symbol_that_the_request_page_names_is_in_its_files() -> None:
    rows = re.findall(
        r"^\| (`[^|]+) \| (`broker/[^|]+) \|$", (ROOT / "docs" / "one-request.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 10
    for symbols, files in rows:
        text = "\n".join((ROOT / path).read_text() for path in re.findall(r"`([^`]+)`", files))
        for symbol in re.findall(r"`([^`]+)`", symbols):
            assert re.search(rf"^(?:class|def) {symbol}\b", text, re.MULTILINE), symbol


def test_every_page_is_reached_from_the_index() -> None:
    index = Page(ROOT / "docs" / "README.md")
    linked = {(index.path.parent / link.partition("#")[0]).resolve() for link in index.links}
    alone = [
        page.name
        for page in ALL
        if page.path.parent in {ROOT / "docs", ROOT / "docs" / "how-to"} and page.path not in {*linked, index.path}
    ]
    assert alone == []


def test_every_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs" / "adr").glob("*.md")]
    assert len(numbers) == len(set(numbers))


PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.txt"))


@pytest.mark.parametrize("source", PICTURES, ids=lambda path: path.stem)
def test_a_picture_was_drawn_from_the_text_beside_it(source: Path) -> None:
    drawn = source.with_suffix(".svg").read_text()
    ET.fromstring(drawn)
    assert f"<!-- source: sha256:{hashlib.sha256(source.read_bytes()).hexdigest()} -->" in drawn, "run: make pictures"


def test_every_picture_has_its_text_and_is_shown_on_a_page() -> None:
    drawn = {path.stem for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert drawn == {path.stem for path in PICTURES} == {"request-flow", "two-clocks", "trust-boundaries"}
    shown = {Path(link).stem for page in ALL for link in page.links if link.endswith(".svg")}
    assert shown == drawn
