"""What requests have in memory at once: their bodies, what is read for them, and their answers on their way.

Each of the four parts has a budget of its own. A request that holds bytes of one part may have to wait for those of
the next one, and where both came out of one budget, requests could wait for each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from broker.cache.control_group import MemoryUse
from broker.errors import AnswerTooLargeError
from broker.limits.byte_budget import UNCOUNTED, ByteBudget, PartSeries, Permit
from broker.secret import SecretDocument

PARTS: Final = ("bodies", "upstream", "values", "answers")
_MEBIBYTE: Final = 1024 * 1024
# Of the memory limit: what is left of it when the cache has filled up to where it gives way is hardly more.
_SHARE_OF_LIMIT: Final = 8
_WITHOUT_LIMIT: Final = 256 * _MEBIBYTE
# Time for an answer to wait for others to be taken.
_WAIT_SECONDS: Final = 5.0
# So small that all of one request together are no more than its connection takes anyway.
_UNCOUNTED_DOCUMENT: Final = 256


class InFlightSeries(Protocol):
    """Shows the budgets."""

    def in_flight_part(self, part: str, /, *, limit: int) -> PartSeries:
        """Return what shows one part, which has `limit` bytes."""
        ...


@dataclass(slots=True)
class _Held:
    """A document that requests in flight need; counted once however many they are."""

    document: SecretDocument
    permit: Permit
    requests: int = 1


class HeldDocuments:
    """The documents that were read for requests in flight, which keep them in memory when the cache lets them go."""

    def __init__(self, budget: ByteBudget) -> None:
        """Count them in `budget`."""
        self._budget = budget
        # By what it is and not by what it says; the entry keeps the document, so its id is nobody else's.
        self._held: dict[int, _Held] = {}

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._held)

    def hold(self, lane: str, document: SecretDocument) -> None:
        """Hold `document` for one request more. Raises: InFlightLimitError."""
        held = self._held.get(id(document))
        if held is not None:
            held.requests += 1
            return
        permit = self._budget.take_or_refuse(lane, min(document.size, self._budget.most))
        self._held[id(document)] = _Held(document, permit)

    def let_go(self, document: SecretDocument) -> None:
        """Hold `document` for one request less."""
        held = self._held[id(document)]
        held.requests -= 1
        if not held.requests:
            del self._held[id(document)]
            held.permit.give_back()


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """The budgets of all requests together.

    Attributes:
        bodies: Of bodies that are still arriving, or being read. Who gets no permit is refused at once.
        upstream: Of answers of stores, from their arrival until they are read. Who gets no permit waits.
        documents: What was read for requests. Who gets no permit is refused at once.
        answers: Of answers, until the agent has taken them. Who gets no permit waits, holding its documents.

    """

    bodies: ByteBudget
    upstream: ByteBudget
    documents: HeldDocuments
    answers: ByteBudget

    @classmethod
    def of(cls, total: int, series: InFlightSeries) -> "InFlight":
        """Share `total` bytes out; 0: any number."""
        if not total:
            return cls.unlimited()
        eighth = total // 8

        def budget(part: str, *, eighths: int, each: int) -> ByteBudget:
            limit = eighths * eighth
            return ByteBudget(limit=limit, most=limit // each, series=series.in_flight_part(part, limit=limit))

        # Of what one identity asks for, others have at least half left. What a store answers is everybody's.
        return cls(
            bodies=budget("bodies", eighths=1, each=2),
            upstream=budget("upstream", eighths=1, each=1),
            documents=HeldDocuments(budget("values", eighths=4, each=2)),
            answers=budget("answers", eighths=2, each=2),
        )

    @classmethod
    def unlimited(cls) -> "InFlight":
        """Return budgets that refuse nothing."""
        unlimited = ByteBudget.unlimited
        return cls(bodies=unlimited(), upstream=unlimited(), documents=HeldDocuments(unlimited()), answers=unlimited())

    def claim(self, lane: str) -> "Claim":
        """Return what one request of the identity `lane` holds: nothing yet."""
        return Claim(self, lane)


def default_total(use: MemoryUse | None) -> int:
    """Return how many bytes may be in flight where nobody has said it."""
    return _WITHOUT_LIMIT if use is None else use.limit // _SHARE_OF_LIMIT


class Claim:
    """What one request holds. Who makes one closes it when the answer was taken, or nobody is there to take it."""

    __slots__ = ("_answer", "_body", "_documents", "_in_flight", "_lane")

    def __init__(self, in_flight: InFlight, lane: str) -> None:
        """Begin with nothing, for the identity `lane`."""
        self._in_flight = in_flight
        self._lane = lane
        self._body: Permit | None = None
        self._documents: list[SecretDocument] | None = None
        self._answer: Permit | None = None

    @property
    def has_large_answer(self) -> bool:
        """Tell whether the answer is one that is counted."""
        return self._answer is not None

    def body(self, size: int) -> None:
        """Count the body, which has at most `size` bytes. Raises: InFlightLimitError."""
        if size > UNCOUNTED and self._body is None:
            bodies = self._in_flight.bodies
            self._body = bodies.take_or_refuse(self._lane, min(size, bodies.most))

    def hold(self, document: SecretDocument) -> None:
        """Count a document that was read for this request. Raises: InFlightLimitError."""
        if document.size <= _UNCOUNTED_DOCUMENT:
            return
        self._in_flight.documents.hold(self._lane, document)
        if self._documents is None:
            self._documents = []
        self._documents.append(document)

    async def answer(self, size: int, documents: Iterable[SecretDocument]) -> None:
        """Count the answer of `size` bytes, which is made of `documents`.

        Raises:
            AnswerTooLargeError: No answer may be as large.
            InFlightLimitError: There are too many for this one to wait, or it waited too long.

        """
        if size <= UNCOUNTED:
            return
        answers = self._in_flight.answers
        if size > answers.most:
            message = (
                f"the values are together more than the {answers.most} bytes that one answer may have "
                "(limits.max_bytes_in_flight); ask for fewer of them in one request"
            )
            raise AnswerTooLargeError(message)
        self._answer = answers.take_at_once(self._lane, size)
        if self._answer is None:
            for document in documents:
                self.hold(document)
            self._answer = await answers.take(self._lane, size, seconds=_WAIT_SECONDS)

    def built(self) -> None:
        """Give back all but the answer, which has been made."""
        body, self._body = self._body, None
        if body is not None:
            body.give_back()
        documents, self._documents = self._documents, None
        for document in documents or ():
            self._in_flight.documents.let_go(document)

    def close(self) -> None:
        """Give back everything; a second call does nothing."""
        self.built()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.give_back()
