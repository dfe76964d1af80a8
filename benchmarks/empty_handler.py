"""An aiohttp handler that does nothing, behind the broker's own listener: the ceiling of this stack."""

import asyncio
import sys
import time
from pathlib import Path

from aiohttp import web

from broker.cli.serve import loop_factory
from broker.web.listening.binding import bind
from broker.web.listening.tls_listener import TlsListener
from broker.web.tls.certificates import TlsFiles, build_context, read_pair, read_trust


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response({})


async def main(directory: Path, port: int) -> None:
    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    pki = directory / "pki"
    files = TlsFiles(certificate=pki / "broker.crt", key=pki / "broker.key", client_ca=pki / "ca.crt")
    now = time.time()
    context = build_context(pair=read_pair(files, now=now), trust=read_trust(files, now=now), minimum="1.3")
    listener = TlsListener(
        protocol=runner.server,
        sock=bind("127.0.0.1", port),
        context=lambda: context,
        on_handshake=lambda _result: None,
        name_of=lambda _peer: "",
    )
    await listener.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(uvloop="--uvloop" in sys.argv)) as loop:
        loop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
