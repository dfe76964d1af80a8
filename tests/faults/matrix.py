"""The matrix: what a fault is called, what is promised about it, and what a run saw of it.

A test carries its row, so that the list of the page and the list of the tests are one list. A run leaves a file
for each row in `build/faults`; `make reliability` writes the page out of them.
"""

import importlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

_HERE: Final = Path(__file__).parent
RESULTS: Final = _HERE.parents[1] / "build" / "faults"

Test = TypeVar("Test", bound=Callable[..., Awaitable[None]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row as it is promised: every word of it is asserted by the test that carries it.

    Attributes:
        name: Short and unique; the row's title.
        made: How the test makes it.
        agents: What the agents see meanwhile.
        heals_within: Seconds from the end of the fault until everything is fresh and ready again.
        unlogged: Why the logs of the store lack requests of this row; empty where they have all that came to it.

    """

    name: str
    made: str
    agents: str
    heals_within: float
    unlogged: str = ""

    @property
    def slug(self) -> str:
        """Return the name as a file name."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name.lower()).strip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row as a run saw it.

    Attributes:
        fresh: Answers that were `ok`, from the begin of the fault to its healing.
        stale: Answers that were `stale`.
        refused: References that were answered without a value, as the row promises.
        failed: References or requests that failed against the promise; the test fails when there is one.
        slowest: Seconds of the slowest answer.
        lasted: Seconds of the fault.
        attempts: Tries to ask, at the relay, in that time and until all was healed.
        answered: Requests that the store answered in that time, by its log of requests.
        audited: Requests in the store's audit log.
        peak: The most requests within one second in either of the two logs.
        healed: Seconds from the end of the fault until all was fresh and ready.

    """

    fresh: int
    stale: int
    refused: int
    failed: int
    slowest: float
    lasted: float
    attempts: int
    answered: int
    audited: int
    peak: int
    healed: float


def fault(**words: Any) -> Callable[[Test], Test]:
    """Make a test the proof of one row."""
    row = Fault(**words)

    def carry(test: Test) -> Test:
        test.fault = row  # type: ignore[attr-defined]  # A function takes attributes.
        return test

    return carry


def rows() -> list[Fault]:
    """Return every row that a test of this folder carries, in the order of the files."""
    modules = [importlib.import_module(f"tests.faults.{file.stem}") for file in sorted(_HERE.glob("test_*.py"))]
    return [test.fault for module in modules for test in vars(module).values() if hasattr(test, "fault")]


def write_result(row: Fault, measured: Measured) -> None:
    """Keep what this run saw."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    new = RESULTS / f"{row.slug}.new"
    new.write_text(json.dumps({"name": row.name, **asdict(measured)}))
    new.replace(RESULTS / f"{row.slug}.json")


def read_results() -> Mapping[str, Measured]:
    """Return what the last run saw, by the rows' names."""
    known = {field.name for field in fields(Measured)}
    found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return {result["name"]: Measured(**{key: result[key] for key in known}) for result in found}
