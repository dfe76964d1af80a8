"""The broker's own log: one event a line, with a name and fields, as JSON or for a reader at a terminal.

A line tells what happened by `event`, a slug that never changes, and everything else by fields. Nothing
from outside can end a line or move what a terminal shows: every text goes through `escape.clean`. An
exception is told by its type and its place alone, because its text and its frames may hold a value.
"""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO, TypeAlias

from broker.escape import clean

Field: TypeAlias = str | float | bool | Mapping[str, int] | list[str] | None
Format: TypeAlias = Literal["auto", "json", "text"]
# Escapes everything beyond ASCII, so that no locale of the output can make a line fail.
_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode


class EventLogger:
    """Write events with fields; its place among the loggers is `broker.<name>`."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        """Write as `name`."""
        self._logger = logging.getLogger(name)

    def shows(self, level: int) -> bool:
        """Tell whether a line of `level` would be written; ask before making what only the line needs."""
        return self._logger.isEnabledFor(level)

    def debug(self, event: str, /, **fields: Field) -> None:
        """Write what helps to find a fault."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Field) -> None:
        """Write what happened as it should."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Field) -> None:
        """Write what somebody should look at."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Field) -> None:
        """Write what does not work."""
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Field]) -> None:
        if self._logger.isEnabledFor(level):
            # Made here and not by `Logger.log`, which walks the stack for a file and a line that no format shows.
            self._logger.handle(EventRecord(self._logger.name, level, event, fields))


class EventRecord(logging.LogRecord):
    """One event, as handlers see it; a foreign handler gets `event name=value` as the message."""

    def __init__(self, name: str, level: int, event: str, fields: Mapping[str, Field]) -> None:
        """Keep the fields as they are; they are cleaned when the line is made."""
        super().__init__(name, level, "", 0, event, None, None)
        self.fields = fields

    def getMessage(self) -> str:  # noqa: N802  The standard library's name.
        """Return the event and its fields as text."""
        return _readable(str(self.msg), self.fields)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event, fields = _content(record)
        line = {"time": _time_of(record), "level": _level_of(record), "logger": record.name, "event": event}
        for name, value in fields.items():
            # What every line has can't be spoofed by a field of the same name.
            line.setdefault(name, _cleaned(value))
        return _ENCODE(line)


class TextFormatter(logging.Formatter):
    """The same for a reader: time, level, logger, event, `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event, fields = _content(record)
        return f"{_time_of(record)} {_level_of(record):7} {record.name}: {_readable(event, fields)}"


def configure(*, level: str, form: Format, stream: TextIO) -> None:
    """Send every line of this process to `stream`; `auto` is text on a terminal and JSON elsewhere."""
    text = stream.isatty() if form == "auto" else form == "text"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The thread and the process of a record are found at a cost and shown by neither format.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def set_level(level: str) -> None:
    """Show lines of `level` and worse from now on."""
    logging.getLogger().setLevel(level.upper())


def error_fields(error: BaseException) -> dict[str, str]:
    """Return the type and the innermost place of `error`: all that may be told of an exception that is not ours."""
    trace = error.__traceback__
    place = "unknown"
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return {"error": type(error).__name__, "at": place}


def report_loop_error(_loop: object, context: Mapping[str, Any]) -> None:
    """Log what nobody awaited or caught on the event loop, without the objects in which asyncio shows values."""
    error = context.get("exception")
    fields = error_fields(error) if isinstance(error, BaseException) else {}
    # asyncio's text ends where it shows the object: "Exception in callback <repr>".
    message = str(context.get("message", "")).partition("<")[0].partition("(")[0].strip()
    EventLogger("broker.loop").error("loop_error", message=message, **fields)


def _content(record: logging.LogRecord) -> tuple[str, Mapping[str, Field]]:
    if isinstance(record, EventRecord):
        return str(record.msg), record.fields
    # A line of somebody else's: libraries put texts of exceptions and whole objects behind the first line.
    message = record.getMessage().partition("\n")[0]
    error = record.exc_info[1] if record.exc_info else None
    return "library", {"message": message, **(error_fields(error) if error is not None else {})}


def _time_of(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"


def _level_of(record: logging.LogRecord) -> str:
    return record.levelname.lower()


def _cleaned(value: Field) -> Any:  # noqa: ANN401  Whatever JSON can write.
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(name): number for name, number in value.items()}
    if isinstance(value, list):
        return [clean(text) for text in value]
    return value


def _readable(event: str, fields: Mapping[str, Field]) -> str:
    return " ".join([event, *(f"{name}={_word(value)}" for name, value in fields.items())])


def _word(value: Field) -> str:
    """Return one value of a line for readers; a text that could pass for more than one word is quoted."""
    if isinstance(value, str):
        text = clean(value)
        return text if text and not any(sign in text for sign in ' "=') else json.dumps(text, ensure_ascii=False)
    if isinstance(value, Mapping):
        return ",".join(f"{clean(name)}:{number}" for name, number in value.items()) or "none"
    if isinstance(value, list):
        return json.dumps([clean(text) for text in value], ensure_ascii=False)
    return str(value)
