"""`broker get`: print the value of a reference, or write it to a file."""

import argparse
import base64
import os
import sys
from collections.abc import Sequence

from broker import written_json
from broker.agent.answer import Answer
from broker.agent.client import BrokerClient
from broker.agent.refusal import say, say_refused, say_waiting
from broker.agent.secret_file import add_output_arguments, write_secret_file
from broker.agent.settings import ClientSettingsError, add_client_arguments, client_settings
from broker.errors import BrokerError, MalformedReferenceError
from broker.grammar import PREVIOUS, VAULT
from broker.reference import parse, spell
from broker.secret import Encoding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "references", nargs="+", metavar="REFERENCE", help="${NAME}, /abs/path or vault:mount/path#field"
    )
    parser.add_argument(
        "--previous",
        action="store_true",
        help="the version before the current one, as ?version=previous, for who takes both during a rotation",
    )
    parser.add_argument(
        "--require", choices=["all", "any"], default="all", help="all: one refused reference refuses all (default)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object, reference to value; binary values as base64"
    )
    add_output_arguments(parser)
    add_client_arguments(parser)
    parser.epilog = (
        "One reference prints its value alone, byte for byte; several print a JSON object.\n"
        "Put references in single quotes: a shell takes $ and # for its own.\n\n"
        "exit status: 0 done, 1 refused, 2 wrong command line, 4 broker or source away\n\n"
        "examples:\n"
        "  broker get 'vault:secret/logflux#api_key'\n"
        "  broker get --json '${LOGFLUX_PAT}' /var/secrets/logflux/tls_key\n"
        "  broker get --output /run/secrets/api_key 'vault:secret/logflux#api_key'\n"
        "  broker get --previous 'vault:secret/logflux#api_key'"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print or write what the broker gives."""
    try:
        references = [_read(text, number) for number, text in enumerate(arguments.references, start=1)]
        if arguments.previous:
            references = [_previous(text) for text in references]
        client = BrokerClient(settings=client_settings(arguments, os.environ), on_wait=say_waiting)
        answers = client.resolve(references, require=arguments.require)
    except BrokerError as error:
        return say(error)
    text = _text(answers, as_json=arguments.json)
    if arguments.output is None:
        _print(text)
        return say_refused(answers)
    status = say_refused(answers)
    # A file with a part of what was asked for would look complete to its reader.
    if status:
        return status
    try:
        write_secret_file(arguments.output, text, mode=int(arguments.mode, 8))
    except BrokerError as error:
        return say(error)
    return 0


def _read(text: str, number: int) -> str:
    """Return the text of argument `number` when it is a reference.

    What is none may be a value that a shell put in, so it is neither sent nor printed.

    Raises:
        ClientSettingsError: It is none.

    """
    try:
        parse(text)
    except MalformedReferenceError as error:
        message = f"REFERENCE {number}, at character {error.position + 1}: {error.detail}"
        raise ClientSettingsError(message) from None
    return text


def _previous(text: str) -> str:
    """Return the reference to the version before the one that `text` names.

    Raises:
        ClientSettingsError: It names none that has a version before.

    """
    reference = parse(text)
    if reference.source.scheme != VAULT:
        message = "--previous: files and variables keep no versions; ask for a vault: reference"
        raise ClientSettingsError(message)
    if reference.source.version is not None:
        message = "--previous: the reference names a version already; leave out its ?version, or --previous"
        raise ClientSettingsError(message)
    return spell(reference.source._replace(version=PREVIOUS), reference.pointer, reference.decode)


def _text(answers: Sequence[Answer], *, as_json: bool) -> bytes:
    if as_json or len(answers) > 1:
        values = {answer.reference: _json_value(answer) for answer in answers if answer.value}
        return written_json.spell(values).encode() + b"\n"
    return answers[0].value.reveal() if answers[0].value is not None else b""


def _print(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    if text and sys.stdout.isatty() and not text.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _json_value(answer: Answer) -> object:
    if answer.value is None:
        return None
    match answer.value.encoding:
        case Encoding.TEXT:
            return answer.value.reveal().decode("utf-8")
        case Encoding.JSON:
            return written_json.read(answer.value.reveal())
        case Encoding.BASE64:
            return base64.b64encode(answer.value.reveal()).decode("ascii")
