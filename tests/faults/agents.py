"""The agents of a scene: they ask again and again, over mTLS, and keep what they are told."""

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.certificates import TestAuthority
from tests.faults.setting import AGENT

_AGENTS: Final = 3
EVERY: Final = 0.1


@dataclass(frozen=True, slots=True)
class Seen:
    """One reference of one answer, as an agent saw it at a steady time."""

    at: float
    seconds: float
    reference: str
    status: str
    value: str | None
    fetched_at: str


class Agents:
    """Ask again and again, each agent on a kept connection of its own; keep every answer."""

    def __init__(self, *, authority: TestAuthority, references: Sequence[str]) -> None:
        files = authority.agent(AGENT)
        self._context = ssl.create_default_context(cafile=str(authority.ca_path))
        self._context.load_cert_chain(*files)
        self._references = references
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""
        # Seconds of each agent between an answer and its next request.
        self.pause = EVERY
        self.requests = 0
        self.answered = 0
        self.lost: list[float] = []
        self.seen: list[Seen] = []
        # What was told, by its status: to the busy agents, and to those that ask once.
        self.told: Counter[str] = Counter()

    @property
    def untold(self) -> int:
        """Return how many references the broker may have answered without anybody to hear it."""
        return (self.requests - self.answered) * len(self._references)

    def start(self, url: str) -> None:
        self.url = url
        self._tasks = [asyncio.create_task(self._keep_asking()) for _ in range(_AGENTS)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def ask(self, *references: str, require: str = "any") -> tuple[int, dict[str, Any], float]:
        """Return status, document and `Retry-After` (0 when there is none) of one request of its own."""
        async with self._session() as session:
            return await self._post(session, references, require)

    async def _keep_asking(self) -> None:
        async with self._session() as session:
            while True:
                began = time.monotonic()
                try:
                    _, document, _ = await self._post(session, self._references, "any")
                except (aiohttp.ClientError, OSError):
                    self.lost.append(time.monotonic())
                    await asyncio.sleep(self.pause)
                    continue
                ended = time.monotonic()
                for result in document["results"]:
                    self.seen.append(
                        Seen(
                            ended,
                            ended - began,
                            result["reference"],
                            result["status"],
                            result.get("value"),
                            result.get("fetched_at", ""),
                        )
                    )
                await asyncio.sleep(self.pause)

    async def _post(
        self, session: aiohttp.ClientSession, references: Sequence[str], require: str
    ) -> tuple[int, dict[str, Any], float]:
        self.requests += 1
        body = {"references": list(references), "require": require}
        async with session.post(f"{self.url}/v1/resolve", json=body) as answer:
            document = json.loads(await answer.read())
            self.answered += 1
            self.told.update(result["status"] for result in document["results"])
            return answer.status, document, float(answer.headers.get("Retry-After", 0))

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self._context)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))
