"""`broker exec --watch`: a signal at a bad moment."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from broker.agent.answer import Answer
from broker.agent.supervise import ChangeWatcher, Reaction, Supervisor
from tests.waiting import wait_until


class NoNews(ChangeWatcher):
    def __init__(self) -> None:
        super().__init__(connect=lambda: pytest.fail("nothing changes here"), answers=(), texts=())

    def run(self) -> None:
        """Follow nothing."""


class SignalledMeanwhile(Mapping[str, str]):
    """Is read just before the command is started, and this process gets a SIGTERM then."""

    def __iter__(self) -> Iterator[str]:
        signal.raise_signal(signal.SIGTERM)
        return iter(())

    def __getitem__(self, name: str) -> str:
        raise KeyError(name)

    def __len__(self) -> int:
        return 0


@pytest.fixture(autouse=True)
def signals_are_put_back() -> Iterator[None]:
    known = {number: signal.getsignal(number) for number in signal.valid_signals() if number not in {9, 19}}
    signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    for number, handler in known.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def supervisor(environment: Mapping[str, str]) -> Supervisor:
    return Supervisor(
        command=["sleep", "5"],
        environment=environment,
        reaction=Reaction(action="restart", splay_seconds=0, grace_seconds=1),
        watcher=NoNews(),
        resolve=lambda: pytest.fail("nothing changes here"),
    )


class News(NoNews):
    def hold(self, answers: Sequence[Answer]) -> None:
        """Hold nothing: there is always another change."""
        self.changed.set()


class OneChange(NoNews):
    def run(self) -> None:
        """Tell of one change."""
        self.changed.set()


def test_only_other_values_restart_the_command(tmp_path: Path) -> None:
    seen, values = tmp_path / "seen", ["old", "old", "new"]

    def resolve() -> tuple[Mapping[str, str], Sequence[Answer]]:
        wait_until(seen.exists)
        return {**os.environ, "V": values.pop(0) if len(values) > 1 else values[0]}, ()

    it = Supervisor(
        command=["sh", "-c", f'echo "$V" >> {seen}; test "$V" = new || exec sleep 60'],
        environment={**os.environ, "V": "old"},
        reaction=Reaction(action="restart", splay_seconds=0, grace_seconds=1),
        watcher=News(),
        resolve=resolve,
    )
    assert it.run() == 0
    assert seen.read_text().split() == ["old", "new"]


def test_a_random_part_of_the_splay_passes_before_the_command_is_restarted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[tuple[float, float]] = []

    def draw(least: float, most: float) -> float:
        drawn.append((least, most))
        return 0.0

    monkeypatch.setattr("random.uniform", draw)
    seen = tmp_path / "seen"

    def resolve() -> tuple[Mapping[str, str], Sequence[Answer]]:
        assert drawn == [(0, 30.0)], "before the new values are asked for, so that they are not old then"
        wait_until(seen.exists)
        return {**os.environ, "V": "new"}, ()

    it = Supervisor(
        command=["sh", "-c", f'echo "$V" >> {seen}; test "$V" = new || exec sleep 60'],
        environment={**os.environ, "V": "old"},
        reaction=Reaction(action="restart", splay_seconds=30.0, grace_seconds=1),
        watcher=OneChange(),
        resolve=resolve,
    )
    assert it.run() == 0
    assert seen.read_text().split() == ["old", "new"]


def test_a_signal_while_the_command_is_started_ends_it_too() -> None:
    assert supervisor(SignalledMeanwhile()).run() == 128 + signal.SIGTERM
