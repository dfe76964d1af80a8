"""Rules that hold for every test: no blocking call on the event loop, and what takes longest begins first."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

TESTS = Path(__file__).parent
# Folders whose files take minutes, in the order in which workers take them; all others fill the gaps at the end.
LONGEST_FIRST = ("faults", "integration", "runbooks", "fuzz", "docs")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let no worker begin a long file when the others have nothing left to do; keep the random order otherwise."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(TESTS).parts[0]
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test whose production code blocks the event loop."""
    with blockbuster_ctx("broker") as guard:
        yield guard
