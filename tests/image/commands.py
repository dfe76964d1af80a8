"""Commands of the build and of the container: run to the end, loud when they fail."""

import subprocess
from collections.abc import Sequence
from pathlib import Path


class CommandError(Exception):
    """A command ended with another status than 0."""


def run(command: Sequence[str | Path], *, seconds: float = 300, umask: int = 0o022) -> str:
    """Return what `command` printed.

    Raises:
        CommandError: It ended with another status than 0; the text has its last words.

    """
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        umask=umask,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-3000:]
        message = f"exit status {done.returncode} of: {' '.join(str(word) for word in command)}\n{said}"
        raise CommandError(message)
    return done.stdout
