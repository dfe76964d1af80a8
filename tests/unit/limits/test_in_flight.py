"""What one request counts, in which budget, and until when."""

import asyncio

import pytest

from broker.cache.control_group import MemoryUse
from broker.errors import AnswerTooLargeError, InFlightLimitError
from broker.limits.byte_budget import UNCOUNTED
from broker.limits.in_flight import PARTS, InFlight, default_total
from broker.secret import SecretDocument
from tests.fakes import fake_metrics

MIB = 1024 * 1024
# Values have 4 MiB of it and answers 2, and one identity half of that.
TOTAL = 8 * MIB


def in_flight() -> InFlight:
    return InFlight.of(TOTAL, fake_metrics())


def document(size: int = MIB) -> SecretDocument:
    return SecretDocument.of_bytes(b"x" * size)


def test_by_default_it_is_an_eighth_of_the_memory_limit() -> None:
    assert default_total(MemoryUse(limit=128 * MIB, used=60 * MIB)) == 16 * MIB


def test_by_default_it_is_256_mib_where_there_is_no_limit() -> None:
    assert default_total(None) == 256 * MIB


def test_the_limits_of_the_parts_are_series_and_together_no_more_than_the_whole() -> None:
    metrics = fake_metrics()
    InFlight.of(TOTAL, metrics)
    limits = [metrics.registry.get_sample_value("broker_in_flight_limit_bytes", {"part": part}) for part in PARTS]
    assert limits == [MIB, MIB, 4 * MIB, 2 * MIB]


async def test_zero_is_no_limit() -> None:
    claim = InFlight.of(0, fake_metrics()).claim("a")
    claim.body(2**40)
    claim.hold(document())
    await claim.answer(2**40, [])
    claim.close()


async def test_an_answer_that_fits_into_the_buffers_of_its_connection_is_not_counted() -> None:
    budgets = in_flight()
    claim = budgets.claim("a")
    await claim.answer(UNCOUNTED, [])
    assert not claim.has_large_answer
    await claim.answer(UNCOUNTED + 1, [])
    assert claim.has_large_answer
    assert budgets.answers.used == UNCOUNTED + 1


async def test_an_answer_that_could_never_be_sent_is_told_so_and_how_much_may_be_asked() -> None:
    with pytest.raises(AnswerTooLargeError, match=r"1048576 bytes .*limits\.max_bytes_in_flight.*fewer"):
        await in_flight().claim("a").answer(MIB + 1, [])


async def test_the_answer_counts_until_it_is_closed_and_all_else_until_it_is_built() -> None:
    budgets = in_flight()
    claim = budgets.claim("a")
    claim.body(UNCOUNTED + 1)
    claim.hold(document())
    await claim.answer(MIB, [])
    claim.built()
    assert (budgets.bodies.used, len(budgets.documents), budgets.answers.used) == (0, 0, MIB)
    claim.close()
    claim.close()
    assert budgets.answers.used == 0


def test_what_many_requests_were_given_by_one_read_is_counted_once_and_until_the_last_is_done() -> None:
    budgets, shared = in_flight(), document()
    claims = [budgets.claim(f"agent-{number}") for number in range(100)]
    for claim in claims:
        claim.hold(shared)
    for claim in claims:
        assert len(budgets.documents) == 1
        claim.close()
    assert len(budgets.documents) == 0


def test_documents_over_the_share_of_an_identity_are_refused_and_others_have_theirs() -> None:
    budgets = in_flight()
    claim = budgets.claim("greedy")
    claim.hold(document(2 * MIB))
    with pytest.raises(InFlightLimitError):
        claim.hold(document())
    budgets.claim("modest").hold(document())


def test_a_document_larger_than_a_share_takes_the_whole_share() -> None:
    budgets = in_flight()
    budgets.claim("a").hold(document(3 * MIB))
    with pytest.raises(InFlightLimitError):
        budgets.claim("a").hold(document())


async def test_who_has_to_wait_for_others_answers_holds_its_documents_meanwhile() -> None:
    budgets = in_flight()
    first, second = budgets.claim("a"), budgets.claim("a")
    await first.answer(MIB, [])
    waiting = asyncio.create_task(second.answer(MIB, [document()]))
    await asyncio.sleep(0)
    assert (len(budgets.documents), budgets.answers.waiting) == (1, 1)
    first.close()
    await waiting
    second.close()
    assert len(budgets.documents) == 0


async def test_a_line_that_holds_as_much_as_it_may_is_answered_at_once() -> None:
    budgets = in_flight()
    await budgets.claim("a").answer(MIB, [])
    waiting = asyncio.create_task(budgets.claim("a").answer(MIB, [document(2 * MIB)]))
    await asyncio.sleep(0)
    late = budgets.claim("a")
    with pytest.raises(InFlightLimitError):
        await late.answer(MIB, [document()])
    assert budgets.answers.waiting == 1
    waiting.cancel()
    await asyncio.wait({waiting})


def test_a_body_is_counted_with_all_that_it_may_become_and_refused_where_there_is_no_room() -> None:
    budgets = in_flight()
    budgets.claim("a").body(300_000)
    assert budgets.bodies.used == 300_000
    with pytest.raises(InFlightLimitError):
        budgets.claim("a").body(300_000)
    budgets.claim("a").body(UNCOUNTED)
