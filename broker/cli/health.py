"""`broker health`: ask the broker of this machine whether it is ready; what a container's health check runs."""

import argparse
import urllib.request

from broker.errors import SourceUnavailableError

HELP = "ask the broker of this machine whether it is ready"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--url", default="http://127.0.0.1:9102/readyz", help="the probe to ask (%(default)s)")
    parser.epilog = "exit status: 0 ready, 4 not ready or no answer\n\nexample:\n  broker health"


def run(arguments: argparse.Namespace) -> int:
    """Print the answer of the probe.

    Raises:
        SourceUnavailableError: There is no answer, or it is not ready.

    """
    if not arguments.url.startswith(("http://", "https://")):
        message = f"{arguments.url}: the probe is an http address"
        raise SourceUnavailableError(message)
    try:
        with urllib.request.urlopen(arguments.url, timeout=3) as answer:  # noqa: S310  The scheme is checked above.
            print(answer.read().decode())
    except OSError as error:
        message = f"{arguments.url}: {getattr(error, 'reason', error)}; see the log and /readyz"
        raise SourceUnavailableError(message) from None
    return 0
