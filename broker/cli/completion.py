"""`broker completion`: print the script that completes the commands in a shell."""

import argparse

import shtab

from broker.verbs import VERBS, parser_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh"], help="the shell that is to complete")
    parser.epilog = (
        "examples:\n"
        "  broker completion bash > ~/.local/share/bash-completion/completions/broker\n"
        "  broker completion zsh > ~/.zfunc/_broker       # a directory of $fpath\n"
        "  broker completion fish > ~/.config/fish/completions/broker.fish"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    parser = parser_of(VERBS)
    _complete_files(parser)
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let every argument that names a file or a directory be completed as one."""
    for action in parser._actions:  # noqa: SLF001  argparse shows its actions nowhere else.
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  As above.
            for command in action.choices.values():
                _complete_files(command)
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # It is shtab's own attribute.
        elif action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # As above.
