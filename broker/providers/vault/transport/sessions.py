"""The aiohttp sessions of one store: made in the running loop, and made anew when a file on the way changes."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from broker.clock import Clock
from broker.errors import SourceUnavailableError
from broker.logs import EventLogger
from broker.providers.base import UpstreamObserver
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.exchange.failures import NothingSentError
from broker.providers.vault.flight import SingleFlight
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.material import Material, MaterialFiles
from broker.providers.vault.way.proxy import socks_connector
from broker.providers.vault.way.resolver import LastGoodResolver
from broker.trace_context import untraced

_LOG: Final = EventLogger("broker.providers.vault")
_LOOK_SECONDS: Final = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class Sessions:
    """One generation: closed when it is old and nobody uses it. `proxied` differs from `direct` for SOCKS alone."""

    direct: aiohttp.ClientSession
    proxied: aiohttp.ClientSession
    material: Material
    resolver: LastGoodResolver
    users: int = 0
    is_old: bool = False

    async def aclose(self) -> None:
        """Close the connections."""
        await self.direct.close()
        await self.proxied.close()
        await self.resolver.close()


class SessionPool:
    """Hand out the sessions that fit the files as they are now."""

    def __init__(self, *, settings: VaultSettings, own: OwnVariables, clock: Clock, observer: UpstreamObserver) -> None:
        """Keep the collaborators; nothing is read and nothing opened before the first use."""
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._files = MaterialFiles(settings=settings, own=own)
        self._flights = SingleFlight()
        self._current: Sessions | None = None
        self._looked = float("-inf")
        self._closed = False
        self._names: asyncio.Task[None] | None = None

    async def borrow(self) -> Sessions:
        """Lend the sessions for one request, which ends with `give_back`.

        Raises:
            SourceUnavailableError: A file can't be used, or the broker has closed its connections.

        """
        sessions = await self._fresh()
        sessions.users += 1
        return sessions

    async def give_back(self, sessions: Sessions) -> None:
        """Close the sessions that were lent if they are old and nobody else uses them."""
        sessions.users -= 1
        if sessions.is_old and not sessions.users:
            await sessions.aclose()

    async def aclose(self) -> None:
        """Close everything for good; a second call does nothing."""
        self._closed = True
        names, self._names = self._names, None
        if names is not None:
            names.cancel()
            await asyncio.wait({names})
        await self._flights.aclose()
        sessions, self._current = self._current, None
        if sessions is not None:
            await sessions.aclose()

    async def _fresh(self) -> Sessions:
        if not self._closed and (self._current is None or self._clock.monotonic() - self._looked >= _LOOK_SECONDS):
            await self._flights.run("look", self._look)
        if self._current is None or self._closed:
            message = "the broker has closed its connection to the store"
            raise NothingSentError(message)
        return self._current

    async def _look(self) -> None:
        old = self._current
        changed = await asyncio.to_thread(self._files.changed)
        self._looked = self._clock.monotonic()
        if old is not None and not changed:
            return
        try:
            material = await asyncio.to_thread(self._files.read)
            self._current = self._make(material)
        except SourceUnavailableError as error:
            if old is None:
                raise
            # Half of a change may be there; the other half is a change too, and is looked at then.
            _LOG.error("store_files_refused", reason=error.detail, effect="the connections stay as they are")
            self._observer.upstream_alarm(provider="vault", alarm="files")
            return
        if old is not None:
            _LOG.info("store_files_changed", effect="new connections are made with them")
            await self._retire(old)
        elif self._names is None:
            self._names = asyncio.create_task(self._follow_names(), context=untraced())

    async def _follow_names(self) -> None:
        """Leave connections that are kept, for ever, when their name has moved away from all that it was."""
        while True:
            await asyncio.sleep(self._settings.dns_seconds)
            if self._current is not None and await self._current.resolver.has_moved():
                # Not beside a look at the files, which makes new sessions too; then the next round does it.
                await self._flights.run("look", self._leave_old_addresses)

    async def _leave_old_addresses(self) -> None:
        old = self._current
        if old is not None:
            self._current = self._make(old.material)
            _LOG.info("store_name_moved", effect="new connections are made to its new addresses")
            await self._retire(old)

    async def _retire(self, old: Sessions) -> None:
        old.is_old = True
        if not old.users:
            await old.aclose()

    def _make(self, material: Material) -> Sessions:
        settings = self._settings
        proxy = settings.proxy
        resolver = LastGoodResolver(seconds=settings.connect_seconds)
        direct = self._session(aiohttp.TCPConnector, resolver=resolver, ttl_dns_cache=settings.dns_seconds)
        proxied = direct
        if proxy is not None and proxy.address.startswith("socks5://"):
            proxied = self._session(
                lambda **options: socks_connector(proxy, material.proxy_login, **options), use_dns_cache=False
            )
        return Sessions(direct=direct, proxied=proxied, material=material, resolver=resolver)

    def _session(self, connector: Any, **options: Any) -> aiohttp.ClientSession:  # noqa: ANN401  aiohttp's own options.
        session = aiohttp.ClientSession(
            connector=connector(limit=0, limit_per_host=self._settings.max_connections, **options),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        # aiohttp would send a GET a second time by itself when a connection breaks; retries are ours to count.
        session._retry_connection = False  # noqa: SLF001  There is no public switch.
        return session
