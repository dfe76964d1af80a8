"""What an agent's command says when it gets no values: one line a reference, and a stable exit status."""

import sys
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from broker.agent.answer import Answer, ResolveRefusedError
from broker.agent.client import BrokerUnreachableError
from broker.agent.settings import ClientSettingsError
from broker.errors import BrokerError

EXIT_NO: Final = 1
EXIT_USAGE: Final = 2
EXIT_BAD_FILE: Final = 3
EXIT_UNAVAILABLE: Final = 4

# Statuses that pass by themselves: 429, and what the broker can't help, which is every 5xx.
_LATER: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


def say(error: BrokerError) -> int:
    """Print why there is nothing, and return the exit status that says the same."""
    if not isinstance(error, ResolveRefusedError):
        print(f"broker: error[{error.code}]: {error.detail}", file=sys.stderr)
    match error:
        case ResolveRefusedError():
            print(_refusal(error), file=sys.stderr)
            return EXIT_UNAVAILABLE if _may_pass(error) else EXIT_NO
        case BrokerUnreachableError():
            return EXIT_UNAVAILABLE
        case ClientSettingsError():
            return EXIT_USAGE
        case _:
            return EXIT_NO


def say_waiting(why: str) -> None:
    """Tell that a command is still there, and what it waits for."""
    print(f"broker: {why}", file=sys.stderr, flush=True)


def _refusal(error: ResolveRefusedError) -> str:
    failed = [result for result in error.results if result.get("status") not in {"ok", "stale"}]
    told = error.detail
    if failed:
        told = "no value is handed out, because of:"
    lines = [f"broker: error[{error.broker_code}]: {told}"]
    lines += [f"  {result.get('reference')}: {result.get('status')}: {result.get('detail')}" for result in failed]
    if error.request:
        lines.append(f"  who runs the broker finds more in its audit trail, under request {error.request}")
    return "\n".join(lines)


def _may_pass(error: ResolveRefusedError) -> bool:
    """Tell whether trying again later may help."""
    if error.results:
        return any(result.get("status") == "unavailable" for result in error.results)
    return error.status in _LATER or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def say_refused(answers: Iterable[Answer]) -> int:
    """Print each answer without a value; return 1 when there was one, else 0."""
    status = 0
    for answer in answers:
        if answer.value is None:
            print(f"broker: {answer.reference}: {answer.status}: {answer.detail}", file=sys.stderr)
            status = EXIT_NO
    return status
