"""`broker cache`: an administrator's order to the broker to forget, or to read again, what it remembers."""

import argparse
import os
import sys

from broker.agent.client import BrokerClient
from broker.agent.refusal import say, say_waiting
from broker.agent.settings import add_client_arguments, client_settings
from broker.errors import BrokerError

_ACTIONS = {
    "invalidate": "forget values: the next who asks waits for the store, and gets nothing while it is away",
    "refresh": "read values again: until the store has answered, the remembered ones serve as stale",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, what in _ACTIONS.items():
        command = actions.add_parser(
            action, help=what, description=what, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument(
            "references",
            nargs="*",
            metavar="PATTERN",
            help="a reference, or a pattern as in policies: vault:secret/app, 'vault:secret/team/**'",
        )
        command.add_argument("--everything", action="store_true", help="all that the broker remembers")
        add_client_arguments(command)
        command.epilog = (
            "The certificate is that of an identity which the policy names under administrators.\n\n"
            "exit status: 0 done, 1 refused, 2 wrong command line, 4 broker away\n\n"
            "examples:\n"
            f"  broker cache {action} 'vault:secret/logflux#api_key'\n"
            f"  broker cache {action} 'vault:secret/team/**'\n"
            f"  broker cache {action} --everything"
        )


def run(arguments: argparse.Namespace) -> int:
    """Give the order, and print how many sources it was about."""
    if bool(arguments.references) == arguments.everything:
        print("broker: name patterns, or give --everything", file=sys.stderr)
        return 2
    order = {"everything": True} if arguments.everything else {"references": arguments.references}
    try:
        client = BrokerClient(settings=client_settings(arguments, os.environ), on_wait=say_waiting)
        answer = client.order(f"/v1/cache/{arguments.action}", order)
    except BrokerError as error:
        return say(error)
    count = answer.get("sources", 0)
    what = "forgotten" if arguments.action == "invalidate" else "to be read again"
    print(f"{count} source{'' if count == 1 else 's'} {what}")
    return 0
