"""Rules that hold for every test: no blocking call on the event loop."""

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test whose production code blocks the event loop."""
    with blockbuster_ctx("broker") as guard:
        yield guard
