"""Which secrets engine stands behind a path: asked once for each mount and remembered until a sign of change."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from hvac.utils import format_url

from broker.clock import Clock
from broker.errors import MissingPart, SecretMissingError, SecretUnusableError, UpstreamDeniedError
from broker.providers.vault.exchange.answers import bad_answer
from broker.providers.vault.flight import SingleFlight

_MOUNTS: Final = "/v1/sys/internal/ui/mounts/{}"
_KV: Final = frozenset({"kv", "generic"})
# What the store is run by, with the broker's own token in reach, in a namespace or outside of any.
_OWN_KINDS: Final = frozenset({"system", "ns_system", "token", "ns_token"})
_OWN_SEGMENTS: Final = frozenset({"sys", "auth"})

Ask = Callable[[str], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A secrets engine, as the store describes it. `path` has no slash at its end."""

    path: str
    kind: str
    version: int
    uuid: str
    looked_at: float

    @property
    def is_kv(self) -> bool:
        """Tell whether the engine keeps secrets by path."""
        return self.kind in _KV

    def is_same(self, other: "Mount") -> bool:
        """Tell whether nothing has changed between two looks."""
        return (self.path, self.kind, self.version, self.uuid) == (other.path, other.kind, other.version, other.uuid)

    def covers(self, path: str) -> bool:
        """Tell whether `path` is below this mount."""
        return path.startswith(f"{self.path}/")

    def below(self, path: str) -> str:
        """Return what stands behind the mount in `path`."""
        return path[len(self.path) + 1 :]


class MountTable:
    """Remember the mounts of one store."""

    def __init__(self, *, ask: Ask, clock: Clock) -> None:
        """Keep `ask`, which sends a GET for an encoded path with a good token and returns the answer's JSON."""
        self._ask = ask
        self._clock = clock
        self._mounts: dict[str, Mount] = {}
        self._flights = SingleFlight()

    async def of(self, path: str) -> Mount:
        """Return the mount of `path`, remembered or looked up.

        Raises:
            UpstreamDeniedError: There is no such mount, or no right below it: the store does not tell.
            SecretUnusableError: It is the store's own, and no secrets engine.
            SourceUnavailableError: The store can't be asked.
            SecretMissingError: The path is a mount and names nothing below it.

        """
        # One look answers for all that asked meanwhile, unless theirs is another mount with the same first segment.
        first = path.partition("/")[0]
        if first in _OWN_SEGMENTS:
            raise _no_engine()
        own = False

        def look() -> Coroutine[Any, Any, Mount]:
            nonlocal own
            own = True
            return self._look(path)

        while (mount := self._known(path)) is None:
            try:
                mount = await self._flights.run(first, look)
            except (UpstreamDeniedError, SecretMissingError, SecretUnusableError):
                if own:
                    raise
                continue
            if mount.covers(path):
                break
        return mount

    async def again(self, mount: Mount, path: str) -> Mount:
        """Return the mount of `path` as it is now, which was `mount`.

        Raises:
            UpstreamDeniedError: As `of`.
            SourceUnavailableError: As `of`.
            SecretMissingError: As `of`.

        """
        current = await self._flights.run(("again", mount.path), lambda: self._look(path, was=mount))
        return current if current.covers(path) else await self.of(path)

    async def aclose(self) -> None:
        """End what is under way."""
        await self._flights.aclose()

    def _known(self, path: str) -> Mount | None:
        # A mount below a mount is impossible, so at most one covers a path.
        return next((mount for mount in self._mounts.values() if mount.covers(path)), None)

    async def _look(self, path: str, was: Mount | None = None) -> Mount:
        document = await self._ask(format_url(_MOUNTS, path))
        data: Any = document.get("data")
        try:
            options = data.get("options") or {}
            mount = Mount(
                path=str(data["path"]).strip("/"),
                kind=str(data["type"]),
                version=int(options.get("version") or 1),
                uuid=str(data.get("uuid")),
                looked_at=self._clock.monotonic(),
            )
            # A method to log in by has such an accessor, whichever namespace the path leads through.
            is_own = mount.kind in _OWN_KINDS or str(data.get("accessor")).startswith("auth_")
        except (AttributeError, KeyError, TypeError, ValueError):
            raise bad_answer() from None
        if is_own:
            raise _no_engine()
        if was is not None:
            self._mounts.pop(was.path, None)
        self._mounts[mount.path] = mount
        if not mount.covers(path):
            message = "the reference names a mount of the store and nothing below it"
            raise SecretMissingError(message, part=MissingPart.PATH)
        return mount


def _no_engine() -> SecretUnusableError:
    message = "no secrets engine stands there: sys/ and auth/ are the store's own, and nothing of them is handed out"
    return SecretUnusableError(message)
