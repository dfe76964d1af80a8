"""`broker health`: ask the broker of this machine whether it is ready; what a container's health check runs.

It reads no settings file: one that was broken after the start must not end a broker that still serves.
"""

import argparse
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Final

from broker.errors import SourceUnavailableError

PORT_VARIABLE: Final = "LOGFLUX_OPERATIONS__PORT"
_DEFAULT_PORT: Final = "9102"
_MAX_BYTES: Final = 65_536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--url", help=f"the probe to ask (/readyz of this machine, at {PORT_VARIABLE} or 9102)")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="NAME", help="leave a dependency out of the verdict"
    )
    parser.epilog = (
        "exit status: 0 ready, 4 not ready or no answer\n\n"
        "examples:\n  broker health\n  broker health --exclude vault   # ready for what memory and files can answer"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the answer of the probe.

    Raises:
        SourceUnavailableError: There is no answer, or it is not ready.

    """
    url = arguments.url or probe_of_this_machine(os.environ)
    if not url.startswith(("http://", "https://")):
        message = f"{url}: the probe is an http address"
        raise SourceUnavailableError(message)
    if arguments.exclude:
        query = urllib.parse.urlencode([("exclude", name) for name in arguments.exclude])
        url = f"{url}{'&' if '?' in url else '?'}{query}"
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:  # noqa: S310  The scheme is checked above.
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        message = f"{url}: {_said(error)}"
        raise SourceUnavailableError(message) from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or reason
        message = f"{url}: no answer ({why}); does the broker run, and is this its operations address?"
        raise SourceUnavailableError(message) from None
    return 0


def _said(error: urllib.error.HTTPError) -> str:
    """Return what is not ready and why, or that this is no probe."""
    try:
        dependencies = json.loads(error.read(_MAX_BYTES))["dependencies"]
        down = [f"{name}: {each['reason'] or 'not ready'}" for name, each in dependencies.items() if not each["ready"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"answered {error.code}, which is no probe of a broker; the probes are /readyz and /livez"
    return f"not ready: {'; '.join(down)}"


def probe_of_this_machine(environment: Mapping[str, str]) -> str:
    """Return the address of the broker's own probe, on the port that `environment` sets for it."""
    return f"http://127.0.0.1:{environment.get(PORT_VARIABLE) or _DEFAULT_PORT}/readyz"
