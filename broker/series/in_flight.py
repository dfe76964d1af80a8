"""What requests have in memory at once."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class InFlightPart:
    """Shows one part of it."""

    __slots__ = ("_refused", "_used", "_waited")

    def __init__(self, *, used: Gauge, waited: Counter, refused: Counter) -> None:
        """Keep the children of the series."""
        self._used = used
        self._waited = waited
        self._refused = refused

    def used(self, size: int) -> None:
        """State how many bytes are taken."""
        self._used.set(size)

    def waited(self) -> None:
        """Count one that had to wait."""
        self._waited.inc()

    def refused(self) -> None:
        """Count one that got nothing."""
        self._refused.inc()


class InFlightSeries:
    """State how many bytes are in flight, and count who was kept waiting or refused for it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the series."""
        # part: bodies, upstream, values, answers.
        self._in_flight_bytes = Gauge(
            "broker_in_flight_bytes", "Bytes that requests have in memory now.", ["part"], registry=registry
        )
        self._in_flight_limit = Gauge(
            "broker_in_flight_limit_bytes", "Bytes that they may have at once.", ["part"], registry=registry
        )
        self._in_flight_waits = Counter(
            "broker_in_flight_waits", "Times at which somebody had to wait for that.", ["part"], registry=registry
        )
        self._in_flight_refusals = Counter(
            "broker_in_flight_refusals", "Times at which somebody was refused for that.", ["part"], registry=registry
        )
        self._answers_cut = Counter(
            "broker_answers_cut",
            "Connections cut for an answer not taken in time.",
            registry=registry,
        )

    def in_flight_part(self, part: str, /, *, limit: int) -> InFlightPart:
        """Return what shows one part, which has `limit` bytes."""
        self._in_flight_limit.labels(part).set(limit)
        return InFlightPart(
            used=self._in_flight_bytes.labels(part),
            waited=self._in_flight_waits.labels(part),
            refused=self._in_flight_refusals.labels(part),
        )

    def answer_cut(self) -> None:
        """Count an answer that was not taken in time."""
        self._answers_cut.inc()
