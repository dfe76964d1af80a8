"""`POST /v1/watch`: changes as Server-Sent Events, for as long as the agent reads them."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, FailFast, Field

from broker.audit.event import EventKind
from broker.changes.feed import ChangeFeed
from broker.errors import IdentityRefusedError
from broker.resolution.results import Resolution
from broker.watch import Watch, WatchReferences
from broker.web.body import BodyLimits, model_of, read_bytes
from broker.web.callers import AgentDoor, Caller, token_of
from broker.web.problems import resolution_problem

WATCH_PATH: Final = "/v1/watch"
_HEADERS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_HEARTBEAT: Final = b": heartbeat\n\n"


class WatchRequest(BaseModel):
    """The body of `POST /v1/watch`; `versions` are those that the agent has, by reference."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    references: Annotated[list[str], FailFast()]
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchHandler:
    """Answer watches.

    Attributes:
        watch: The use case.
        feed: Where changes come from.
        door: Lets agents in, and tells who is at the other end.
        limits: Bounds the body.
        heartbeat_seconds: Time between two signs of life, and between two looks whether the watch may go on.
        write_seconds: Time for the agent to take what was written.

    """

    watch: WatchReferences
    feed: ChangeFeed
    door: AgentDoor
    limits: BodyLimits = field(default_factory=BodyLimits)
    heartbeat_seconds: float = 15.0
    write_seconds: float = 30.0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer `POST /v1/watch`."""
        caller = await self.door.admit(request, EventKind.WATCH)
        watch = await self._begin(request, caller)
        caller.claim.built()
        if isinstance(watch, Resolution):
            return resolution_problem(watch, instance=caller.request)
        try:
            return await self._stream(request, watch)
        finally:
            self.watch.stop(watch)

    async def _begin(self, request: web.Request, caller: Caller) -> Watch | Resolution:
        # Apart, so that no stream holds on to what was sent to begin it.
        unverified_token = token_of(request)
        raw = await read_bytes(request, self.limits)
        self.door.weigh(caller, raw)
        asked = model_of(raw, WatchRequest)
        return await self.watch.start(
            peer=caller.peer,
            unverified_token=unverified_token,
            texts=asked.references,
            versions=asked.versions,
            after=request.headers.get("Last-Event-ID", ""),
            address=caller.address,
            request=caller.request,
        )

    async def _stream(self, request: web.Request, watch: Watch) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        # The connection is done when the stream is: nothing may be sent on it after a stream that was cut.
        response.force_close()
        await response.prepare(request)
        try:
            await self._write(response, self._watching(watch))
            while not (reason := self._reason_to_end(request, watch)):
                told = await self._next(watch)
                # Asked again after the wait: who was revoked or denied meanwhile is told nothing more.
                if not self._reason_to_end(request, watch):
                    await self._write(response, told)
            await self._write(response, _event("end", {"reason": reason}))
            await response.write_eof()
        except TimeoutError:
            # It never reads; what it missed it gets when it comes back.
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            # It has gone.
            pass
        return response

    async def _next(self, watch: Watch) -> bytes:
        try:
            async with asyncio.timeout(self.heartbeat_seconds):
                await watch.subscription.wait()
        except TimeoutError:
            return _HEARTBEAT
        changes = watch.subscription.take()
        return b"".join(
            _event(
                "change",
                {"reference": text, "version": change.version, "status": "missing" if change.gone else "changed"},
                position=self.feed.position if change is changes[-1] and text == watch.texts[change.source][-1] else "",
            )
            for change in changes
            for text in watch.texts[change.source]
        )

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self.write_seconds):
            await response.write(data)

    def _reason_to_end(self, request: web.Request, watch: Watch) -> str:
        try:
            self.door.require(request)
        except IdentityRefusedError:
            return "identity"
        return self.watch.reason_to_end(watch)

    def _watching(self, watch: Watch) -> bytes:
        versions = {text: self.feed.version_of(source) for source, texts in watch.texts.items() for text in texts}
        return _event("watching", {"resumed": watch.resumed, "versions": versions}, position=self.feed.position)


def watch_routes(handler: WatchHandler) -> list[web.RouteDef]:
    """Return the route of watches."""
    return [web.post(WATCH_PATH, handler.handle)]


def _event(name: str, data: Mapping[str, Any], *, position: str = "") -> bytes:
    # JSON in ASCII has no line breaks, so one `data` line holds it.
    line = f"id: {position}\n" if position else ""
    return f"event: {name}\n{line}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode("ascii")
