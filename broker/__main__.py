"""Run one verb of the command line."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

from broker.errors import (
    AuditUnavailableError,
    BrokerError,
    DocumentInvalidError,
    FetchError,
    SettingsInvalidError,
    SourceUnavailableError,
    StateUnavailableError,
)
from broker.verbs import VERBS, parser_of

EXIT_NO: Final = 1
EXIT_BAD_INPUT: Final = 3
EXIT_UNAVAILABLE: Final = 4
EXIT_INTERRUPTED: Final = 130


def exit_status(error: BrokerError) -> int:
    """Return the documented exit status of an error that ended a command."""
    match error:
        case DocumentInvalidError() | SettingsInvalidError():
            return EXIT_BAD_INPUT
        case SourceUnavailableError() | AuditUnavailableError() | StateUnavailableError():
            return EXIT_UNAVAILABLE
        case FetchError():
            return EXIT_NO
        case _:
            return EXIT_BAD_INPUT


def message_of(error: BrokerError) -> str:
    """Return the one line that stderr gets: the stable code, where it is, what is wrong."""
    where = (
        f"line {error.line}, column {error.column}: " if isinstance(error, DocumentInvalidError) and error.line else ""
    )
    return f"broker: error[{error.code}]: {where}{error.detail}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = next((word for word in arguments if not word.startswith("-")), None)
    known = {verb.name: verb for verb in VERBS}
    # Only the named verb is imported. A wrong or missing verb needs no module at all to be refused.
    parser = parser_of(VERBS, only=named if named in known else "")
    parsed = parser.parse_args(arguments)
    try:
        return int(importlib.import_module(known[parsed.verb].module).run(parsed))
    except BrokerError as error:
        print(message_of(error), file=sys.stderr)  # noqa: T201  A command tells its error on stderr.
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`), which is no error of ours.
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
