"""The pages of the documentation as the tests read them: links, headings, and the commands that are run.

A block of commands that is run begins with "```sh run"; readers see a block of shell like any other. A page may
begin with a comment that says what it needs and why its other blocks are not run:

    <!-- docs-check
    needs: broker
    elsewhere: a Kubernetes cluster
    -->
"""

import re
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PATHS: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
NEEDS: Final = ("nothing", "broker", "broker of its own", "stopped broker")

_FRONT: Final = re.compile(r"\A<!-- docs-check\n(.*?)\n-->\n", re.DOTALL)
_FENCED: Final = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^()\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)
# Errors name the line of the page, because the script has its commands at the same lines.
_FIRST_LINE: Final = "set -E; trap 'echo \"failed at line $LINENO: $BASH_COMMAND\" >&2' ERR"


@dataclass(frozen=True)
class Block:
    """A fenced block: what is written behind the fence, its text, and the line of the page where the text begins."""

    info: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """One page."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def front(self) -> dict[str, str]:
        """Return what the page says about itself."""
        found = _FRONT.match(self.text)
        lines = found[1].splitlines() if found else []
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(found[2].strip(), textwrap.dedent(found[3]), self.text.count("\n", 0, found.start(3)) + 1)
            for found in _FENCED.finditer(self.text)
        ]

    @property
    def runnable(self) -> list[Block]:
        return [block for block in self.blocks if block.info == "sh run"]

    @property
    def not_run(self) -> list[Block]:
        return [block for block in self.blocks if block.info in {"sh", "bash", "shell", "console"}]

    @property
    def script(self) -> str:
        """Return the commands that are run, each at the line at which the page has it."""
        lines = [""] * (self.text.count("\n") + 1)
        lines[0] = _FIRST_LINE
        for block in self.runnable:
            for number, line in enumerate(block.text.splitlines(), block.line - 1):
                lines[number] = line
        return "\n".join(lines) + "\n"

    @cached_property
    def prose(self) -> str:
        """Return the page without code, in which nothing is a link or a heading."""
        return re.sub(r"`[^`\n]*`", "", _FENCED.sub("", self.text))

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """Return the anchors that GitHub gives to the headings."""
        anchors: set[str] = set()
        for title in _HEADING.findall(_FENCED.sub("", self.text)):
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            same = sum(bool(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", anchor)) for anchor in anchors)
            anchors.add(f"{slug}-{same}" if same else slug)
        return anchors


ALL: Final = [Page(path) for path in PATHS]
