"""Requests in flight end before their connections do, and not later than allowed."""

import asyncio

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from broker.web.listening.drain import Drain


async def test_it_waits_for_the_last_request_and_tells_its_client_to_go() -> None:
    drain, gate, began = Drain(), asyncio.Event(), asyncio.Event()

    async def handler(_request: web.Request) -> web.Response:
        began.set()
        await gate.wait()
        return web.Response()

    request = asyncio.ensure_future(drain.middleware()(make_mocked_request("POST", "/"), handler))
    await began.wait()
    finishing = asyncio.create_task(drain.finish(seconds=20))
    await asyncio.sleep(0)
    assert not finishing.done()
    gate.set()
    await finishing
    assert request.done()
    assert (await request).keep_alive is False


async def test_a_request_that_does_not_end_is_not_waited_for_for_ever() -> None:
    drain, began = Drain(), asyncio.Event()

    async def handler(_request: web.Request) -> web.Response:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    request = asyncio.ensure_future(drain.middleware()(make_mocked_request("POST", "/"), handler))
    await began.wait()
    await drain.finish(seconds=0.01)
    assert not request.done()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await drain.finish(seconds=20)
