"""`broker get`: print the value of a reference."""

import argparse
import base64
import json
import os
import sys

from broker.agent.client import Answer, BrokerClient, add_client_arguments, client_settings
from broker.agent.refusal import say, say_refused
from broker.errors import BrokerError
from broker.secret import Encoding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "references", nargs="+", metavar="REFERENCE", help="${NAME}, /abs/path or vault:mount/path#field"
    )
    parser.add_argument(
        "--require", choices=["all", "any"], default="all", help="all: one refused reference refuses all (default)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object, reference to value; binary values as base64"
    )
    add_client_arguments(parser)
    parser.epilog = (
        "One reference prints its value alone, byte for byte; several print a JSON object.\n\n"
        "exit status: 0 done, 1 refused, 2 wrong command line, 4 broker or source away\n\n"
        "examples:\n"
        "  broker get 'vault:secret/logflux#api_key'\n"
        "  broker get --json '${LOGFLUX_PAT}' /var/secrets/logflux/tls_key"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what the broker gives."""
    try:
        client = BrokerClient(settings=client_settings(arguments, os.environ))
        answers = client.resolve(arguments.references, require=arguments.require)
    except BrokerError as error:
        return say(error)
    if arguments.json or len(answers) > 1:
        print(
            json.dumps(
                {answer.reference: _json_value(answer) for answer in answers if answer.value}, ensure_ascii=False
            )
        )
    elif answers[0].value is not None:
        sys.stdout.buffer.write(answers[0].value.reveal())
        if sys.stdout.isatty():
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    return say_refused(answers)


def _json_value(answer: Answer) -> object:
    if answer.value is None:
        return None
    match answer.value.encoding:
        case Encoding.TEXT:
            return answer.value.reveal().decode("utf-8")
        case Encoding.JSON:
            return json.loads(answer.value.reveal())
        case Encoding.BASE64:
            return base64.b64encode(answer.value.reveal()).decode("ascii")
