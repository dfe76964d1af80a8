"""The verbs of the command line, in one literal table, each with the module that does it.

A module is imported only when its verb is asked for, so that the agent's verbs start without a single
third-party package.
"""

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

EPILOG: Final = """\
exit status:
  0  done, or the answer is yes
  1  the answer is no: denied, missing, tampered with
  2  the command line is wrong
  3  a file is wrong: settings, policy, key, certificate
  4  something that is needed does not answer: broker, store, audit database
  `broker exec` gives its child's status, and 125 for an error of its own

examples:
  broker dev                                        # try it: store, certificates, policy, all thrown away at the end
  broker serve --config /etc/logflux-broker/broker.yaml
  broker get 'vault:secret/logflux#api_key'
  broker exec --env API_KEY='vault:secret/logflux#api_key' -- ./shipper
  broker render shipper.yaml.in --output /run/shipper/shipper.yaml
  broker policy explain --policy p.yaml --identity spiffe://prod.example/shipper --reference env:LOGFLUX_PAT
  broker audit search --database audit.db --type auth --outcome failure --since 24h
"""


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: its name, one line about it, and the module that does it."""

    name: str
    help: str
    module: str


VERBS: Final = (
    Verb("get", "print the value of a reference", "broker.agent.get"),
    Verb("exec", "run a command with secrets in its environment", "broker.agent.exec"),
    Verb("render", "fill the references of a configuration file", "broker.agent.render"),
    Verb("lint", "find what is wrong with the references of configuration files", "broker.agent.lint"),
    Verb("cache", "tell the broker to forget, or to read again, what it remembers", "broker.agent.cache"),
    Verb("serve", "run the broker", "broker.cli.serve"),
    Verb("dev", "run a throw-away broker with a store, certificates and a sample policy", "broker.cli.dev"),
    Verb("demo", "show the whole path once, and clean up", "broker.cli.demo"),
    Verb("check-config", "find before the start what would fail after it", "broker.cli.check_config"),
    Verb("config", "show the settings in effect, and what set each of them", "broker.cli.config"),
    Verb("health", "ask the broker of this machine whether it is ready", "broker.cli.health"),
    Verb("pki", "make certificates for development and small set-ups", "broker.cli.pki"),
    Verb("policy", "check, test or review a policy, or explain a decision", "broker.cli.policy"),
    Verb("audit", "search and verify the audit trail", "broker.cli.audit"),
    Verb(
        "leases", "list the credentials that stores have made for identities, and take them back", "broker.cli.leases"
    ),
    Verb("version", "print the version, and what it was built from and runs on", "broker.cli.version"),
    Verb("completion", "print the completion script for a shell", "broker.cli.completion"),
)


def parser_of(verbs: Sequence[Verb], *, only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `verbs`; the arguments of `only` alone are built when it is given."""
    parser = argparse.ArgumentParser(
        prog="broker",
        description="Resolve references to secrets for agents, by policy, audited before a value leaves.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"broker {version('logflux-broker')}")
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for verb in verbs:
        command = commands.add_parser(
            verb.name, help=verb.help, description=verb.help, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if only in (None, verb.name):
            importlib.import_module(verb.module).add_arguments(command)
    return parser
