"""Which sources are known to have been there, and from which state of the store they are asked for."""

import pytest

from broker.providers.vault.exchange.request import StoreRequest, StoreResponse
from broker.providers.vault.reads.known import KnownSources
from broker.providers.vault.transport.progress import SeenProgress
from broker.reference import parse

ONE, TWO, THREE = (parse(f"vault:secret/{name}#v").source for name in ("one", "two", "three"))


def test_a_source_is_known_until_it_is_forgotten() -> None:
    known = KnownSources(limit=2)
    assert ONE not in known
    known.add(ONE)
    assert ONE in known
    known.forget(ONE)
    known.forget(ONE)
    assert ONE not in known


def test_only_the_latest_sources_are_known() -> None:
    known = KnownSources(limit=2)
    for source in (ONE, TWO, ONE, THREE):
        known.add(source)
    assert [source in known for source in (ONE, TWO, THREE)] == [True, False, True]


def response(index: str) -> StoreResponse:
    return StoreResponse(status=200, document={}, retry_after=None, index=index)


def request(path: str = "/v1/secret/data/one") -> StoreRequest:
    return StoreRequest(method="GET", path=path, headers={"X-Vault-Token": "t"})


def headers_for(path: str, *indexes: str) -> dict[str, str]:
    progress = SeenProgress()
    for index in indexes:
        progress.saw(progress.require(request()), response(index))
    return dict(progress.require(request(path)).headers)


def test_an_answer_that_asked_for_less_does_not_take_back_what_was_seen_meanwhile() -> None:
    progress = SeenProgress()
    early = progress.require(request())
    progress.saw(progress.require(request()), response("new"))
    progress.saw(early, response("old"))
    assert progress.require(request()).headers["X-Vault-Index"] == "new"


def test_the_leaders_own_write_counts_whatever_it_asked_for() -> None:
    progress = SeenProgress()
    write = progress.require(request("/v1/auth/token/renew-self"))
    progress.saw(progress.require(request()), response("of a standby"))
    progress.saw(write, response("of the leader"))
    assert progress.require(request()).headers["X-Vault-Index"] == "of the leader"


def test_a_read_asks_for_no_older_a_state_than_the_last_answer_that_told_one() -> None:
    assert headers_for("/v1/secret/data/one", "first", "second", "") == {
        "X-Vault-Token": "t",
        "X-Vault-Index": "second",
        "X-Vault-Inconsistent": "forward-active-node",
    }


@pytest.mark.parametrize("indexes", [(), ("",), ("x" * 1025,)], ids=["none", "empty", "too long"])
def test_without_a_state_nothing_is_asked_for(indexes: tuple[str, ...]) -> None:
    assert headers_for("/v1/secret/data/one", *indexes) == {"X-Vault-Token": "t"}


def test_a_look_at_the_health_of_a_node_is_never_passed_on() -> None:
    assert headers_for("/v1/sys/health", "first") == {"X-Vault-Token": "t"}
