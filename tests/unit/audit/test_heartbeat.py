"""A checkpoint that a running broker must have signed and that is not there is a finding."""

import pytest

from broker.audit.heartbeat import Beat, Heartbeat, silences

MINUTE = 60_000


def beat(number: int, *, size: int | None = None, uptime_ms: int | None = None, run: str = "ab" * 8) -> Beat:
    uptime = (number - 1) * MINUTE if uptime_ms is None else uptime_ms
    heartbeat = Heartbeat(run=run, number=number, uptime_ms=uptime, interval_ms=MINUTE)
    return Beat(number * 10 if size is None else size, heartbeat)


def found(*beats: Beat, outages: tuple[int, ...] = ()) -> list[int]:
    return [silence.size for silence in silences(beats, outages=outages)]


def test_a_whole_run_has_no_silence() -> None:
    assert found(*(beat(number) for number in range(1, 8))) == []


@pytest.mark.parametrize("removed", [2, 3, 6])
def test_each_missing_number_is_found_where_it_belongs(removed: int) -> None:
    assert found(*(beat(number) for number in range(1, 8) if number != removed)) == [(removed - 1) * 10]


def test_the_missing_first_ones_are_found() -> None:
    (silence,) = silences([beat(3), beat(4)], outages=())
    assert silence.size == 30
    assert silence.detail.startswith("2 checkpoints are missing before it")


def test_the_time_between_two_runs_is_no_silence() -> None:
    assert found(beat(1), beat(2), beat(1, size=21, run="cd" * 8), beat(2, size=30, run="cd" * 8)) == []


def test_a_broker_that_was_kept_from_signing_is_found_whatever_its_wall_clock_says() -> None:
    late = beat(2, uptime_ms=MINUTE * 3 // 2 + 15_001)
    assert found(beat(1), late) == [10]
    assert found(beat(1), beat(2, uptime_ms=MINUTE * 3 // 2 + 15_000)) == []


def test_a_silence_that_the_trail_explains_is_none() -> None:
    late = beat(2, uptime_ms=10 * MINUTE)
    assert found(beat(1), late, outages=(15,)) == []
    assert found(beat(1), late, outages=(10,)) == [10]
    assert found(beat(1), late, outages=(21,)) == [10]


def test_one_number_kept_twice_after_an_answer_that_got_lost_is_no_silence() -> None:
    assert found(beat(1), beat(2), beat(2, size=25, uptime_ms=MINUTE + 15_000), beat(3)) == []


def test_a_beat_is_read_back_from_its_line() -> None:
    heartbeat = beat(7).heartbeat
    assert Heartbeat.parse(heartbeat.text) == heartbeat


@pytest.mark.parametrize(
    "text", ["", "ab", "ab 1 2", "ab 1 2 x", "ab 1 2 3 4", "ab -1 2 3", "ab 1 2 \N{SUPERSCRIPT TWO}"]
)
def test_a_line_that_is_no_beat_is_none(text: str) -> None:
    assert Heartbeat.parse(text) is None
