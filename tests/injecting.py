"""`broker serve` with bugs that can be switched on, and a look at every object that it holds.

Run as `python -m tests.injecting serve --config FILE`. SIGUSR1 writes how many objects of the broker there are,
and how many show the value of `CANARY`; SIGUSR2 makes the code fail right after a value was read, with the
value in the text of the exception, as a careless bug would.
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import broker.assembly.source_side
import broker.web.routes.resolve
from broker.__main__ import main
from broker.providers.base import Provider, Reading
from broker.resolution.results import Granted, Resolution
from broker.secret import SecretDocument, SecretValue

CANARY = os.environ["CANARY"]
_bugs: list[str] = []
_tasks: set[asyncio.Task[None]] = set()


def of_the_broker() -> Iterator[object]:
    for thing in gc.get_objects():
        if type(thing).__module__.partition(".")[0] == "broker":
            yield thing


def look(_number: int, _frame: object) -> None:
    things = list(of_the_broker())
    holders = sum(isinstance(thing, (SecretValue, SecretDocument)) for thing in things)
    shown = sorted({type(thing).__qualname__ for thing in things if CANARY in repr(thing) or CANARY in str(thing)})
    sys.stdout.write(f"LOOKED objects={len(things)} holders={holders} shown={shown}\n")
    sys.stdout.flush()


def switch_on(_number: int, _frame: object) -> None:
    _bugs.append("on")
    sys.stdout.write("SWITCHED ON\n")
    sys.stdout.flush()


async def forgotten(value: str) -> None:
    """Fail where nobody waits."""
    message = f"forgotten task with {value}"
    raise RuntimeError(message)


def careless_answer(resolution: Resolution) -> bytes:
    """Fail between the audit record and the answer."""
    if not _bugs:
        return answer(resolution)
    value = next(result.value for result in resolution.results if isinstance(result, Granted)).reveal().decode()
    task = asyncio.get_running_loop().create_task(forgotten(value))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    asyncio.get_running_loop().call_soon(careless_callback, value)
    message = f"careless bug with {value}"
    raise ValueError(message) from KeyError(value)


def careless_callback(value: str) -> None:
    message = f"callback with {value}"
    raise LookupError(message)


def careless_provider(provider: Provider) -> Provider:
    """Return `provider`, whose reads fail after the value was read."""
    original = provider.fetch

    async def fetch(source: Any) -> Reading:
        reading = await original(source)
        if _bugs:
            message = f"careless read of {reading.document._root}"
            raise ArithmeticError(message)
        return reading

    provider.fetch = fetch  # type: ignore[method-assign]  # The point of this module.
    return provider


def careless_providers(*arguments: Any) -> dict[str, Provider]:
    return {scheme: careless_provider(provider) for scheme, provider in build(*arguments).items()}


if __name__ == "__main__":
    answer, build = broker.web.routes.resolve.resolution_body, broker.assembly.source_side.build_providers
    broker.web.routes.resolve.resolution_body = careless_answer
    broker.assembly.source_side.build_providers = careless_providers
    signal.signal(signal.SIGUSR1, look)
    signal.signal(signal.SIGUSR2, switch_on)
    sys.exit(main())
