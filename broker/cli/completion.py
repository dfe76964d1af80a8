"""`broker completion`: print the script that completes the commands in a shell."""

import argparse

import shtab

from broker.verbs import VERBS, parser_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell that is to complete")
    parser.epilog = "example:\n  broker completion bash > ~/.local/share/bash-completion/completions/broker"


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(shtab.complete(parser_of(VERBS), shell=arguments.shell))
    return 0
