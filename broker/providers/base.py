"""What every provider promises, and what it may use of the broker.

A provider reads sources and, where its back end mints, looks after leases. It sees no identity, no policy, no
cache and no audit. It raises only the `FetchError` family; a foreign exception never leaves it, and neither does
its text, which may name hosts, paths or values.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import BaseModel

from broker.clock import Clock
from broker.errors import FetchError
from broker.finding import Finding
from broker.limits.byte_budget import ByteBudget
from broker.providers.own_variables import OwnVariables
from broker.reference import Source
from broker.secret import Lease, Reading, SecretValue


class Provider(Protocol):
    """Read the sources of one scheme."""

    def check(self, source: Source) -> None:
        """Refuse, without I/O, a source that this provider could never read.

        Raises:
            FetchError: It is outside what the settings declare, or uses what the provider lacks.

        """
        ...

    async def fetch(self, source: Source) -> Reading:
        """Read `source` once and consistently. May be cancelled at any await without a leak.

        Raises:
            SourceMintsError: A read would make something new for its asker; nothing was sent. Only `Leasing` raises it.
            SecretMissingError: The source is not there; says which part.
            UpstreamDeniedError: The back end refuses it, with a credential that is good.
            SourceUnavailableError: The back end can't answer now.
            SecretUnusableError: There is something there that can't be handed out.

        """
        ...

    async def ping(self) -> None:
        """Return when the back end could serve a read now.

        Raises:
            SourceUnavailableError: It could not; the detail says what to look at.

        """
        ...

    async def aclose(self) -> None:
        """Release everything; a second call does nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What the leases that are minted under it end with.

    Attributes:
        accessor: Its name, which revokes it and proves nothing; empty when that is the provider's own access.
        key: What mints under it; None as above.

    """

    accessor: str = ""
    key: SecretValue | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grip:
    """By what a lease is held at the back end: its own name, and that of its parent; each may be empty."""

    handle: str
    parent: str


@dataclass(frozen=True, slots=True)
class Extension:
    """What a renewal gave: seconds of life from the moment it began, and whether the back end gives no more."""

    seconds: float
    capped: bool


class UnusableMintError(FetchError):
    """Something was made that can't be handed out, and is there: `lease` is what it is held by, `reason` says why."""

    code = "secret_unusable"

    def __init__(self, *, lease: Lease, reason: FetchError) -> None:
        """Keep both."""
        super().__init__(reason.detail)
        self.lease = lease
        self.reason = reason


@runtime_checkable
class Leasing(Protocol):
    """The side of a provider that mints. All but `mint` and `prepare` may be tried as often as needed."""

    async def prepare(self, source: Source) -> Parent:
        """Return what a lease of `source` shall hang on. Nothing is minted yet; unused, it ends by itself soon.

        Raises:
            FetchError: As `Provider.fetch`.

        """
        ...

    async def mint(self, source: Source, parent: Parent) -> Reading:
        """Read `source`, which makes something new. The request is sent once at most.

        Raises:
            SourceUnavailableError: There is no answer, and something may have been made.
            UnusableMintError: Something was made, for whoever asks to revoke.
            FetchError: As `Provider.fetch`; nothing was made.

        """
        ...

    async def left_behind(self, source: Source, *, created: float, known: AbstractSet[str]) -> Sequence[str]:
        """Return the handles of what was made of `source` about the wall time `created`, as far as that can be found.

        What is `known` or revoked is left out.

        Raises:
            UpstreamDeniedError: The back end does not let the broker look.
            SourceUnavailableError: It can't answer now.

        """
        ...

    async def renew(self, grip: Grip, *, seconds: float) -> Extension:
        """Ask for `seconds` of life from now.

        Raises:
            SecretMissingError: The lease is gone.
            UpstreamDeniedError: The back end does not let the broker renew.
            SourceUnavailableError: It can't answer now; the lease may live on.

        """
        ...

    async def look_up(self, grip: Grip) -> float:
        """Return the seconds that the lease has left, as far as the back end can tell.

        Raises:
            SecretMissingError: The lease is gone.
            UpstreamDeniedError: The back end does not let the broker look.
            SourceUnavailableError: It can't answer now.

        """
        ...

    async def revoke(self, grip: Grip) -> None:
        """Return when the lease, and its parent if it has one of its own, are gone; being gone before is well.

        Raises:
            UpstreamDeniedError: The back end does not let the broker revoke.
            SourceUnavailableError: It could not be done now.

        """
        ...


@dataclass(frozen=True, slots=True)
class Revision:
    """How a source stands: its own name of the version, and a mark that differs when anything has changed."""

    version: str | None
    mark: str

    @property
    def is_gone(self) -> bool:
        """Tell whether there is nothing to read."""
        return self.mark == "gone"


class UpstreamObserver(Protocol):
    """Count what a provider asks of its back end; labels are closed sets, never caller's text."""

    def upstream_request(self, *, provider: str, operation: str, outcome: str, seconds: float) -> None:
        """Count one request to a back end (`operation`: read, login, renew, lookup, mounts, health, lease)."""
        ...

    def upstream_budget(self, *, provider: str, per_second: float, throttled: int, refused: int) -> None:
        """State the budget in requests a second, and add requests that had to wait for it or got no turn in time."""
        ...

    def upstream_breaker(self, *, provider: str, is_open: bool, places: int) -> None:
        """State whether a back end is taken to be away, and how many places in it are shut by themselves.

        What is away or shut is asked by a probe now and then alone.
        """
        ...

    def upstream_lowest_budget(self, *, provider: str, per_second: float) -> None:
        """State the requests a second of the place that gets least, because the back end has limited it."""
        ...

    def upstream_limited(self, *, provider: str, named: bool) -> None:
        """Count an answer that limits the rate of requests, and whether it named the time to wait."""
        ...

    def upstream_alarm(self, *, provider: str, alarm: str) -> None:
        """Count what a person has to look at (`alarm`: certificate, pin, files, wrapping_token_used, and so on)."""
        ...

    def clock_skew(self, *, provider: str, seconds: float) -> None:
        """State by how much the broker's wall clock is ahead of the back end's."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTools:
    """What the composition root hands to every provider.

    Attributes:
        clock: Wall time and steady time.
        observer: Counts what is asked of the back end.
        max_value_bytes: Of one value.
        own: The variables with the broker's own credentials.
        answers: Bytes of large answers of back ends that may be in memory at once.

    """

    clock: Clock
    observer: UpstreamObserver
    max_value_bytes: int
    own: OwnVariables = field(default_factory=OwnVariables)
    answers: ByteBudget = field(default_factory=ByteBudget.unlimited)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """One line of the table in `registry.py`.

    Attributes:
        scheme: What its references begin with.
        settings: The model of its section.
        build: Makes the provider.
        examine: Finds, before the start, what would fail after it; reads files, changes and sends nothing. Blocks.
        spends_credential: Tells whether a login uses its credential up, so that nobody may log in just to look.
        own: Makes the variables that hold credentials of the broker itself; None where the provider has none.
        reach: Returns when a built provider may look at a path, reading no secret; None when `ping` says it all.

    """

    scheme: str
    settings: type[BaseModel]
    build: Callable[[BaseModel, ProviderTools], Provider]
    examine: Callable[[BaseModel, ProviderTools], Iterable[Finding]]
    spends_credential: Callable[[BaseModel], bool] = lambda _settings: False
    own: Callable[[BaseModel], OwnVariables] | None = None
    reach: Callable[[Provider, str], Awaitable[None]] | None = None
