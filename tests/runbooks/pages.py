"""The runbooks and the alerts that lead to them, as the walks read them."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from tests.docs.pages import ROOT, Page

# What is there on the operator's machine, and not here.
ELSEWHERE: Final = ("systemctl", "chronyc", "kubectl")
_TEST: Final = re.compile(r"^def test_(\w+)\(", re.MULTILINE)
# A range that is not moved into the past.
_WINDOW: Final = re.compile(r"\[\w+\](?! offset)")


@dataclass(frozen=True)
class Runbook(Page):
    """One page of `docs/runbooks/`."""

    @property
    def stem(self) -> str:
        return self.path.stem

    @cached_property
    def alerts(self) -> list[str]:
        return re.findall(r"`(Broker\w+)`", self.text.splitlines()[2])

    @cached_property
    def commands(self) -> list[str]:
        return [line for block in self.not_run for line in block.text.splitlines()]

    def says(self, words: str) -> bool:
        """Tell whether the page has `words`, wherever its lines break."""
        return " ".join(words.split()) in " ".join(self.text.split())


RUNBOOKS: Final = {path.stem: Runbook(path) for path in sorted((ROOT / "docs" / "runbooks").glob("*.md"))}


def _rules() -> list[dict[str, Any]]:
    files = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS: Final = {rule["alert"]: str(rule["expr"]) for rule in _rules() if "alert" in rule}
_RECORDED: Final = {rule["record"]: str(rule["expr"]) for rule in _rules() if "record" in rule}


def lately(expression: str, *, window: str) -> str:
    """Return `expression` over the last `window` alone, so that the end of a fault shows at once.

    A rule that was recorded over its own window is computed anew in its place.
    """
    while True:
        expanded = expression
        for name, recorded in _RECORDED.items():
            expanded = re.sub(rf"{re.escape(name)}(?![\w\[])", f"({recorded})", expanded)
        if expanded == expression:
            return _WINDOW.sub(f"[{window}]", expression)
        expression = expanded


def page_of(test: str) -> Runbook:
    """Return the page that a test walks: the one that its name begins with."""
    words = test.removeprefix("test_").replace("_", "-")
    return next(page for stem, page in RUNBOOKS.items() if words == stem or words.startswith(f"{stem}-"))


def walks_in(folder: Path) -> list[str]:
    """Return the names of the tests in `folder` that walk a page, with hyphens as in the pages' names."""
    found = [name for file in sorted(folder.glob("test_*.py")) for name in _TEST.findall(file.read_text())]
    walks = [name.replace("_", "-") for name in found]
    return [walk for walk in walks if any(walk == stem or walk.startswith(f"{stem}-") for stem in RUNBOOKS)]
