import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from broker import logs
from broker.logs import EventLogger, Field, configure, error_fields, report_loop_error

ATTACKS = {
    "newline": "a\nb",
    "carriage return": "a\r\nb",
    "ansi": "a\x1b[31mb",
    "c1 csi": "a\x9b31mb",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "next line": "a\x85b",
    "bidi": "a\u202eb",
    "zero width": "a\u200bb",
    "lone surrogate": "a\ud800b",
    "nul": "a\x00b",
    "tag": "a\U000e0041b",
    "byte order mark": "a\ufeffb",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    switches = ("logThreads", "logProcesses", "logMultiprocessing")
    before = {name: getattr(logging, name) for name in switches}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in before.items():
        setattr(logging, name, value)


def fail(error: Exception) -> None:
    raise error


def line_of(event: str, *, form: logs.Format = "json", **fields: Field) -> str:
    stream = io.StringIO()
    configure(level="debug", form=form, stream=stream)
    EventLogger("broker.test").info(event, **fields)
    return stream.getvalue()


def test_a_line_has_time_level_logger_event_and_its_fields_in_this_order() -> None:
    line = json.loads(line_of("policy_in_force", rules=3, digest="ab", ratio=0.5, statuses={"ok": 2}, none=None))
    assert list(line) == ["time", "level", "logger", "event", "rules", "digest", "ratio", "statuses", "none"]
    assert (line["level"], line["logger"], line["event"]) == ("info", "broker.test", "policy_in_force")
    assert (line["rules"], line["statuses"], line["none"]) == (3, {"ok": 2}, None)


def test_the_time_is_rfc_3339_in_utc() -> None:
    text = json.loads(line_of("x"))["time"]
    assert text.endswith("Z")
    moment = datetime.fromisoformat(text)
    assert abs(datetime.now(moment.tzinfo) - moment) < timedelta(minutes=1)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_ends_a_line_or_moves_what_is_shown(form: logs.Format, attack: str) -> None:
    shown = line_of("request", form=form, identity=attack, statuses={attack: 1}, references=[attack, attack])
    body = shown.removesuffix("\n")
    assert body.isprintable()
    assert len(body.splitlines()) == 1
    if form == "json":
        # Whoever decodes the line and prints a field is safe as well.
        line = json.loads(body)
        assert all(text.isprintable() for text in (line["identity"], *line["statuses"], *line["references"]))


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_line_of_a_library_is_escaped_and_says_its_first_line_alone(form: logs.Format) -> None:
    stream = io.StringIO()
    configure(level="debug", form=form, stream=stream)
    try:
        fail(ValueError("geheim"))
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error from %s\nfuture=geheim", "\x1b[2J\u2028")
    shown = stream.getvalue()
    assert shown.count("\n") == 1
    assert shown.removesuffix("\n").isprintable()
    assert "geheim" not in shown
    assert "ValueError" in shown
    assert "test_logs.py:" in shown


def test_a_field_can_not_take_the_place_of_what_every_line_has() -> None:
    line = json.loads(line_of("real", time="then", level="none", logger="other"))
    assert line["level"] == "info"
    assert line["logger"] == "broker.test"
    assert line["time"] != "then"


def test_a_word_of_the_readable_form_can_not_pass_for_two() -> None:
    shown = line_of("request", form="text", identity="x outcome=ok", route="/v1/resolve", statuses={})
    assert shown.endswith('broker.test: request identity="x outcome=ok" route=/v1/resolve statuses=none\n')


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        configure(level="info", form="auto", stream=stream)
        EventLogger("broker.test").info("serving")
    assert terminal.getvalue().endswith("info    broker.test: serving\n")
    assert json.loads(pipe.getvalue())["event"] == "serving"


def test_a_line_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    configure(level="warning", form="json", stream=stream)
    log = EventLogger("broker.test")
    log.debug("x")
    log.info("x")
    log.warning("shown")
    log.error("shown")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["shown", "shown"]
    assert not log.shows(logging.INFO)


def test_an_output_that_knows_no_unicode_takes_every_line() -> None:
    raw = io.BytesIO()
    configure(level="info", form="json", stream=io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    EventLogger("broker.test").info("x", identity="Müller 鍵")
    assert json.loads(raw.getvalue())["identity"] == "Müller 鍵"


def test_an_exception_is_told_by_type_and_place_alone() -> None:
    try:
        fail(RuntimeError("geheim"))
    except RuntimeError as error:
        told = error_fields(error)
    assert told["error"] == "RuntimeError"
    assert told["at"].startswith("test_logs.py:")
    assert error_fields(KeyError("geheim")) == {"error": "KeyError", "at": "unknown"}


def test_an_error_of_the_event_loop_is_told_without_the_objects_in_it() -> None:
    stream = io.StringIO()
    configure(level="info", form="json", stream=stream)
    report_loop_error(
        None, {"message": "Exception in callback <Handle f('geheim')>", "exception": ValueError("geheim")}
    )
    report_loop_error(None, {"message": "Task was destroyed but it is pending!", "task": "geheim"})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["Exception in callback", "Task was destroyed but it is pending!"]
    assert lines[0]["error"] == "ValueError"
    assert "geheim" not in stream.getvalue()
