"""`broker exec --watch`: a signal at a bad moment."""

import signal
from collections.abc import Iterator, Mapping

import pytest

from broker.agent.supervise import ChangeWatcher, Reaction, Supervisor


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


def test_a_signal_while_the_command_is_started_ends_it_too() -> None:
    assert supervisor(SignalledMeanwhile()).run() == 128 + signal.SIGTERM
