"""Who may give orders to the broker, and how many: identities that policy names as administrators."""

from dataclasses import dataclass
from typing import Final, Protocol

from broker.clock import Clock
from broker.errors import NotAdministratorError, OrderRateError
from broker.identity import PeerIdentity
from broker.token_bucket import TokenBucket

_BURST: Final = 20.0
_PER_SECOND: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an order comes from: the peer's name or the key's, the address and the request's id."""

    name: str
    address: str
    request: str


class Policy(Protocol):
    """What this use case asks of a policy."""

    def administers(self, identity: PeerIdentity, /) -> bool:
        """Tell whether `identity` may give orders."""
        ...

    def environment_of(self, identity: PeerIdentity, /) -> str | None:
        """Return the one environment of this identity."""
        ...


class PolicySource(Protocol):
    """Holds the policy in force."""

    @property
    def current(self) -> Policy:
        """Return the policy in force now."""
        ...


class Administration:
    """Let administrators give orders, all together as many as one person or one script needs."""

    def __init__(self, *, policy: PolicySource, clock: Clock) -> None:
        """Ask the policy in force each time."""
        self._policy = policy
        self._clock = clock
        # What is refused has a bucket of its own, so that nobody shuts those out who may give orders.
        self._good, self._bad = (
            TokenBucket.full(burst=_BURST, per_second=_PER_SECOND, now=clock.monotonic()) for _ in range(2)
        )

    def require(self, peer: PeerIdentity) -> str:
        """Return the environment of `peer`, who may give orders. Raises: NotAdministratorError."""
        policy = self._policy.current
        if not policy.administers(peer):
            message = "this identity may not give orders to the broker; policy names those who may as administrators"
            raise NotAdministratorError(message)
        return policy.environment_of(peer) or ""

    def count(self) -> None:
        """Count an order. Raises: OrderRateError: Too many came lately."""
        self._take(self._good)

    def count_refused(self) -> None:
        """Count a refusal. Raises: OrderRateError: Too many were refused lately."""
        self._take(self._bad)

    def _take(self, bucket: TokenBucket) -> None:
        wait = bucket.take(self._clock.monotonic())
        if wait:
            message = f"more than {_BURST:g} orders at once, and {_PER_SECOND:g} a second after that; put them together"
            raise OrderRateError(message, retry_after=wait)
