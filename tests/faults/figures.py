"""Figures beside the matrix: what is asserted of each, and what a run saw."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from tests.faults.matrix import RESULTS

_FOLDER: Final = RESULTS / "figures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line: what was done, what is promised of it, and what was seen."""

    name: str
    promised: str
    seen: str


def write_figure(slug: str, figure: Figure) -> None:
    """Keep what this run saw."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    new = _FOLDER / f"{slug}.new"
    new.write_text(json.dumps(asdict(figure)))
    new.replace(_FOLDER / f"{slug}.json")


def read_figures() -> list[Figure]:
    """Return what the last run saw."""
    return [Figure(**json.loads(file.read_text())) for file in sorted(_FOLDER.glob("*.json"))]
