"""`broker exec`: run a command with secrets in its environment, never on its command line."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from broker.agent.answer import Answer
from broker.agent.client import BrokerClient
from broker.agent.environment_file import read_environment_file
from broker.agent.refusal import say, say_waiting
from broker.agent.settings import ClientSettingsError, add_client_arguments, client_settings, seconds
from broker.agent.supervise import RESTART, SIGNALS, ChangeWatcher, Reaction, Supervisor
from broker.agent.template import SCHEMES, Template, TemplateInvalidError, parse_template
from broker.errors import BrokerError, MalformedReferenceError
from broker.reference import parse

EXIT_OWN_ERROR: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
_OWN_VARIABLES: Final = ("LOGFLUX_BROKER_URL", "LOGFLUX_BROKER_CA", "LOGFLUX_AGENT_CERT", "LOGFLUX_AGENT_KEY")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="a variable of the command: a reference, or text with ${reference} in it; may be repeated",
    )
    parser.add_argument(
        "--env-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="lines of NAME=TEXT as for --env; --env counts over it; may be repeated",
    )
    parser.add_argument(
        "--from-environment",
        action="store_true",
        help="also resolve every variable whose whole value is a vault:, bao:, env: or file: reference",
    )
    _add_watch_arguments(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")
    add_client_arguments(parser)
    parser.epilog = (
        "The command takes this process's place, so it gets every signal and its exit status is this one's.\n"
        "With --watch it is a child: signals are passed on, and its end is this process's end.\n"
        "exit status: the command's; 125 no secrets, 126 the command can't be run, 127 there is no such command\n\n"
        "examples:\n  broker exec --env API_KEY='vault:secret/logflux#api_key' -- ./shipper --config shipper.yaml\n"
        "  broker exec --env 'DATABASE_URL=postgres://app:${vault:secret/db#password}@db/app' -- ./service"
    )


def _add_watch_arguments(parser: argparse.ArgumentParser) -> None:
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
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="with --watch: a random part of it passes before, so that a fleet does not act together (%(default)g)",
    )
    parser.add_argument(
        "--grace",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="with --watch: time between SIGTERM and SIGKILL of a restart (%(default)g)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Become the command."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    try:
        wanted = wanted_variables(arguments, dict(os.environ))
        if not command:
            message = "no command; write it after --"
            raise ClientSettingsError(message)
        client = BrokerClient(settings=client_settings(arguments, os.environ), on_wait=say_waiting)
        answers = client.resolve(references_of(wanted)) if references_of(wanted) else ()
        environment = child_environment(dict(os.environ), wanted, answers)
    except BrokerError as error:
        say(error)
        return EXIT_OWN_ERROR
    sys.stdout.flush()
    try:
        if arguments.watch and references_of(wanted):
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
    wanted: Mapping[str, Template],
    environment: dict[str, str],
    answers: Sequence[Answer],
) -> int:
    def connect() -> BrokerClient:
        # Made anew each time, so that a certificate that was renewed meanwhile is shown.
        return BrokerClient(settings=client_settings(arguments, os.environ), on_wait=say_waiting)

    def resolve() -> tuple[dict[str, str], Sequence[Answer]]:
        current = connect().resolve(references_of(wanted))
        return child_environment(dict(os.environ), wanted, current), current

    reaction = Reaction(
        action=arguments.on_change,
        splay_seconds=arguments.splay,
        grace_seconds=arguments.grace,
    )
    watcher = ChangeWatcher(connect=connect, answers=answers, texts=references_of(wanted))
    return Supervisor(
        command=command, environment=environment, reaction=reaction, watcher=watcher, resolve=resolve
    ).run()


def wanted_variables(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Template]:
    """Return the template of each variable that the command is to get.

    Raises:
        ClientSettingsError: One is not written NAME=TEXT, or looks like a reference and is none.
        TemplateInvalidError: A file of variables can't be used; names file and line.

    """
    wanted: dict[str, Template] = {}
    if arguments.from_environment:
        texts = {name: value for name, value in environment.items() if value.startswith(SCHEMES)}
        wanted = {name: _template(name, text) for name, text in texts.items()}
    for file in arguments.env_file:
        wanted.update(read_environment_file(file))
    for pair in arguments.env:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            message = "--env takes NAME=TEXT, where the text is a reference or holds ${reference}"
            raise ClientSettingsError(message)
        wanted[name] = _template(name, text)
    return wanted


def references_of(wanted: Mapping[str, Template]) -> list[str]:
    """Return every reference of the templates, each once."""
    return list(dict.fromkeys(reference for template in wanted.values() for reference in template.references))


def child_environment(
    environment: Mapping[str, str], wanted: Mapping[str, Template], answers: Sequence[Answer]
) -> dict[str, str]:
    """Return the command's environment: ours, without what names this agent, and with the filled templates.

    Args:
        environment: This process's own.
        wanted: A template for each variable.
        answers: One for each of `references_of(wanted)`, in that order.

    Raises:
        ClientSettingsError: There is no value, or it can't be a variable: it holds a NUL or is not text.

    """
    answered = dict(zip(references_of(wanted), answers, strict=True))
    child = {name: value for name, value in environment.items() if name not in _OWN_VARIABLES}
    for name, template in wanted.items():
        for answer in (answered[reference] for reference in template.references):
            if answer.value is None:
                message = f"{name}: {answer.status}: {answer.detail}"
                raise ClientSettingsError(message)
        child[name] = _filled(name, template, answered)
    return child


def _template(name: str, text: str) -> Template:
    """Return the template of a text that has to be a reference, or to hold one."""
    try:
        # A path may hold nearly everything, so `${` decides whether this is one reference or text around some.
        return parse_template(text) if "${" in text else Template((parse(text),))
    except MalformedReferenceError as error:
        message = f"{name}: at character {error.position + 1}: {error.detail}"
    except TemplateInvalidError as error:
        message = f"{name}: at character {error.column}: {error.reason}"
    raise ClientSettingsError(message)


def _filled(name: str, template: Template, answered: Mapping[str, Answer]) -> str:
    values = {reference: answer.value for reference, answer in answered.items() if answer.value is not None}
    try:
        text = template.fill(values).reveal().decode("utf-8")
    except (TemplateInvalidError, UnicodeDecodeError):
        message = f"{name}: the value is binary, which no environment can hold; use a file"
        raise ClientSettingsError(message) from None
    if "\0" in text:
        message = f"{name}: the value holds a NUL, which no environment can hold; use a file"
        raise ClientSettingsError(message)
    return text
