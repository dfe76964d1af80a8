"""`broker exec`: run a command with secrets in its environment, never on its command line."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from broker.agent.answer import Answer
from broker.agent.client import BrokerClient, ClientSettingsError, add_client_arguments, client_settings
from broker.agent.refusal import say
from broker.agent.supervise import RESTART, SIGNALS, ChangeWatcher, Reaction, Supervisor
from broker.errors import BrokerError, MalformedReferenceError
from broker.reference import parse

EXIT_OWN_ERROR: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
_OWN_VARIABLES: Final = ("LOGFLUX_BROKER_URL", "LOGFLUX_BROKER_CA", "LOGFLUX_AGENT_CERT", "LOGFLUX_AGENT_KEY")
_SCHEMES: Final = ("vault:", "bao:", "env:", "file:")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=REFERENCE",
        help="a variable of the command; may be repeated",
    )
    parser.add_argument(
        "--from-environment",
        action="store_true",
        help="also resolve every variable whose whole value is a vault:, bao:, env: or file: reference",
    )
    parser.add_argument(
        "--watch", action="store_true", help="stay, and restart or signal the command when one of its secrets changes"
    )
    parser.add_argument(
        "--on-change",
        choices=(RESTART, *SIGNALS),
        default=RESTART,
        help="with --watch: restart the command with the new values, or send it a signal (%(default)s)",
    )
    parser.add_argument(
        "--splay",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="with --watch: a random part of it passes before, so that a fleet does not act together (%(default)g)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="with --watch: time between SIGTERM and SIGKILL of a restart (%(default)g)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")
    add_client_arguments(parser)
    parser.epilog = (
        "The command takes this process's place, so it gets every signal and its exit status is this one's.\n"
        "With --watch it is a child: signals are passed on, and its end is this process's end.\n"
        "exit status: the command's; 125 no secrets, 126 the command can't be run, 127 there is no such command\n\n"
        "example:\n  broker exec --env API_KEY='vault:secret/logflux#api_key' -- ./shipper --config shipper.yaml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Become the command."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    try:
        wanted = wanted_variables(arguments, dict(os.environ))
        if not command:
            message = "no command; write it after --"
            raise ClientSettingsError(message)
        client = BrokerClient(settings=client_settings(arguments, os.environ))
        answers = client.resolve(list(wanted.values())) if wanted else ()
        environment = child_environment(dict(os.environ), dict(zip(wanted, answers, strict=True)))
    except BrokerError as error:
        say(error)
        return EXIT_OWN_ERROR
    sys.stdout.flush()
    try:
        if arguments.watch and wanted:
            return _supervised(arguments, command, wanted, environment, answers)
        os.execvpe(command[0], command, environment)  # noqa: S606  Running the caller's command is the purpose.
    except FileNotFoundError:
        print(f"broker: {command[0]}: no such command", file=sys.stderr)
        return EXIT_NOT_FOUND
    except OSError as error:
        print(f"broker: {command[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_NOT_EXECUTABLE


def _supervised(
    arguments: argparse.Namespace,
    command: list[str],
    wanted: dict[str, str],
    environment: dict[str, str],
    answers: Sequence[Answer],
) -> int:
    def connect() -> BrokerClient:
        # Made anew each time, so that a certificate that was renewed meanwhile is shown.
        return BrokerClient(settings=client_settings(arguments, os.environ))

    def resolve() -> tuple[dict[str, str], Sequence[Answer]]:
        current = connect().resolve(list(wanted.values()))
        return child_environment(dict(os.environ), dict(zip(wanted, current, strict=True))), current

    reaction = Reaction(
        action=arguments.on_change,
        splay_seconds=max(0.0, arguments.splay),
        grace_seconds=max(0.0, arguments.grace),
    )
    watcher = ChangeWatcher(connect=connect, answers=answers, texts=list(wanted.values()))
    return Supervisor(
        command=command, environment=environment, reaction=reaction, watcher=watcher, resolve=resolve
    ).run()


def wanted_variables(arguments: argparse.Namespace, environment: dict[str, str]) -> dict[str, str]:
    """Return the reference that each variable of the command is to get.

    Raises:
        ClientSettingsError: One is not written NAME=REFERENCE, or is no reference.

    """
    wanted = {}
    if arguments.from_environment:
        wanted = {name: value for name, value in environment.items() if value.startswith(_SCHEMES)}
    for pair in arguments.env:
        name, equals, reference = pair.partition("=")
        if not equals or not name:
            message = "--env takes NAME=REFERENCE"
            raise ClientSettingsError(message)
        wanted[name] = reference
    for name, reference in wanted.items():
        try:
            parse(reference)
        except MalformedReferenceError as error:
            message = f"{name}: at character {error.position + 1}: {error.detail}"
            raise ClientSettingsError(message) from None
    return wanted


def child_environment(environment: dict[str, str], answers: dict[str, Answer]) -> dict[str, str]:
    """Return the command's environment: ours, without what names this agent, and with the values.

    Raises:
        ClientSettingsError: A value can't be a variable: it holds a NUL or is not text.

    """
    child = {name: value for name, value in environment.items() if name not in _OWN_VARIABLES}
    for name, answer in answers.items():
        if answer.value is None:
            message = f"{name}: {answer.status}: {answer.detail}"
            raise ClientSettingsError(message)
        try:
            child[name] = answer.value.reveal().decode("utf-8")
        except UnicodeDecodeError:
            message = f"{name}: the value is binary, which no environment can hold; use a file"
            raise ClientSettingsError(message) from None
        if "\0" in child[name]:
            message = f"{name}: the value holds a NUL, which no environment can hold; use a file"
            raise ClientSettingsError(message)
    return child
