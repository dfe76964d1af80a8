"""`broker render`: fill the references of a configuration file, and print it or write it whole."""

import argparse
import os
import sys
from pathlib import Path

from broker.agent.client import BrokerClient
from broker.agent.configuration_file import mentions
from broker.agent.refusal import EXIT_BAD_FILE, say, say_waiting
from broker.agent.secret_file import add_output_arguments, write_secret_file
from broker.agent.settings import add_client_arguments, client_settings
from broker.agent.template import Template, TemplateInvalidError, parse_template
from broker.agent.text_file import read_argument
from broker.errors import BrokerError
from broker.secret import SecretValue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("template", type=Path, metavar="FILE", help="text with ${reference} in it; - is standard input")
    add_output_arguments(parser)
    parser.add_argument(
        "--keep-bare",
        action="store_true",
        help="leave references outside of ${ } as they are, for a program that asks the broker itself",
    )
    add_client_arguments(parser)
    parser.epilog = (
        "Between ${ and } stands a variable's name or a reference with its scheme; a literal ${ is written $${.\n"
        "Values are put in as they are: put quotes around ${ } where the file's format wants them.\n\n"
        "exit status: 0 done, 1 refused, 2 wrong command line, 3 the file is wrong, 4 broker or source away\n\n"
        "examples:\n"
        "  broker render shipper.yaml.in --output /run/shipper/shipper.yaml\n"
        "  broker render --mode 0440 --output /run/secrets/app.conf app.conf.in\n"
        "  broker lint shipper.yaml.in      # what is wrong with it, without a broker"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print or write the filled text."""
    try:
        template = _template(arguments.template, keep_bare=arguments.keep_bare)
    except BrokerError as error:
        say(error)
        return EXIT_BAD_FILE
    try:
        text = _filled(template, arguments)
        if arguments.output is None:
            sys.stdout.buffer.write(text.reveal())
            sys.stdout.buffer.flush()
        else:
            write_secret_file(arguments.output, text.reveal(), mode=int(arguments.mode, 8))
    except BrokerError as error:
        return say(error)
    return 0


def _template(file: Path, *, keep_bare: bool) -> Template:
    """Return the template of `file`.

    Raises:
        TemplateInvalidError: It can't be read or filled; names file, line and column.

    """
    text = read_argument(file)
    for mention in () if keep_bare else mentions(text):
        # Left as it is, it would be taken for the secret by a program that knows no references.
        if mention.is_bare:
            message = (
                f"{file}:{mention.line}:{mention.column}: a reference outside of ${{ }} would stay as it is; "
                "write ${ before it and } after it, or give --keep-bare"
            )
            raise TemplateInvalidError(message)
    try:
        return parse_template(text)
    except TemplateInvalidError as error:
        message = f"{file}:{error.line}:{error.column}: {error.reason}"
        raise TemplateInvalidError(message) from None


def _filled(template: Template, arguments: argparse.Namespace) -> SecretValue:
    if not template.references:
        return template.fill({})
    client = BrokerClient(settings=client_settings(arguments, os.environ), on_wait=say_waiting)
    answers = client.resolve(template.references)
    values = zip(template.references, answers, strict=True)
    return template.fill({reference: answer.value for reference, answer in values if answer.value is not None})
